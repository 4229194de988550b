"""Plans: the paper's core-days, memory by hand and by the TPU's compiler, and what is refused."""

import json
import math
from pathlib import Path

import pytest

import coatnet_tf
from experiments.recipes import paper
from tools import plan_training
from tools.paper import compiled_steps, training_cost
from tools.paper.published import CORE_DAYS
from tools.paper.training_cost import COMPILERS_SHARE, GIB, count_memory


@pytest.mark.parametrize("model", ["coatnet-3", "coatnet-4", "coatnet-5"])
def test_core_days_of_table_5(model):
    """Two constants, three published numbers."""
    downsampling = "depthwise_conv" if model == "coatnet-3" else "expand_conv"
    config = coatnet_tf.get_config(model, downsampling=downsampling)
    assert training_cost.core_days(config, 14 * 300e6) == pytest.approx(CORE_DAYS[model], rel=0.05)


def test_epochs_on_jft_3b():
    """Table 5's core-days of -6 and -7 come to more epochs for the larger one."""
    epochs = [training_cost.implied_epochs(model) for model in ("coatnet-6", "coatnet-7")]
    assert epochs == pytest.approx([2.7, 4.8], abs=0.05)


def test_states_are_counted_by_the_byte():
    config = coatnet_tf.get_config("coatnet-0")
    report = coatnet_tf.profile(config)
    memory = count_memory(config, 224, half=True, averaged=True)
    assert memory.weights == 4 * (report.params + report.non_trainable_params)
    assert (memory.gradients, memory.moments, memory.averages, memory.cast) == tuple(
        factor * report.params for factor in (2, 8, 4, 2)
    )
    assert memory.image == round(2 * COMPILERS_SHARE * report.kept)
    full = count_memory(config, 224, half=False, fused=False)
    assert full.image == 4 * (report.total_activations + 3 * report.activated)
    assert (full.gradients, full.averages, full.cast) == (4 * report.params, 0, 0)


def test_activations_of_a_block_by_hand():
    """One MBConv at stride 1: norm; expansion, its norm and GELU; the same at the depthwise convolution; and so on."""
    config = coatnet_tf.make_config("one", (1, 1), (8, 8), "C", (1, 1))
    name, cost, shape = coatnet_tf.profile_layers(config, (4, 4, 3), classes=5)[1]
    assert (name, shape) == ("s1_block01", (4, 4, 8))
    width, inner = 4 * 4 * 8, 4 * 4 * 32
    gate = 32 + (2 + 2) + (32 + 32) + inner  # mean, hidden and its SiLU, gate and its sigmoid, product
    assert cost.total_activations == width + 3 * inner + 3 * inner + gate + width + width
    assert cost.activated == 2 * inner + 2 + 32
    assert cost.kept == 2 * inner + (2 + 32) + width  # what the convolutions and the gate's two layers give


def test_rematerialisation_keeps_the_inputs_and_one_block():
    config = coatnet_tf.get_config("coatnet-1")
    layers = coatnet_tf.profile_layers(config, (224, 224, 3))
    outputs = sum(math.prod(shape) for _, _, shape in layers)
    largest = max(cost.kept for _, cost, _ in layers)
    assert count_memory(config, 224).image_rematerialised == round(2 * COMPILERS_SHARE * (outputs + largest))


def test_the_largest_batch_fits_and_one_more_does_not():
    memory = count_memory(coatnet_tf.get_config("coatnet-3"), 224)
    batch = memory.largest_batch(16 * GIB, rematerialise=False)
    assert memory.states + batch * memory.image <= 0.9 * 16 * GIB < memory.states + (batch + 1) * memory.image


COMPILED = [
    file
    for file in sorted((Path(__file__).parents[2] / "docs" / "compiled").glob("coatnet*.json"))
    if json.loads(file.read_text())["strategy"] == "sharded"
]


@pytest.mark.parametrize("file", COMPILED, ids=lambda file: file.stem)
def test_memory_is_what_the_tpus_compiler_needs(file):
    row = json.loads(file.read_text())
    assert compiled_steps.counted_temporaries(row) == pytest.approx(row["temporary_gib"], rel=0.25)


def rows(lines):
    return dict(line.strip("| ").split(" | ", 1) for line in lines[3:])


def test_plan_of_a_recipe():
    config = paper.get_config("jft_pretrain,coatnet4")
    table = rows(plan_training.plan(config, "tpu_v3", 1024, price=2.0))
    steps = 14 * (300_000_000 // 4096)
    assert table["steps"].startswith(f"{steps:,} (14 epochs of 300,000,000 images")
    days = float(table["time in all"].split(" days")[0])
    assert days * 2048 == pytest.approx(CORE_DAYS["coatnet-4"], rel=0.05)
    assert float(table["price"].split(" at")[0].replace(",", "")) == pytest.approx(2 * 1024 * 24 * days, rel=0.02)


def test_another_utilisation_and_another_dataset():
    config = paper.get_config("imagenet1k_pretrain,coatnet0")
    slow, fast = (rows(plan_training.plan(config, "tpu_v4", 8, utilisation=share)) for share in (0.2, 0.4))
    seconds = [float(table["time per step"].split(" s")[0]) for table in (slow, fast)]
    assert seconds[0] == pytest.approx(2 * seconds[1], rel=0.02)
    assert "1,281,167 images" in slow["steps"]
    assert "of 10,000 images" in rows(plan_training.plan(config, "tpu_v4", 8, images=10_000))["steps"]


def test_averages_of_fine_tuning_are_counted():
    states = rows(plan_training.plan(paper.get_config("jft_finetune,coatnet4,512"), "h100", 8))
    params = coatnet_tf.profile("coatnet-4", (512, 512, 3)).params
    assert f"{4 * params / GIB:.2f} + {2 * params / GIB:.2f} GiB" in str(states)


def test_what_to_do_when_it_does_not_fit():
    lines = "\n".join(plan_training.fitting_models("tpu_v3", 4))
    assert "| coatnet-5 |" in lines and "data-parallel" in lines.split("coatnet-5")[1].split("\n")[0]
    assert "shard the states over 2 devices or more" in lines.split("coatnet-6")[1].split("\n")[0]
    large = paper.get_config("imagenet1k_pretrain,coatnet3")
    assert (
        "parts (config.accumulation_steps)" in rows(plan_training.plan(large, "tpu_v3", 4))["largest share that fits"]
    )
    large.model.name = "coatnet-7"
    large.model.head_size = 128
    assert "shard the states over 3 devices" in rows(plan_training.plan(large, "tpu_v3", 4))["largest share that fits"]


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(ValueError, match="A batch of 4096 images cannot be divided among 6 devices"):
        plan_training.plan(paper.get_config("imagenet1k_pretrain,coatnet0"), "tpu_v3", 3)
