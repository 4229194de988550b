"""Operations of TensorFlow that the ONNX exporter does not know; importing this module teaches it them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tf2onnx.handler import tf_op


@tf_op("Erfc")
class Erfc:
    """1 - erf(x), of which TensorFlow makes the exact GELU."""

    @classmethod
    def version_9(cls, graph: Any, node: Any, **kwargs: Any) -> None:
        output, dtype = node.output[0], graph.get_dtype(node.output[0])
        shape = graph.get_shape(output)
        erf = graph.make_node("Erf", [node.input[0]], shapes=[shape], dtypes=[dtype])
        one = graph.make_const(f"{node.name}_one", np.ones((), "float32"))
        graph.remove_node(node.name)
        graph.make_node(
            "Sub", [one.output[0], erf.output[0]], name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype]
        )
