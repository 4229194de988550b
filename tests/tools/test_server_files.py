"""What lies beside a SavedModel for the server: warm-up records, model card, and its own configuration."""

from pathlib import Path

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.tools.samples import LABELS
from tools.export_saved_model import ExportOptions
from tools.serving import batching, model_card, signatures, warmup

CONFIGURATION = Path(warmup.__file__).parent


def test_files_of_a_version(version, model_file):
    assert (version / "assets" / signatures.CLASSES_FILE).read_text().splitlines() == LABELS
    card = (version / model_card.FILE).read_text()
    assert f"SHA-256 `{model_card.sha256(model_file)}`" in card
    assert "| Folded | yes |" in card and "32 x 32, 3 channels" in card


def test_warm_up_records_are_answered(version, served):
    records = [*tf.data.TFRecordDataset(str(version / warmup.FILE)).as_numpy_iterator()]
    assert len(records) == 3 * len(warmup.BATCH_SIZES)
    seen = set()
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "coatnet"
        seen.add(request.model_spec.signature_name)
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = served.signatures[request.model_spec.signature_name](**inputs)
        assert all(len(value) in warmup.BATCH_SIZES for value in outputs.values())
        assert "error" not in outputs or set(outputs["error"].numpy()) == {b""}
    assert seen == {"serving_default", "serving_bytes", "classify"}


SERVER_PROTOS = """
name: "server.proto" package: "tensorflow.serving" syntax: "proto3"
message_type { name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL } field { name: "path" number: 2 type: TYPE_STRING } }
message_type { name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.serving.PrometheusConfig" } }
"""


def server_message(name, file):
    """Parses a file as one of the server's messages that `tensorflow-serving-api` leaves out."""
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    except KeyError:
        pool.AddSerializedFile(
            text_format.Parse(SERVER_PROTOS, descriptor_pb2.FileDescriptorProto()).SerializeToString()
        )
        descriptor = pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    return text_format.Parse((CONFIGURATION / file).read_text(), message_factory.GetMessageClass(descriptor)())


def test_configuration_of_the_server_parses():
    config = text_format.Parse(
        (CONFIGURATION / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (served,) = config.model_config_list.config
    assert served.name == ExportOptions(output=Path()).name
    assert set(served.version_labels.values()) <= set(served.model_version_policy.specific.versions)
    assert set(served.version_labels) == {"stable", "canary"}

    assert batching.read().allowed_batch_sizes == warmup.BATCH_SIZES

    monitoring = server_message("MonitoringConfig", "monitoring.config")
    assert monitoring.prometheus_config.enable
    compose = (CONFIGURATION / "docker-compose.yml").read_text()
    for file in ("models.config", "batching_parameters.txt", "monitoring.config"):
        assert f"/config/{file}" in compose
    assert f":{served.base_path}:" in compose
    assert monitoring.prometheus_config.path in compose
