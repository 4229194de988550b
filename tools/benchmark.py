r"""Measures speed on this machine: medians of interleaved runs, and their ratios.

    python -m tools.benchmark input       # decode + crop alone, and the full pipeline with RandAugment 2, 15 and Mixup
    python -m tools.benchmark loop        # steps of the training loop, and the bare compiled step on the same input
    python -m tools.benchmark inference --output=docs \
        --peer=timm=/envs/timm/bin/python --peer=kecam=/envs/kecam/bin/python
    python -m tools.benchmark training --models=coatnet-0 --batch_size=8 --dtypes=float32,bfloat16 --peer=timm=PYTHON
    python -m tools.benchmark operations  # where a served model's time goes, by kind of operation
    python -m tools.benchmark memory      # peak memory of training steps, and what tools.plan_training counts

Times depend on the machine and on what else it does; ratios of one run are what to look at.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
from pathlib import Path

from absl import app, flags

from experiments import logs, path_flags
from tools.benchmarks import memory, pipeline, timing, training

PIPELINE = {"input": pipeline.measure_input, "loop": pipeline.measure_loop}


def main(argv: list[str]) -> None:
    logs.show_ours()
    what = argv[1] if len(argv) == 2 else ""
    if what == "inference":
        from tools.benchmarks import inference  # here, as it needs the extra `export`

        try:
            inference.measure_inference(
                Path(flags.FLAGS.exports), Path(flags.FLAGS.output), flags.FLAGS.peer, flags.FLAGS.rounds
            )
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error
    elif what == "training":
        values = flags.FLAGS
        try:
            training.measure_training(
                Path(values.output), values.models, values.batch_size, values.dtypes, values.peer, values.rounds
            )
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error
    elif what == "operations":
        from tools.benchmarks import operations  # likewise

        operations.measure_operations(Path(flags.FLAGS.exports), Path(flags.FLAGS.output))
    elif what == "memory":
        print("\n".join(memory.measure_memory()))
    elif what in PIPELINE:
        print("\n".join(timing.describe_medians(PIPELINE[what]())))
    else:
        raise app.UsageError(
            f"Say what to measure: {', '.join((*PIPELINE, 'inference', 'training', 'operations', 'memory'))}."
        )


if __name__ == "__main__":
    flags.DEFINE_multi_string("peer", [], "NAME=PYTHON: a peer, and the Python of an environment that has it.")
    path_flags.define("exports", "runs/benchmark", "Folder for the exported models; kept, and used again.")
    path_flags.define("output", "runs/benchmark", "Folder for the table and the picture.")
    flags.DEFINE_list("models", ["coatnet-0"], "Networks of `training`.")
    flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "Of the arithmetic of `training`.")
    flags.DEFINE_integer("batch_size", 8, "Images per step of `training`.", lower_bound=1)
    flags.DEFINE_integer("rounds", 15, "How often each is measured.", lower_bound=1)
    app.run(main)
