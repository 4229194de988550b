"""torch's DataLoader with timm's transforms as a contender of the input benchmark, in an environment with timm.

    python timm_input_worker.py FOLDER

timm's faster way: bytes until they are batches, and its Mixup on bytes where they are put together. A process for each
core. Speaks as `tools/benchmarks/input_worker.py` does, whose `serve` it borrows.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data import FastCollateMixup, create_transform
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).parents[3]))

from tools.benchmarks.input_worker import BATCH_SIZE, LAYERS, MAGNITUDE, MIXUP, SIZE, serve


def make() -> Iterator[Any]:
    transform = create_transform(
        SIZE, is_training=True, use_prefetcher=True, auto_augment=f"rand-m{MAGNITUDE}-n{LAYERS}", color_jitter=None
    )
    images = ImageFolder(sys.argv[1], transform)
    return iter(
        torch.utils.data.DataLoader(
            images,
            BATCH_SIZE,
            sampler=torch.utils.data.RandomSampler(images, replacement=True, num_samples=10**7),
            num_workers=os.cpu_count() or 1,
            collate_fn=FastCollateMixup(mixup_alpha=MIXUP, num_classes=len(images.classes)),
        )
    )


if __name__ == "__main__":
    serve(make)
