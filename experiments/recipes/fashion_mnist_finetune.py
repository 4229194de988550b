r"""The network of `fashion_mnist.py` at 1.5 times the resolution it was trained at, as the paper fine-tunes.

    export TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit --tf_xla_ops_to_cluster=FUSIBLE"
    python -m experiments.train --config=experiments/recipes/fashion_mnist.py --workdir=runs/fashion_24 \
        --config.image_size=24 --config.epochs=5
    python -m experiments.train --config=experiments/recipes/fashion_mnist_finetune.py --workdir=runs/fashion_36 \
        --init_from=runs/fashion_24

The relative bias tables of 6 x 6 positions are resized to 9 x 9. One run, seed 0: 91.05 % of the test images at 24,
91.29 % at 36; `docs/fine_tuning.md` compares with tables that begin anew.
"""

import ml_collections

from experiments.recipes import fashion_mnist


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    config = fashion_mnist.get_config()
    config.image_size = 36
    config.epochs = 1
    config.ema_decay = 0.98
    config.optimizer.learning_rate = 1e-3  # falling: one epoch is too short for the paper's small constant rate
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-8
    return config
