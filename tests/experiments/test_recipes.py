"""Every recipe and model against Table 10 of the paper, transcribed here once more."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

import coatnet_tf
from experiments import checks, loop
from experiments.data import sources
from experiments.engine import connect
from experiments.model_config import make_model_config
from experiments.recipes import base, paper

# Epochs, batch, loss, smoothing, peak, minimum, warm-up steps and epochs, decay, weight decay, Mixup, EMA, crop
TABLE = {
    "imagenet1k_pretrain": (300, 4096, "softmax", 0.1, 1e-3, 1e-5, 10_000, 0, "cosine", 0.05, 0.8, 0.0, "center"),
    "imagenet1k_finetune": (30, 512, "softmax", 0.1, 5e-5, 5e-5, 0, 0, "constant", 1e-8, 0.8, 0.9999, "none"),
    "imagenet21k_pretrain": (90, 4096, "sigmoid", 1e-4, 1e-3, 1e-5, 0, 5, "linear", 0.01, 0.0, 0.0, "center"),
    "imagenet21k_finetune": (30, 1024, "softmax", 0.1, 5e-5, 5e-5, 0, 0, "constant", 1e-8, 0.0, 0.9999, "none"),
    "jft_pretrain": (14, 4096, "sigmoid", 1e-4, None, 1e-5, 20_000, 0, "linear", 0.01, 0.0, 0.0, "center"),
    "jft_finetune": (30, 512, "softmax", 0.1, 5e-5, 5e-5, 0, 0, "constant", 1e-8, 0.0, 0.9999, "none"),
}
# Models: stochastic depth, RandAugment (layers, magnitude)
MODELS = [
    *(("imagenet1k_pretrain", f"coatnet{i}", rate, (2, 15)) for i, rate in enumerate((0.2, 0.3, 0.5, 0.7))),
    *(("imagenet1k_finetune", f"coatnet{i}", rate, (2, 15)) for i, rate in enumerate((0.2, 0.3, 0.5))),
    ("imagenet1k_finetune", "coatnet3", 0.7, (2, 20)),
    *(
        (setting, f"coatnet{model}", rate, augmentation)
        for setting in ("imagenet21k_pretrain", "imagenet21k_finetune")
        for model, rate, augmentation in (
            ("2", 0.3, None),
            ("3", 0.5, None),
            ("4", 0.7, None),
            ("4_pt_ra", 0.7, (2, 5)),
            ("4_pt_ra_e150", 0.7, (2, 5)),
        )
    ),
    *(("jft_pretrain", f"coatnet{i}", rate, (2, 5)) for i, rate in ((3, 0.0), (4, 0.1), (5, 0.0), (6, 0.0), (7, 0.0))),
    *(("jft_finetune", f"coatnet{i}", rate, (2, 5)) for i, rate in ((3, 0.1), (4, 0.3), (5, 0.2), (6, 0.2), (7, 0.2))),
]
IDS = [f"{setting}-{model}" for setting, model, *_ in MODELS]


@pytest.mark.parametrize(("setting", "model", "drop_path_rate", "augmentation"), MODELS, ids=IDS)
def test_recipe_is_table_10(setting, model, drop_path_rate, augmentation):
    config = paper.get_config(f"{setting},{model}")
    epochs, batch, loss, smoothing, peak, minimum, steps, warm_epochs, decay, wd, mixup, ema, crop = TABLE[setting]
    if model.endswith("e150") and setting == "imagenet21k_pretrain":
        epochs = 150
    if setting == "jft_pretrain":
        peak = 1e-3 if model == "coatnet3" else 5e-4
    assert (config.epochs, config.batch_size, config.loss, config.label_smoothing) == (epochs, batch, loss, smoothing)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.min_learning_rate) == (peak, minimum)
    assert (optimizer.warmup_steps, optimizer.warmup_epochs, optimizer.decay) == (steps, warm_epochs, decay)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (wd, 1.0)
    assert (config.augment.mixup_alpha, config.ema_decay, config.eval_crop) == (mixup, ema, crop)
    found = (config.augment.randaugment_layers, config.augment.randaugment_magnitude)
    assert found == (augmentation or (0, 0))
    assert config.augment.randaugment_pixel_scale == 1
    assert (config.augment.crop, config.augment.flip) == ("inception", True)
    built = make_model_config(config.model)
    assert built.drop_path_rate == drop_path_rate
    dagger = setting in ("jft_pretrain", "jft_finetune") and model == "coatnet3"
    expected = coatnet_tf.get_config(f"coatnet-{model[7]}", downsampling="depthwise_conv" if dagger else "expand_conv")
    assert coatnet_tf.get_config(built, drop_path_rate=0.0) == expected
    assert config.image_size == {"finetune": 384, "pretrain": 224}[setting.rpartition("_")[2]] or (
        setting == "jft_finetune" and config.image_size == 512
    )


@pytest.mark.parametrize("setting", TABLE)
def test_learning_rate_curve(setting):
    """At the size of the real dataset: 0, the peak after the warm-up, the minimum at the end."""
    config = paper.get_config(setting + "," + next(model for s, model, *_ in MODELS if s == setting))
    images = {"imagenet1k_pretrain": 1_281_167, "imagenet21k_pretrain": 13_000_000, "jft_pretrain": 300_000_000}
    per_epoch = images.get(setting, 1_281_167) // config.batch_size
    total = config.epochs * per_epoch
    schedule = loop.optimization.make_schedule(config.optimizer, total, per_epoch)
    warmup = config.optimizer.warmup_steps or config.optimizer.warmup_epochs * per_epoch
    curve = np.array([float(schedule(step)) for step in np.linspace(0, total, 50)])
    assert float(schedule(warmup)) == pytest.approx(config.optimizer.learning_rate)
    assert curve[-1] == pytest.approx(config.optimizer.min_learning_rate, rel=1e-4)
    assert curve[0] == (0 if warmup else pytest.approx(config.optimizer.learning_rate))
    after = curve[math.ceil(50 * warmup / total) :]
    assert (np.diff(after) <= 1e-12).all()
    if config.optimizer.decay == "linear":
        halfway = warmup + (total - warmup) // 2
        middle = (config.optimizer.learning_rate + config.optimizer.min_learning_rate) / 2
        assert float(schedule(halfway)) == pytest.approx(middle, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "size"), [("imagenet1k_finetune", 512), ("imagenet21k_finetune", 224), ("jft_finetune", 384)]
)
def test_fine_tuning_size_is_an_argument(setting, size):
    assert paper.get_config(f"{setting},coatnet3,{size}").image_size == size


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("", "paper.py has no setting ''; it has imagenet1k_pretrain, .*, jft_finetune"),
        ("imagenet1k,coatnet0", "paper.py has no setting 'imagenet1k'; it has imagenet1k_pretrain, .*, jft_finetune"),
        ("jft_pretrain", "jft_pretrain has no model ''; it has coatnet3, .*, coatnet7"),
        *((f"{setting},coatnet9", f"{setting} has no model 'coatnet9'; it has coatnet") for setting in TABLE),
        ("imagenet1k_finetune,coatnet3,300", "imagenet1k_finetune has no size '300'; it has 384, 512, 224"),
        ("imagenet1k_pretrain,coatnet3,384", "imagenet1k_pretrain has no size '384'; it has 224"),
        (
            "imagenet1k_pretrain,coatnet2,layout_v3",
            "imagenet1k_pretrain,coatnet2 has no change 'layout_v3'; it has no_",
        ),
        ("imagenet1k_pretrain,coatnet2,layout_v1,layer_norm", "has no change 'layout_v1,layer_norm'; it has"),
        ("imagenet1k_pretrain,coatnet0,layout_v1", "no change 'layout_v1' of .*,coatnet0; it changes imagenet1k_pretr"),
        ("jft_pretrain,coatnet3,layer_norm", "no change 'layer_norm' of jft_pretrain,coatnet3; it changes imagenet1k_"),
    ],
)
def test_what_the_paper_has_not_is_refused(variant, message):
    with pytest.raises(base.RecipeError, match=message):
        paper.get_config(variant)


@pytest.mark.parametrize(
    ("setting", "number"),
    [("imagenet1k_pretrain", 2), ("imagenet1k_finetune", 2), ("imagenet21k_pretrain", 3), ("imagenet21k_finetune", 3)],
)
@pytest.mark.parametrize(
    ("change", "fields", "depths"),
    [
        ("no_relative_attention", {"relative_attention": False}, None),
        ("head_size_64", {"head_size": 64}, None),
        ("layer_norm", {"conv_norm": "layer_norm"}, None),
        ("layout_v1", {}, (2, 2, 18, 2)),
        ("layout_v2", {}, (2, 8, 12, 2)),
    ],
)
def test_ablations_are_one_change(setting, number, change, fields, depths):
    config = paper.get_config(f"{setting},coatnet{number},{change}")
    found = make_model_config(config.model)
    expected = coatnet_tf.get_config(f"coatnet-{number}", drop_path_rate=found.drop_path_rate, **fields)
    assert found.drop_path_rate > 0
    if depths:
        assert [stage.depth for stage in found.stages] == list(depths)
        assert [(s.block, s.width) for s in found.stages] == [(s.block, s.width) for s in expected.stages]
        found = coatnet_tf.get_config(found, name=expected.name, stages=expected.stages)
    assert found == expected
    unchanged = paper.get_config(f"{setting},coatnet{number}")
    config.model = unchanged.model
    assert config == unchanged


CHANGES = ("no_relative_attention", "head_size_64", "layer_norm")
ALL = [f"{setting},{model}" for setting, model, *_ in MODELS]
ALL += [f"imagenet1k_pretrain,coatnet2,{change}" for change in CHANGES]


def make_small(variant):
    """The recipe as it is, but for a smaller network, batch and dataset."""
    config = paper.get_config(variant)
    config.batch_size = 4
    config.image_size = 16
    config.augment.randaugment_pixel_scale = 16 / 224
    config.optimizer.warmup_steps = min(1, config.optimizer.warmup_steps)
    config.optimizer.warmup_epochs = min(1, config.optimizer.warmup_epochs)
    config.dataset.update(name="digits", train_split="train[:4]", eval_split="test[:4]")
    with config.unlocked():
        config.model.name = "small"
        config.model.update(depths=(1, 1, 1), widths=(4, 8, 64), strides=(2, 1, 2), layout="CT")
        config.model.head_size = min(64, config.model.head_size)
    return config


# Made small, -5, -6 and -7 are the same, and so are the fine-tunings of PT-RA and PT-RA-E150.
DISTINCT = {make_small(variant).to_json(): variant for variant in reversed(ALL)}.values()


@pytest.fixture(scope="module")
def two_batches():
    """The first two batches of a recipe's input, made once for all that have the same augmentation."""
    made = {}

    def batches_of(config, engine):
        key = config.augment.to_json()
        if key not in made:
            engine.begin(0)
            made[key] = list(itertools.islice(engine.batches, 2))
        return iter(made[key])

    return batches_of


@pytest.mark.parametrize("variant", DISTINCT)
def test_two_real_steps(variant, data_dir, two_batches):
    """Not traced, which other tests do."""
    config = make_small(variant)
    config.dataset.data_dir = data_dir
    devices = connect("one_device")
    checks.check_values(config)
    checks.check_batch_size(config, devices)
    source = sources.prepare(config.dataset)
    engine = devices.engine(config, source, loop.make_schedule(config, source))
    before = engine.model.get_weights()
    engine.batches = two_batches(config, engine)
    try:
        tf.config.run_functions_eagerly(True)
        engine.train(2)
    finally:
        tf.config.run_functions_eagerly(False)
    assert engine.skipped.total == 0
    assert np.isfinite(float(engine.loss.result()))
    assert any((mine != old).any() for mine, old in zip(engine.model.get_weights(), before, strict=True))
