"""timm's CoAtNets as contenders of the training benchmark, in an environment with torch, timm and numpy.

    python timm_training_worker.py eager|compiled|channels_last float32|bfloat16 MODEL BATCH_SIZE all|head

`channels_last` is `torch.compile` too, with images and weights laid out so. Speaks as
`tools/benchmarks/training_worker.py` does, whose `serve` it borrows.
"""

import sys
from pathlib import Path

import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from tools.benchmarks.training_worker import Step, batch_of, serve


def make() -> tuple[str, Step]:
    mode, dtype, name, batch_size, trained = sys.argv[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if mode == "channels_last" else torch.contiguous_format
    model = timm.create_model(f"{name.replace('-', '_')}_224").train().to(device, memory_format=layout)
    if trained == "head":  # in evaluation mode, as what is frozen is
        model.eval().requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    call = model if mode == "eager" else torch.compile(model)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05, fused=device == "cuda"
    )
    images, labels = batch_of(int(batch_size))
    images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=layout)
    labels = torch.from_numpy(labels).to(device)

    def step() -> float | None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = call(images.float() / 127.5 - 1)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None

    return torch.cuda.get_device_name() if device == "cuda" else "CPU", step


serve(make)
