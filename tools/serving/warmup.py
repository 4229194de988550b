"""Requests that TensorFlow Serving replays when it loads a version, so that no user's request is the first.

The first request of a shape is slow: kernels are chosen and memory is taken. The records lie where the server looks for
them, in `assets.extra/tf_serving_warmup_requests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from experiments.data import other_formats
from tools.serving import signatures

BATCH_SIZES = (1, 8, 32)  # allowed_batch_sizes of tools/serving/batching_parameters.txt
FILE = "assets.extra/tf_serving_warmup_requests"


def encode(image: np.ndarray) -> bytes:
    """A JPEG file of an image, or a PNG file if it has channels that JPEG has not.

    Args:
        image: uint8 `[height, width, channels]` of at most four channels.
    """
    encoder = tf.io.encode_jpeg if image.shape[-1] in other_formats.OF_PICTURES else tf.io.encode_png
    return encoder(image).numpy()


def request(name: str, signature: str, value: np.ndarray | Sequence[bytes]) -> predict_pb2.PredictRequest:
    """A request for one of the signatures.

    Args:
        name: Name under which the model is served.
        signature: `"serving_default"` or one of `signatures.OF_FILES`.
        value: Images, or files.
    """
    message = predict_pb2.PredictRequest()
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    key = "image_bytes" if signature in signatures.OF_FILES else "images"
    message.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return message


def write_requests(path: Path, requests: Iterable[predict_pb2.PredictRequest]) -> None:
    """Writes requests as the server reads them: a TFRecord file of PredictionLogs."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for message in requests:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=message))
            writer.write(log.SerializeToString())


def requests(
    name: str, input_shape: Sequence[int], input_dtype: str, of_files: Sequence[str] = signatures.OF_FILES
) -> Iterator[predict_pb2.PredictRequest]:
    """One request for each signature and batch size, of an image of noise.

    Args:
        name: Name under which the model is served.
        input_shape: `(height, width, channels)` of `serving_default`.
        input_dtype: Of `serving_default`.
        of_files: The signatures of files that it has.
    """
    image = np.random.default_rng(0).integers(0, 256, input_shape, dtype="uint8")
    encoded = encode(image) if signatures.takes_files(input_shape[-1]) else None
    for batch_size in BATCH_SIZES:
        yield request(name, "serving_default", np.stack([image] * batch_size).astype(input_dtype))
        if encoded is not None:
            for signature in of_files:
                yield request(name, signature, [encoded] * batch_size)


def write(folder: Path, name: str, input_shape: Sequence[int], input_dtype: str, of_files: Sequence[str]) -> None:
    """Writes the requests into a SavedModel.

    Args:
        folder: Folder of the SavedModel.
        name: Name under which the model is served.
        input_shape: `(height, width, channels)` of `serving_default`.
        input_dtype: Of `serving_default`.
        of_files: As of `requests`.
    """
    (folder / FILE).parent.mkdir()
    write_requests(folder / FILE, requests(name, input_shape, input_dtype, of_files))
