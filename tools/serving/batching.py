"""How a server puts requests of several clients into one batch: `batching_parameters.txt`, and what is read of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

FILE = Path(__file__).with_name("batching_parameters.txt")

# Of session_bundle_config.proto, which tensorflow-serving-api leaves out.
_PROTO = """
name: "batching.proto" package: "tensorflow.serving" syntax: "proto3" dependency: "google/protobuf/wrappers.proto"
message_type { name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL } }
"""
_VALUES = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """tensorflow.serving.BatchingParameters.

    Args:
        max_batch_size: Images in a batch.
        batch_timeout_micros: How long a batch waits for more of them, in microseconds.
        max_enqueued_batches: Batches that wait; further requests are refused.
        num_batch_threads: Batches that are computed at once.
        allowed_batch_sizes: Sizes up to which batches are filled, ascending, the last of them `max_batch_size`.
    """

    max_batch_size: int
    batch_timeout_micros: int
    max_enqueued_batches: int
    num_batch_threads: int
    allowed_batch_sizes: tuple[int, ...]


def read(file: Path = FILE) -> BatchingParameters:
    """Reads a file of parameters.

    Args:
        file: In protobuf's text format.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is none, leaves a value to the server's defaults, or has one that the server refuses.

    >>> read().allowed_batch_sizes
    (1, 8, 32)
    """
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()).SerializeToString())
    message_class = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))
    try:
        message: Any = text_format.Parse(file.read_text(), message_class())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no file of batching parameters: {error}") from error
    if missing := [name for name in _VALUES if not message.HasField(name)]:
        raise ValueError(f"{file} does not say {', '.join(missing)}.")
    values = {name: getattr(message, name).value for name in _VALUES}
    sizes = tuple(message.allowed_batch_sizes)
    for name, value in values.items():
        if value < (least := 0 if name == "batch_timeout_micros" else 1):
            raise ValueError(f"{file}: {name} has to be {least} at least; got {value}.")
    if sizes and (list(sizes) != sorted({*sizes}) or sizes[0] < 1 or sizes[-1] != values["max_batch_size"]):
        raise ValueError(
            f"{file}: allowed_batch_sizes have to ascend, and end with max_batch_size={values['max_batch_size']}; got "
            f"{', '.join(map(str, sizes))}."
        )
    if message.pad_variable_length_inputs:
        raise ValueError(f"{file}: pad_variable_length_inputs has to be false: all images of a model have one shape.")
    return BatchingParameters(**values, allowed_batch_sizes=sizes)
