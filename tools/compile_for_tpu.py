r"""Compiles a recipe's training step for TPUs that are not there, and says what the compiler says of it.

    python -m tools.compile_for_tpu --config=experiments/recipes/paper.py:imagenet1k_pretrain,coatnet0 \
        --topology=v5e:2x2 --config.batch_size=512

Does it fit, what does it exchange, how long would a step take, where does the time go: nothing runs, no TPU is needed,
and the answer is the same each time. It is the step of `--strategy=sharded`, the same function; `--strategy=tpu` takes
that of one replica of TensorFlow's TPUStrategy, without the sums over replicas. `--largest_batch` looks for the largest
share of a chip that fits. `--peer` trains a rival of Table 5 or a network of keras.applications by the same step.
`--extend_depth` compiles two networks whose longest stage is shorter, and extends what they take to the depth of the
recipe's: minutes in place of hours, for an estimate of the estimate.

The time is the sum of the cycles that the compiler estimates of each operation, at the clock of the chip. Communication
is not in it, nor the input. Compiling takes minutes, of CoAtNet-7 half an hour; what came out is kept in `--cache`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from tools.tpu import environment

    environment.prepare(sys.argv[1:])

# isort: split
import experiments  # noqa: F401  (behind the backend of Keras, before all else, as it imports TensorFlow without its lines)

# isort: split
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags

from experiments import augment, command_line, path_flags, recipe_flags
from tools.tpu import chips, compiling, depth, estimate, steps
from tools.tpu.environment import BACKENDS


def compile_recipe(
    config: ml_collections.ConfigDict,
    topology: chips.Topology,
    strategy: str = "sharded",
    shards: int | None = None,
    peer: str = "",
    cache: Path | None = None,
) -> dict[str, Any]:
    """Compiles the step of a recipe.

    Args:
        config: The recipe.
        topology: What for.
        strategy: `"sharded"` or `"tpu"`.
        shards: Devices that hold one copy of the state, of `"sharded"`; all by default.
        peer: One of `steps.PEERS` to train in place of the recipe's network.
        cache: Folder of results.

    Returns:
        See `estimate.count` and `estimate.with_rates`.

    Raises:
        ValueError: If the recipe, its batch or the shards do not fit.
    """
    if strategy == "sharded":
        model, step, source = steps.sharded_step(config, topology, shards, peer)
    else:
        model, step, source = steps.replica_step(config, topology)
    compiled = compiling.compile_step(step, topology.name, cache or Path(path_flags.expand(compiling.CACHE)))
    params = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    share = config.batch_size // len(topology.devices)
    copies = shards or len(topology.devices) if strategy == "sharded" else 1
    numbers = estimate.count(peer or config.model.name, params, compiled, topology, copies, share)
    numbers |= {
        "strategy": strategy,
        "image_size": config.image_size,
        "downsampling": None if peer else config.model.get("downsampling"),
        "rematerialise": config.rematerialise,
        "epochs": config.epochs,
        "images": source.train.count,
    }
    return estimate.with_rates(numbers, topology.chip)


def largest_batch(
    config: ml_collections.ConfigDict, topology: chips.Topology, compile_it: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The numbers of the largest share of a chip that fits, to 3 %, by bisection between what fits and what does not.

    Every other trial is a guess, that memory grows with the images.

    Args:
        config: The recipe, whose batch is changed.
        topology: What for.
        compile_it: Gives the numbers of the recipe as it is.

    Returns:
        Those of the largest batch that fits.

    Raises:
        ValueError: If the smallest one does not.
    """
    unit = config.accumulation_steps * (2 if augment.mixes_pairs(config.augment) else 1)
    config.optimizer.warmup_steps = config.optimizer.warmup_epochs = 0  # it may be longer than a run of large batches
    best: dict[str, Any] | None = None
    fits, fails, guessing = 0, 0, True  # in units; 0 fails: none is known
    trial = max(1, config.batch_size // len(topology.devices) // unit)
    while not fails or fails - fits > max(1, fits // 32):
        config.batch_size = trial * unit * len(topology.devices)
        numbers = compile_it()
        print(f"{trial * unit} images per chip {'fit' if numbers['fits'] else 'do not fit'}.", file=sys.stderr)
        if numbers["fits"]:
            fits, best = trial, numbers
        else:
            fails = trial
        if fails == 1:
            raise ValueError(f"Not even {unit} images fit on a chip of {topology.name}.")
        guess = int(trial * numbers["hbm_gib"] / (numbers["argument_gib"] + numbers["temporary_gib"]))
        near = max(1, fits // 32)
        if not fails:
            trial = max(guess, fits + near)
        elif guessing:
            trial = min(max(guess, fits + near), fails - near)
        else:
            trial = (fits + fails) // 2
        guessing = not guessing
    assert best is not None
    return best


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    output = Path(values.output) if values.output else None
    try:
        if output is not None:  # before what takes long
            if output.is_dir():
                raise IsADirectoryError(f"--output={output} is a folder; give the name of a file.")
            output.parent.mkdir(parents=True, exist_ok=True)
        if values.strategy == "tpu" and (values.shards or values.peer):
            raise ValueError("--shards and --peer are only for --strategy=sharded.")
        if values.peer and values.extend_depth:
            raise ValueError("--extend_depth is for the recipe's network; leave out --peer.")
        config, topology = recipe_flags.recipe(), chips.find_topology(values.topology)

        def compile_one(config: ml_collections.ConfigDict) -> dict[str, Any]:
            return compile_recipe(
                config, topology, values.strategy, values.shards, values.peer or "", Path(values.cache)
            )

        def compile_it() -> dict[str, Any]:
            if values.extend_depth:
                return depth.extended(config, topology.chip, compile_one)
            return compile_one(config)

        numbers = largest_batch(config, topology, compile_it) if values.largest_batch else compile_it()
    except (ValueError, ImportError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    said = json.dumps(numbers, indent=2) if values.format == "json" else "\n".join(estimate.describe(numbers))
    if output is not None:
        output.write_text(said + "\n")
    else:
        print(said)


if __name__ == "__main__":
    recipe_flags.define_file(required=True)
    flags.DEFINE_string("topology", None, "TPUs to compile for, such as v5e:2x2 or v4:4x4x4.")
    flags.DEFINE_enum("strategy", "sharded", list(BACKENDS), "Whose step it is.")
    flags.DEFINE_integer("shards", None, "Devices that hold one copy of the state together; all by default.")
    flags.DEFINE_enum("peer", None, list(steps.PEERS), "Network of others in place of the recipe's.")
    flags.DEFINE_bool("largest_batch", False, "Look for the largest batch that fits, from config.batch_size on.")
    flags.DEFINE_bool("extend_depth", False, "Extend what two shallower networks take to the depth of the recipe's.")
    flags.DEFINE_enum("format", "markdown", ["markdown", "json"], "How the numbers are written.")
    path_flags.define("output", None, "File for the numbers; they are printed by default.")
    path_flags.define("cache", compiling.CACHE, "Folder where results are kept.")
    flags.mark_flag_as_required("topology")
    app.run(main)
