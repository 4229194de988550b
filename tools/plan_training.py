r"""Plans a training run on accelerators before any is rented: memory, batch, steps, time, input rate, cost.

    python -m tools.plan_training --config=experiments/recipes/paper.py:jft_pretrain,coatnet5 --accelerator=tpu_v3 \
        --chips=512
    python -m tools.plan_training --accelerator=tpu_v3 --chips=4      # which of the family fits, at 224, data-parallel

Utilisation is the share of an accelerator's bfloat16 peak that training reaches. The defaults are what the paper's
TPUv3-core-days come to (`docs/planning.md`), one for heads of 32 and one for larger heads; that other accelerators
reach the same share is an assumption, and `--utilisation` replaces it.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
from collections.abc import Sequence

import ml_collections
from absl import app, flags

import coatnet_tf
from experiments import checks, command_line, recipe_flags, sizes
from experiments.model_config import make_model_config
from experiments.recipes.paper import TRAINING_IMAGES
from tools.paper.published import CORE_DAYS
from tools.paper.training_cost import (
    ACCELERATORS,
    GIB,
    SECONDS_PER_DAY,
    Accelerator,
    TrainingMemory,
    count_memory,
    implied_epochs,
    training_flops,
    utilisation_of,
)


def _guess_images(config: ml_collections.ConfigDict) -> int:
    """Training images of the paper's dataset that a recipe is for."""
    if config.loss == "sigmoid" and config.epochs <= 14:
        return TRAINING_IMAGES["jft"]
    return TRAINING_IMAGES["imagenet21k" if config.loss == "sigmoid" else "imagenet1k"]


def plan(
    config: ml_collections.ConfigDict,
    accelerator: str,
    chips: int,
    images: int | None = None,
    utilisation: float | None = None,
    price: float | None = None,
) -> list[str]:
    """Plans the run of a recipe.

    Args:
        config: The recipe.
        accelerator: One of `ACCELERATORS`.
        chips: Number of chips.
        images: Training images of an epoch; the paper's dataset of the recipe by default.
        utilisation: Share of the peak; by the paper's core-days by default.
        price: Price of a chip for an hour, in any currency.

    Returns:
        Lines of Markdown.

    Raises:
        ValueError: If the batch cannot be divided among the devices.
    """
    checks.check_values(config)
    chip = ACCELERATORS[accelerator]
    devices = chip.devices * chips
    if config.batch_size % devices:
        raise ValueError(
            f"A batch of {config.batch_size} images cannot be divided among {devices} devices ({chips} {accelerator} "
            f"with {chip.devices} each); choose --chips or --config.batch_size so that it can."
        )
    model = make_model_config(config.model)
    images = images or _guess_images(config)
    if images < config.batch_size:
        raise ValueError(f"{images} training images are fewer than a batch of {config.batch_size}; nothing is trained.")
    share = config.batch_size // devices
    half = config.dtype != "float32"
    size = sizes.of(config)
    memory = count_memory(model, size, half, bool(config.ema_decay))
    largest = memory.largest_batch(chip.gib * GIB, config.rematerialise)
    utilisation = utilisation or utilisation_of(model)
    flops = training_flops(model, size, config.rematerialise)
    step_seconds = flops * share / (utilisation * chip.tflops * 1e12)
    steps = config.epochs * (images // config.batch_size)
    days = steps * step_seconds / SECONDS_PER_DAY
    activations = memory.image_rematerialised if config.rematerialise else memory.image
    without, recomputed = (f"{x / 2**20:,.0f}" for x in (memory.image, memory.image_rematerialised))
    held = _gib(memory.states + share * activations)
    advice = _advice(memory, chip, largest, share, config.accumulation_steps)
    rate = config.batch_size / step_seconds
    rows = [
        ("parameters", f"{coatnet_tf.profile(model, (*size, 3)).params / 1e6:,.1f} M"),
        ("weights, gradients, moments, averages, cast weights", " + ".join(map(_gib, _states(memory))) + " GiB"),
        ("activations for one image, as the recipe has it", f"{activations / 2**20:,.0f} MiB"),
        ("the same without / with rematerialisation", f"{without} / {recomputed} MiB"),
        ("a device's share of the batch", f"{share} images: {held} of {chip.gib:g} GiB"),
        ("largest share that fits", f"{largest} images{advice}"),
        ("steps", f"{steps:,} ({config.epochs} epochs of {images:,} images in batches of {config.batch_size:,})"),
        ("time per step", f"{step_seconds:.3f} s at {utilisation:.0%} of {chip.tflops:g} TFLOP/s per device"),
        ("time in all", f"{days:,.2f} days on {devices:,} devices: {days * devices:,.0f} device-days"),
        ("images to read", f"{rate:,.0f} per second, {rate / chips:,.0f} per chip"),
        ("checkpoint", f"{_gib(memory.weights + memory.moments + memory.averages)} GiB"),
    ]
    if images == TRAINING_IMAGES["jft"] and accelerator == "tpu_v3" and model.name in CORE_DAYS:
        rows.append(("the paper's (Table 5)", _of_the_paper(model.name)))
    if price is not None:
        rows.append(("price", f"{price * chips * days * 24:,.0f} at {price:g} per chip and hour"))
    return [f"{model.name} at {sizes.describe(size)} on {chips} x {accelerator}", "", "| | |", "| --- | --- |"] + [
        f"| {name} | {value} |" for name, value in rows
    ]


def _of_the_paper(model: str) -> str:
    published = f"{CORE_DAYS[model]:,} core-days"
    if model in ("coatnet-6", "coatnet-7"):
        published += f"; at this utilisation {implied_epochs(model):.2f} epochs of JFT-3B"
    return published


def _states(memory: TrainingMemory) -> tuple[int, ...]:
    return memory.weights, memory.gradients, memory.moments, memory.averages, memory.cast


def _gib(value: float) -> str:
    return f"{value / GIB:.2f}"


def _advice(memory: TrainingMemory, chip: Accelerator, largest: int, share: int, parts: int) -> str:
    """What to do if the share of a device does not fit."""
    if largest * parts >= share:
        return ""
    if largest:
        return f": take it in {_parts(share, largest)} parts (config.accumulation_steps)"
    recomputed = memory.largest_batch(chip.gib * GIB, rematerialise=True)
    if recomputed:
        return f": recompute (config.rematerialise=True: {recomputed} images), in {_parts(share, recomputed)} parts"
    return f": shard the states over {memory.shards(chip.gib * GIB)} devices or more (docs/planning.md)"


def _parts(share: int, largest: int) -> int:
    """The fewest equal parts of a share that are not larger than the largest that fits."""
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= largest)


def fitting_models(accelerator: str, chips: int) -> list[str]:
    """Which of the family trains data-parallel on some chips, at 224 in bfloat16, without averaged weights.

    Args:
        accelerator: One of `ACCELERATORS`.
        chips: Number of chips.

    Returns:
        Lines of Markdown.
    """
    chip = ACCELERATORS[accelerator]
    devices = chip.devices * chips
    lines = [
        f"On {chips} x {accelerator} ({devices} devices of {chip.gib:g} GiB), at 224, mixed_bfloat16, AdamW:",
        "",
        "| model | states, GiB | MiB per image | recomputed | images per device | recomputed | what to do |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, config in coatnet_tf.FAMILY.items():
        memory = count_memory(config, 224)
        plain, recomputed = (memory.largest_batch(chip.gib * GIB, again) for again in (False, True))
        sizes = [f"{size / 2**20:,.0f}" for size in (memory.image, memory.image_rematerialised)]
        verdict = _verdict(memory, chip, devices, plain, recomputed)
        cells = [name, _gib(memory.states), *sizes, str(plain), str(recomputed), verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _verdict(memory: TrainingMemory, chip: Accelerator, devices: int, plain: int, recomputed: int) -> str:
    if plain:
        return "data-parallel; larger batches by accumulation"
    if recomputed:
        return "data-parallel with rematerialisation"
    needed = memory.shards(chip.gib * GIB)
    where = f"{_gib(memory.states / devices)} GiB each here" if needed <= devices else "more than are here"
    return f"shard the states over {needed} devices or more ({where})"


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    try:
        if values["config"].value is None:
            lines = fitting_models(values.accelerator, values.chips)
        else:
            lines = plan(
                values.config, values.accelerator, values.chips, values.train_images, values.utilisation, values.price
            )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print("\n".join(lines))


if __name__ == "__main__":
    recipe_flags.define_file(required=False)
    flags.DEFINE_enum("accelerator", "tpu_v3", list(ACCELERATORS), "What it runs on.")
    flags.DEFINE_integer("chips", 4, "Number of chips; a TPU v3-8 has four.", lower_bound=1)
    flags.DEFINE_integer("train_images", None, "Training images; those of the paper's dataset by default.", 1)
    flags.DEFINE_float("utilisation", None, "Share of the bfloat16 peak that is reached.", 0.01, 1.0)
    flags.DEFINE_float("price", None, "Of a chip for an hour.", lower_bound=0.0)
    app.run(main)
