"""timm's `coatnet_0_224` as a contender of the inference benchmark, in an environment with torch, timm and numpy.

    python timm_worker.py eager|compiled|bfloat16

Speaks as `tools/benchmarks/worker.py` does, whose `serve` it borrows.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from tools.benchmarks.worker import Classify, serve


def make() -> Classify:
    model = timm.create_model("coatnet_0_224").eval()
    call = torch.compile(model) if sys.argv[1] == "compiled" else model

    def answer(images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[1] == "bfloat16"):
            return call(batch).softmax(-1).float().numpy()

    return answer


serve(make)
