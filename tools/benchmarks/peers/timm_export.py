"""timm's own export of its `coatnet_0_224`, for the inference benchmark: FOLDER/model.onnx, from images in [0, 255].

python timm_export.py FOLDER    # in an environment with torch, timm, onnx and onnxscript
"""

import sys
from pathlib import Path

import timm
import torch


class Served(torch.nn.Module):
    """Takes and gives what this project's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("coatnet_0_224", exportable=True).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model((images / 127.5 - 1).permute(0, 3, 1, 2)).softmax(-1)


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
batch = torch.export.Dim("batch")
torch.onnx.export(
    Served().eval(),
    (torch.zeros(2, 224, 224, 3),),
    folder / "model.onnx",
    input_names=["images"],
    dynamic_shapes=({0: batch},),
    external_data=False,
)
