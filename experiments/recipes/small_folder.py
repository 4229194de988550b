r"""A small folder of one's own images, fine-tuned until the held-out ones say stop: `tools/fine_tune.py` takes it.

    python -m tools.fine_tune --images=/path/to/images --init_from=RUN_FOLDER_OR_FILE --output=runs/mine

or, with what that command finds out by itself (network, input size, number of training images) given by hand:

    python -m experiments.train --config=experiments/recipes/small_folder.py:240 --workdir=runs/mine \
        --data=folder:/path/to/images --init_from=coatnet-0.keras --reset_head

On 50 images of each of six Fashion-MNIST classes, from weights of the other four: 86.07 % of 6,000 test images, from
random weights 84.37 %; `docs/fine_tuning.md` has the commands, and how the values were chosen.
"""

import ml_collections

from experiments.recipes import base

STEPS = 600  # of the longest run, about; early stopping ends most before
EPOCHS = (10, 60)  # at least and at most


def get_config(images: str = "240") -> ml_collections.ConfigDict:
    """The recipe for a number of training images, with CoAtNet-0 at 224."""
    if not images.isdigit():
        raise base.RecipeError(f"small_folder.py:240 is for 240 training images; {images!r} is no number.")
    config = base.get_config()
    config.batch_size = _batch_size(int(images))
    steps_per_epoch = max(1, int(images) // config.batch_size)
    config.epochs = min(max(EPOCHS[0], round(STEPS / steps_per_epoch)), EPOCHS[1])
    config.early_stop_patience = max(5, config.epochs // 4)
    config.image_size = 224
    config.label_smoothing = 0.1
    config.steps_per_call = 20
    config.head_views = 2

    config.dataset.max_damaged_share = 0.05  # a few damaged photos are named and left out

    config.augment.flip = True
    config.augment.randaugment_layers = 1
    config.augment.randaugment_magnitude = 5.0

    config.model = base.family_model("coatnet0")

    config.optimizer.learning_rate = 1e-4  # twice the paper's, which fine-tunes for longer
    config.optimizer.min_learning_rate = 1e-6
    config.optimizer.warmup_epochs = 1
    return config


def _batch_size(images: int) -> int:
    """The largest power of two, of 4 to 32, that leaves at least eight steps an epoch."""
    return next((size for size in (32, 16, 8) if images // size >= 8), 4)
