"""Runs in an environment that has torch and timm: the factors of timm's layer-wise learning-rate decay, as JSON.

    python tools/imports/timm_layer_decay.py 0.75 coatnet_0_224 coatnet_0_rw_224 > tests/golden/layer_decay.json

By network and name of the parameter, for the small networks of `timm_reference.py`.
"""

import json
import sys

from timm.models import maxxvit
from timm.optim import param_groups_layer_decay
from timm_reference import SMALL_CLASSES, SMALL_SIZE, shrink


def factors(network: str, decay: float) -> dict[str, float]:
    """The factor on the learning rate of each parameter, by name."""
    config = shrink(maxxvit.model_cfgs[network.rpartition("_")[0]])
    model = maxxvit.MaxxVit(config, img_size=SMALL_SIZE, num_classes=SMALL_CLASSES)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=decay)
    return {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


if __name__ == "__main__":
    print(
        json.dumps({"decay": float(sys.argv[1]), **{name: factors(name, float(sys.argv[1])) for name in sys.argv[2:]}})
    )
