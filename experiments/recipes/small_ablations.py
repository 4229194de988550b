"""Tables 6 to 9 and Figure 1 at the scale of two CPU cores: one change of a small network, few images of Fashion-MNIST.

    python -m experiments.ablation --study=relative_attention --seeds=5 --workdir=runs/ablation

runs them; `--config=experiments/recipes/small_ablations.py:relative_attention,without` is one of its runs. Tables
6 to 8 at the paper's scale are in `paper.py`, the studies in `experiments/ablation/studies.py`.
"""

import ml_collections

from experiments.ablation.studies import STUDIES
from experiments.data.fashion_mnist import DEFAULT_FOLDER
from experiments.recipes import base

PASSES_AN_EPOCH = 15  # over the images, so that evaluations are few
EPOCHS = 2
HELD_OUT = 5000  # of the test images


def get_config(variant: str = "relative_attention,with") -> ml_collections.ConfigDict:
    """The recipe of a study, a comma and a variant, and if wanted a comma and the number of training images."""
    study, _, rest = variant.partition(",")
    name, _, images = rest.partition(",")
    base.check_name("small_ablations.py", "study", study, STUDIES)
    base.check_name(study, "variant", name, STUDIES[study].variants)
    if images and not images.isdigit():
        raise base.RecipeError(f"{images!r} is no number of training images.")
    config = base.get_config()
    config.epochs = EPOCHS
    config.batch_size = 50
    config.image_size = 28
    config.label_smoothing = 0.1
    config.steps_per_call = 50

    config.dataset.name = "fashion_mnist_idx"
    config.dataset.train_split = "+".join([f"train[:{images or 1000}]"] * PASSES_AN_EPOCH)
    config.dataset.eval_split = f"test[:{HELD_OUT}]"
    config.dataset.manual_dir = DEFAULT_FOLDER

    config.augment.flip = True
    config.augment.translate = 1

    config.model.name = "coatnet-small"
    config.model.depths = (2, 1, 3, 3, 1)
    config.model.widths = (24, 32, 48, 64, 96)
    config.model.strides = (2, 1, 2, 1, 1)
    config.model.layout = "C-C-T-T"
    config.model.head_size = 16
    config.model.kernel_initializer = "lecun_normal"
    config.model.drop_path_rate = 0.1
    config.model.update(STUDIES[study].variants[name])

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    return config
