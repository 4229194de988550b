"""Runs in an environment that has torch and timm: random networks with their answers, for `tools.compare_imports`.

    python tools/imports/timm_reference.py coatnet_0_rw_224 reference.npz [--small]

writes the state dict, images and logits of a network with random weights and randomised statistics. With `--small`
the network keeps its blocks' options and is narrow, shallow and for images of 64 x 64; its weights are rounded to
half precision and stored so.
"""

import argparse
import dataclasses

import numpy as np
import torch
from timm.models import maxxvit

SMALL_WIDTHS = (8, 16, 16, 32)
SMALL_STEM = (4, 8)
SMALL_HEAD = 8
SMALL_SIZE = 64
SMALL_CLASSES = 10


def shrink(config: maxxvit.MaxxVitCfg) -> maxxvit.MaxxVitCfg:
    """The same options, narrow and at most two blocks a stage."""
    transformer = dataclasses.replace(config.transformer_cfg, dim_head=SMALL_HEAD, rel_pos_dim=16)
    return dataclasses.replace(
        config,
        embed_dim=SMALL_WIDTHS,
        depths=(2, 2, 2, 2),
        stem_width=SMALL_STEM if isinstance(config.stem_width, tuple) else SMALL_STEM[-1],
        transformer_cfg=transformer,
        head_hidden_size=SMALL_WIDTHS[-1] if config.head_hidden_size else None,
    )


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights as after training: norms that scale and shift, statistics that are not those of the start."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.int64:
                tensor.fill_(1)
            elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1) or "gamma" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1:
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            else:
                # Tables are [positions, heads]; kernels [output, input, ...].
                fan_in = 1 if name.endswith("table") else tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--images", type=int, default=2)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    name, _, size = arguments.model.rpartition("_")
    config = maxxvit.model_cfgs[name]
    size = int(size)
    if arguments.small:
        config, size = shrink(config), SMALL_SIZE
    model = maxxvit.MaxxVit(config, img_size=size, num_classes=SMALL_CLASSES if arguments.small else 1000).eval()
    randomise(model, generator)
    if arguments.small:
        model = model.half().float()  # the rounded weights
    images = torch.randint(0, 256, (arguments.images, size, size, 3), generator=generator, dtype=torch.uint8)
    normalised = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    if "bn_0" in name:
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (maxxvit.IMAGENET_DEFAULT_MEAN, maxxvit.IMAGENET_DEFAULT_STD))
        normalised = (images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
    with torch.no_grad():
        logits = model(normalised)
    kind = np.float16 if arguments.small else np.float32
    weights = {
        f"weights/{name}": x.numpy() if x.dtype == torch.int64 else x.numpy().astype(kind)
        for name, x in model.state_dict().items()
    }
    np.savez(arguments.output, images=images.numpy(), logits=logits.numpy(), **weights)


if __name__ == "__main__":
    main()
