r"""Measures speed on this machine: medians of interleaved runs, and their ratios.

    python -m tools.benchmark input --peer=timm=/envs/timm/bin/python  # with RandAugment 2, 15 and Mixup, beside others
    python -m tools.benchmark loop        # steps of the training loop, and the bare compiled step on the same input
    python -m tools.benchmark inference --output=docs \
        --peer=timm=/envs/timm/bin/python --peer=kecam=/envs/kecam/bin/python
    python -m tools.benchmark training --models=coatnet-0 --batch_size=8 --dtypes=float32,bfloat16 --peer=timm=PYTHON
    python -m tools.benchmark operations  # where a served model's time goes, by kind of operation
    python -m tools.benchmark start       # from the start of a process to the first step, to the first answer
    python -m tools.benchmark memory      # peak memory of training steps, and what tools.plan_training counts

Times depend on the machine and on what else it does; ratios of one run are what to look at.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from experiments import logs, path_flags
from tools.benchmarks import input_pipelines, memory, timing, training, training_loop


def _inference(values: flags.FlagValues) -> None:
    from tools.benchmarks import inference  # here, as it needs the extra `export`

    inference.measure_inference(Path(values.exports), Path(values.output), values.peer, values.rounds)


def _operations(values: flags.FlagValues) -> None:
    from tools.benchmarks import operations  # likewise

    operations.measure_operations(Path(values.exports), Path(values.output))


def _start(values: flags.FlagValues) -> None:
    from tools.benchmarks import start  # likewise

    print("\n".join(timing.describe_medians(start.measure_start(Path(values.exports), values.rounds))))


MEASURES: dict[str, Callable[[flags.FlagValues], None]] = {
    "input": lambda values: input_pipelines.measure_input(Path(values.output), values.peer, values.rounds),
    "loop": lambda values: print("\n".join(timing.describe_medians(training_loop.measure_loop()))),
    "inference": _inference,
    "training": lambda values: training.measure_training(
        Path(values.output),
        values.models,
        values.batch_size,
        values.dtypes,
        values.peer,
        values.rounds,
        values.frozen,
    ),
    "operations": _operations,
    "start": _start,
    "memory": lambda values: print("\n".join(memory.measure_memory())),
}


def main(argv: list[str]) -> None:
    logs.show_ours()
    if len(argv) != 2 or argv[1] not in MEASURES:
        raise app.UsageError(f"Say what to measure: {', '.join(MEASURES)}.")
    try:
        MEASURES[argv[1]](flags.FLAGS)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    flags.DEFINE_multi_string("peer", [], "NAME=PYTHON: a peer, and the Python of an environment that has it.")
    path_flags.define("exports", "runs/benchmark", "Folder for the exported models; kept, and used again.")
    path_flags.define("output", "runs/benchmark", "Folder for the table and the picture.")
    flags.DEFINE_list("models", ["coatnet-0"], "Networks of `training`.")
    flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "Of the arithmetic of `training`.")
    flags.DEFINE_integer("batch_size", 8, "Images per step of `training`.", lower_bound=1)
    flags.DEFINE_bool("frozen", False, "`training` of the classifier alone, on a frozen backbone.")
    flags.DEFINE_integer("rounds", 15, "How often each is measured.", lower_bound=1)
    app.run(main)
