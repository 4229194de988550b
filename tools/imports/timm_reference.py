"""Runs in an environment that has torch and timm: a random network with its answers, for `tools.compare_imports`.

    python tools/imports/timm_reference.py coatnet_0_rw_224 reference [--small | --check]

writes `reference.safetensors` (the state dict of a network with random weights and randomised statistics) and
`reference.npz` (images and logits). With `--small` the network keeps its blocks' options and is narrow, shallow and
for images of 64 x 64; its weights are rounded to half precision and are in `reference.npz` too; `reference.pth` has
them as `torch.save` writes them. Such files are the golden cases of the tests. With `--check` nothing is written: the
network loads `reference.safetensors` strictly, and must give the logits of `reference.npz` for its images, bit for bit.
"""

import argparse
import dataclasses
import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg, maxxvit

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
            elif name.endswith(("running_var", "gamma", "gain")) or (name.endswith("weight") and tensor.ndim == 1):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1:
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            else:
                # Tables are [positions, heads]; kernels [output, input, ...].
                fan_in = 1 if name.endswith("table") else tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)


def evaluate(model: torch.nn.Module, images: torch.Tensor, name: str) -> torch.Tensor:
    """Logits of images `[batch, height, width, 3]` in [0, 255]."""
    preprocessing = get_pretrained_cfg(name)
    mean, deviation = (torch.tensor(x)[:, None, None] for x in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        return model((images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    name, _, size = arguments.model.rpartition("_")
    config, size, classes = maxxvit.model_cfgs[name], int(size), 1000
    if arguments.small:
        config, size, classes = shrink(config), SMALL_SIZE, SMALL_CLASSES
    model = maxxvit.MaxxVit(config, img_size=size, num_classes=classes).eval()
    if arguments.check:
        model.load_state_dict(load_file(f"{arguments.output}.safetensors"), strict=True)
        answers = {name: torch.from_numpy(x) for name, x in np.load(f"{arguments.output}.npz").items()}
        if not torch.equal(evaluate(model, answers["images"], arguments.model), answers["logits"]):
            raise SystemExit("The logits are others.")
        return
    randomise(model, generator)
    if arguments.small:
        model = model.half().float()  # the rounded weights
    images = torch.randint(0, 256, (2, size, size, 3), generator=generator, dtype=torch.uint8)
    answers = {"images": images.numpy(), "logits": evaluate(model, images, arguments.model).numpy()}

    state = model.state_dict()
    if arguments.small:
        layout = json.dumps({name: list(x.shape) for name, x in state.items()})
        values = np.concatenate([x.numpy().reshape(-1) for x in state.values()]).astype(np.float16)
        np.savez_compressed(f"{arguments.output}.npz", layout=layout, values=values, **answers)
        torch.save(model.half().state_dict(), f"{arguments.output}.pth")
    else:
        np.savez(f"{arguments.output}.npz", **answers)
        save_file(state, f"{arguments.output}.safetensors")


if __name__ == "__main__":
    main()
