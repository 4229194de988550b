"""Requests that TensorFlow Serving replays when it loads a version, so that no user's request is the first.

The first request of a shape is slow: kernels are chosen and memory is taken. The records lie where the server looks for
them, in `assets.extra/tf_serving_warmup_requests`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from experiments.data import other_formats
from tools.serving import signatures

BATCH_SIZES = (1, 8, 32)  # allowed_batch_sizes of tools/serving/batching_parameters.txt
FILE = "assets.extra/tf_serving_warmup_requests"


def requests(name: str, input_shape: Sequence[int], input_dtype: str) -> Iterator[predict_pb2.PredictRequest]:
    """One request for each signature and batch size, of an image of noise.

    Args:
        name: Name under which the model is served.
        input_shape: `(height, width, channels)` of `serving_default`.
        input_dtype: Of `serving_default`.
    """
    image = np.random.default_rng(0).integers(0, 256, input_shape, dtype="uint8")
    as_file = signatures.takes_files(input_shape[-1])
    encode = tf.io.encode_jpeg if input_shape[-1] in other_formats.OF_PICTURES else tf.io.encode_png
    encoded = encode(image).numpy() if as_file else b""
    for batch_size in BATCH_SIZES:
        inputs = {
            "serving_default": ("images", np.stack([image] * batch_size).astype(input_dtype)),
            **({name: ("image_bytes", [encoded] * batch_size) for name in signatures.OF_FILES} if as_file else {}),
        }
        for signature, (key, value) in inputs.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            yield request


def write(folder: Path, name: str, input_shape: Sequence[int], input_dtype: str) -> None:
    """Writes the requests into a SavedModel.

    Args:
        folder: Folder of the SavedModel.
        name: Name under which the model is served.
        input_shape: `(height, width, channels)` of `serving_default`.
        input_dtype: Of `serving_default`.
    """
    (folder / FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for request in requests(name, input_shape, input_dtype):
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
