"""Ablations: statistics, sentences and resuming, without training."""

import json
import math

import pytest

import coatnet_tf
from experiments import workdir
from experiments.ablation import runs
from experiments.ablation.statistics import conclude, summarise
from experiments.ablation.studies import STUDIES
from experiments.model_config import make_model_config
from experiments.recipes import base, small_ablations

VARIANTS = [(study, variant) for study in STUDIES for variant in STUDIES[study].variants]


@pytest.mark.parametrize("study, variant", VARIANTS)
def test_every_variant_is_a_network_of_its_own(study, variant):
    config = small_ablations.get_config(f"{study},{variant},2000")
    model = make_model_config(config.model)
    model.check_input_shape((28, 28, 1))
    assert config.dataset.train_split.split("+") == ["train[:2000]"] * small_ablations.PASSES_AN_EPOCH
    first = next(iter(STUDIES[study].variants))
    same = make_model_config(small_ablations.get_config(f"{study},{first}").model)
    assert (model == same) == (variant == first)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("layouts,V1", "small_ablations.py has no study 'layouts'; it has relative_attention, layout, head_size"),
        ("layout,V3", "layout has no variant 'V3'; it has V0, V1, V2"),
        ("layout,V1,many", "'many' is no number of training images"),
    ],
)
def test_unknown_variants_are_refused(variant, message):
    with pytest.raises(base.RecipeError, match=message):
        small_ablations.get_config(variant)


def test_published_numbers_are_of_the_variants():
    for study in STUDIES.values():
        assert {study.larger[0], *study.larger[1], *study.published} <= set(study.variants)


def test_statistics_of_a_textbook_case():
    """Differences of 1, 2 and 3: t = 2 / (1 / sqrt(3)) = 3.46 with two degrees of freedom, p = 0.0742."""
    first, second = summarise({"a": [80.0, 81.0, 82.0], "b": [81.0, 83.0, 85.0]})
    assert first.p_value is None
    assert second.p_value == pytest.approx(0.0742, abs=1e-4)
    assert (first.mean, first.deviation) == pytest.approx((81.0, 1.0))
    assert first.half_interval == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)


def test_one_seed_has_no_interval():
    (_, second) = summarise({"with": [80.0], "without": [79.0]})
    assert second.p_value is None and math.isnan(second.half_interval)
    assert "one seed says nothing" in conclude(
        STUDIES["relative_attention"], summarise({"with": [80.0], "without": [79.0]})
    )


@pytest.mark.parametrize(
    "without, words",
    [
        ([79.0, 79.1, 78.9, 79.0], "with is +1.02 points from without, as in the paper (p < 0.001"),
        ([81.0, 81.1, 80.9, 81.0], "with is -0.98 points from without, against the paper (p < 0.001"),
        ([81.0, 79.0, 80.5, 79.4], "which may be chance"),
    ],
)
def test_whatever_comes_out_is_said(without, words):
    summaries = summarise({"with": [80.0, 80.1, 80.0, 80.0], "without": without})
    assert words in conclude(STUDIES["relative_attention"], summaries)


def test_finished_runs_are_read_and_missing_ones_made(tmp_path):
    made = []

    def train_one(study, variant, seed, images, folder, overrides):
        if not (folder / workdir.MODEL).is_file():
            made.append((variant, seed))
            if len(made) == 3:
                raise RuntimeError("stopped")
            folder.mkdir(parents=True)
            (folder / workdir.MODEL).touch()
            accuracy = 0.8 + 0.01 * seed - (0.02 + 0.001 * seed if variant == "without" else 0)
            (folder / workdir.METRICS).write_text(json.dumps({"step": 1, "eval_accuracy": accuracy}) + "\n")
        return runs.train(study, variant, seed, images, folder, overrides)

    arguments = ("relative_attention", 3, 1000, tmp_path)
    with pytest.raises(RuntimeError, match="stopped"):
        runs.run(*arguments, train_one=train_one)
    text = runs.run(*arguments, train_one=train_one)
    assert made == [("with", 0), ("without", 0), ("with", 1), ("with", 1), ("without", 1), ("with", 2), ("without", 2)]
    folder = tmp_path / "1000" / "relative_attention"
    assert (tmp_path / "1000" / "paper" / "seed2").is_dir() and (folder / "without" / "seed2").is_dir()
    assert (folder / "study.md").read_text() == text
    assert (folder / "study.png").stat().st_size > 5000
    assert "| with | 81.00 | 1.00 |" in text and "| without | 78.90 | 0.90 |" in text
    assert "with is +2.10 points from without, as in the paper" in text
    assert text.split("| without |")[1].split("|")[3].strip() == "< 0.001"  # p


def test_studies_share_the_papers_network_and_refuse_other_overrides(tmp_path):
    trained = []

    def train_one(study, variant, seed, images, folder, overrides):
        trained.append(str(folder.relative_to(tmp_path)))
        return 80.0 + len(trained)

    runs.run("head_size", 1, 1000, tmp_path, train_one=train_one)
    runs.run("norm", 1, 1000, tmp_path, train_one=train_one)
    runs.run("norm", 1, 2000, tmp_path, ["--config.epochs=1"], train_one)
    assert trained == [
        *("1000/paper/seed0", "1000/head_size/32/seed0"),
        *("1000/paper/seed0", "1000/norm/layer_norm/seed0"),
        *("2000/paper/seed0", "2000/norm/layer_norm/seed0"),
    ]
    with pytest.raises(RuntimeError, match="were trained with --config.epochs=1, not with none: give the same"):
        runs.run("stages", 1, 2000, tmp_path, train_one=train_one)


def test_the_first_variant_is_one_network():
    assert all(next(iter(study.variants.values())) == {} for study in STUDIES.values())


def test_vit_has_about_the_parameters_and_costs_of_the_papers_network():
    costs = [
        coatnet_tf.profile(
            make_model_config(small_ablations.get_config(f"stages,{variant}").model), (28, 28, 1), classes=10
        )
        for variant in ("C-C-T-T", "ViT")
    ]
    for count in ("params", "macs"):
        paper, vit = (getattr(cost, count) for cost in costs)
        assert vit == pytest.approx(paper, rel=0.05)


def test_a_failed_run_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="layout, V1, seed 4 ended with status .*train.log"):
        runs.train("layout", "V1", 4, 1000, tmp_path / "run", ["--config.no_such_field=1"])
    assert "no_such_field" in (tmp_path / "run" / "train.log").read_text()
