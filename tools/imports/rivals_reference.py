"""Runs in an environment that has torch and timm: rivals of CoAtNet, random and small, with their answers.

    python tools/imports/rivals_reference.py tests/golden/rivals

writes one `.npz` a case, as `tools/imports/timm_reference.py --small` does: weights rounded to half precision, images
and logits. Each keeps the options of the model of timm that its entry names, and is narrow and shallow.
"""

import argparse
import functools
import json
from pathlib import Path

import numpy as np
import torch
from timm.layers import GroupNormAct, HybridEmbed, StdConv2dSame
from timm.models import nfnet, resnetv2, vision_transformer
from timm_reference import randomise

CLASSES = 10
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
TF = (0.5, 0.5)
TORCH = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def vit(image_size: tuple[int, int], patch_size: int, mlp_ratio: float) -> torch.nn.Module:
    return vision_transformer.VisionTransformer(image_size, patch_size, mlp_ratio=mlp_ratio, **VIT)


def hybrid(image_size: tuple[int, int], depths: tuple[int, ...]) -> torch.nn.Module:
    """As `vision_transformer_hybrid` builds `vit_*_r50_s*`."""
    backbone = resnetv2.ResNetV2(
        depths,
        (32, 32, 64, 64)[: len(depths)],
        num_classes=0,
        global_pool="",
        stem_chs=16,
        preact=False,
        stem_type="same",
        norm_layer=functools.partial(GroupNormAct, num_groups=4),
        conv_layer=functools.partial(StdConv2dSame, eps=1e-8),
    )
    embedding = functools.partial(HybridEmbed, backbone=backbone)
    return vision_transformer.VisionTransformer(image_size, 1, embed_layer=embedding, **VIT)


def nfnet_f4() -> torch.nn.Module:
    config = nfnet.model_cfgs["dm_nfnet_f4"]
    small = {"depths": (1, 2, 1, 1), "channels": (16, 32, 48, 48), "stem_chs": 8, "num_features": 96, "group_size": 8}
    return nfnet.NormFreeNet(config, num_classes=CLASSES, **small)


# Model of timm, image size, mean and standard deviation of the preprocessing.
CASES = {
    "vit_l_16": (lambda: vit((32, 48), 16, 4), (32, 48), TF),  # vit_large_patch16_384
    "vit_h_14": (lambda: vit((28, 28), 14, 4), (28, 28), TF),  # vit_huge_patch14_224
    "vit_g_14": (lambda: vit((28, 42), 14, 64 / 13), (28, 42), TF),  # blocks of vit_gigantic_patch14_224
    "resnet50_vit_l_32": (lambda: hybrid((64, 64), (2, 1, 1, 1)), (64, 64), TF),  # vit_large_r50_s32_384
    "resnet50_vit_b_16": (lambda: hybrid((48, 64), (1, 2, 1)), (48, 64), TF),  # vit_base_r50_s16_384
    "nfnet_f4": (nfnet_f4, (64, 96), TORCH),  # dm_nfnet_f4
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (build, (height, width), preprocessing) in CASES.items():
        generator = torch.Generator().manual_seed(0)
        model = build().eval()
        randomise(model, generator)
        model = model.half().float()  # the rounded weights
        images = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
        mean, deviation = (torch.tensor(x).reshape(-1, 1, 1) for x in preprocessing)
        with torch.no_grad():
            logits = model((images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation)
        state = model.state_dict()
        layout = json.dumps({name: list(x.shape) for name, x in state.items()})
        values = np.concatenate([x.numpy().reshape(-1) for x in state.values()]).astype(np.float16)
        path = folder / f"{name}.npz"
        np.savez_compressed(path, layout=layout, values=values, images=images.numpy(), logits=logits.numpy())
        print(name, values.size, path.stat().st_size, float(logits.abs().max()))


if __name__ == "__main__":
    main()
