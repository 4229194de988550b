"""timm's recipe for fine-tuning, for the study of small sets, in an environment with torch and timm.

    python timm_fine_tuning.py TABLE WEIGHTS SEED SECONDS

TABLE is a file of labels (path,label,split) and WEIGHTS a state dict of the network of
`experiments/recipes/small_sets.py`. Augmentation, loss, optimizer and schedule are those of timm's `train.py` by
default, but for AdamW, RandAugment (`rand-m5-n1`) and the rate, which are those of `tools.fine_tune`: crops of 8 to
100 % of the image, jitter of colours, label smoothing 0.1, cosine with 5 epochs of warm-up. It trains for as many
epochs as fit into SECONDS of processor time, and prints accuracy and seconds as JSON.
"""

import csv
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import timm.data
import timm.optim
import timm.scheduler
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import maxxvit

SIZE, BATCH, RATE, MEAN = 64, 8, 1e-3, (0.5, 0.5, 0.5)
WARMUP_EPOCHS = 5


def make_model(weights: str, classes: int) -> torch.nn.Module:
    config = maxxvit.model_cfgs["coatnet_0_rw"]
    config = dataclasses.replace(
        config,
        embed_dim=(24, 32, 64, 128),
        depths=(1, 1, 2, 1),
        stem_width=(8, 16),
        transformer_cfg=dataclasses.replace(config.transformer_cfg, dim_head=16),
    )
    model = maxxvit.MaxxVit(config, img_size=SIZE, num_classes=classes)
    state = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("head.fc")}
    left = model.load_state_dict(state, strict=False)
    if left.unexpected_keys or any(not name.startswith("head.fc") for name in left.missing_keys):
        raise SystemExit(f"The weights are of another network: {left}")
    return model


def read(table: Path) -> tuple[dict[str, list[tuple[Image.Image, int]]], int]:
    """Pictures and labels by split, and the number of classes."""
    rows = list(csv.DictReader(table.open()))
    names = sorted({row["label"] for row in rows})
    examples: dict[str, list[tuple[Image.Image, int]]] = {"train": [], "validation": []}
    for row in rows:
        image = Image.open(table.parent / row["path"]).convert("RGB")
        examples[row["split"]].append((image, names.index(row["label"])))
    return examples, len(names)


def main() -> None:
    table, weights, seed, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    torch.manual_seed(seed)
    np.random.seed(seed)
    torch.set_num_threads(1)
    begun = time.process_time()
    examples, classes = read(table)
    model = make_model(weights, classes)
    augment = timm.data.create_transform(
        SIZE, is_training=True, auto_augment="rand-m5-n1", interpolation="bilinear", mean=MEAN, std=MEAN
    )
    plain = timm.data.create_transform(
        SIZE, interpolation="bilinear", crop_pct=1.0, crop_mode="squash", mean=MEAN, std=MEAN
    )
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=0.05)
    loss_of = LabelSmoothingCrossEntropy(0.1)
    generator = torch.Generator().manual_seed(seed)

    def train_epoch() -> None:
        model.train()
        order = torch.randperm(len(examples["train"]), generator=generator).tolist()
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = [examples["train"][number] for number in order[first : first + BATCH]]
            images = torch.stack([augment(image) for image, _ in batch])
            loss = loss_of(model(images), torch.tensor([label for _, label in batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer, "cosine", num_epochs=1000, warmup_epochs=WARMUP_EPOCHS, warmup_lr=1e-5, min_lr=0
    )
    scheduler.step(0)
    before = time.process_time()
    train_epoch()  # at the rate of the warm-up; it says how many fit
    epoch = time.process_time() - before
    epochs = max(WARMUP_EPOCHS + 1, int((begun + seconds - time.process_time()) / epoch))
    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer, "cosine", num_epochs=epochs, warmup_epochs=WARMUP_EPOCHS, warmup_lr=1e-5, min_lr=0
    )
    for number in range(1, epochs):
        scheduler.step(number)
        train_epoch()
    model.eval()
    images = torch.stack([plain(image) for image, _ in examples["validation"]])
    labels = torch.tensor([label for _, label in examples["validation"]])
    with torch.inference_mode():
        right = (model(images).argmax(-1) == labels).float().mean().item()
    print(json.dumps({"accuracy": 100 * right, "seconds": time.process_time() - begun, "epochs": epochs}))


main()
