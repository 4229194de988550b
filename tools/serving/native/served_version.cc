#include "served_version.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/unknown_field_set.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/lib/io/record_writer.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/protobuf/named_tensor.pb.h"
#include "tensorflow/core/public/session.h"

namespace native {
namespace {

using ::google::protobuf::UnknownFieldSet;
using ::tensorflow::NamedTensorProto;
using ::tensorflow::Tensor;

constexpr char kWarmUpRequests[] = "/assets.extra/tf_serving_warmup_requests";

// TensorFlow's wheel does not have the messages of TensorFlow Serving; these are the numbers of the fields that are
// read and written here. An entry of a map of tensors has the fields of NamedTensorProto.
constexpr int kPredictLog = 6;                       // of PredictionLog
constexpr int kLogRequest = 1, kLogResponse = 2;     // of PredictLog
constexpr int kRequestSpec = 1, kRequestInputs = 2;  // of PredictRequest
constexpr int kSignatureName = 3;                    // of ModelSpec
constexpr int kResponseOutputs = 1;                  // of PredictResponse

// The bytes of a field that is there once.
absl::StatusOr<std::string> Field(const std::string& message, int number) {
  UnknownFieldSet fields;
  if (!fields.ParseFromString(message)) return absl::DataLossError("no protocol buffer");
  std::vector<std::string> found;
  for (int i = 0; i < fields.field_count(); ++i) {
    const auto& field = fields.field(i);
    if (field.number() == number && field.type() == google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) {
      found.emplace_back(field.length_delimited());
    }
  }
  if (found.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("it has field ", number, " ", found.size(), " times, not once"));
  }
  return found[0];
}

absl::StatusOr<Request> ParseRequest(const std::string& prediction_log) {
  TF_ASSIGN_OR_RETURN(const std::string predict_log, Field(prediction_log, kPredictLog));
  TF_ASSIGN_OR_RETURN(const std::string predict_request, Field(predict_log, kLogRequest));
  TF_ASSIGN_OR_RETURN(const std::string spec, Field(predict_request, kRequestSpec));
  TF_ASSIGN_OR_RETURN(const std::string inputs, Field(predict_request, kRequestInputs));
  Request request;
  TF_ASSIGN_OR_RETURN(request.signature, Field(spec, kSignatureName));
  NamedTensorProto input;
  if (!input.ParseFromString(inputs) || !request.value.FromProto(input.tensor())) {
    return absl::DataLossError("its tensor cannot be read");
  }
  request.input = input.name();
  return request;
}

std::string Serialized(const UnknownFieldSet& fields) {
  std::string bytes;
  fields.SerializeToString(&bytes);
  return bytes;
}

std::string Wrapped(int number, const std::string& message) {
  UnknownFieldSet fields;
  fields.AddLengthDelimited(number, message);
  return Serialized(fields);
}

}  // namespace

absl::StatusOr<std::vector<Request>> ReadRequests(const std::string& path) {
  std::unique_ptr<tensorflow::RandomAccessFile> file;
  TF_RETURN_IF_ERROR(tensorflow::Env::Default()->NewRandomAccessFile(path, &file));
  tensorflow::io::SequentialRecordReader reader(file.get());
  std::vector<Request> requests;
  tensorflow::tstring record;
  while (true) {
    const absl::Status status = reader.ReadRecord(&record);
    if (absl::IsOutOfRange(status)) return requests;  // the end
    const absl::StatusOr<Request> request = status.ok() ? ParseRequest(std::string(record)) : status;
    if (!request.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", record ", requests.size(), ": ", request.status().message()));
    }
    requests.push_back(*request);
  }
}

absl::Status WriteAnswers(const std::string& path, const std::vector<Answer>& answers) {
  std::unique_ptr<tensorflow::WritableFile> file;
  TF_RETURN_IF_ERROR(tensorflow::Env::Default()->NewWritableFile(path, &file));
  tensorflow::io::RecordWriter writer(file.get());
  for (const Answer& answer : answers) {
    UnknownFieldSet response;
    for (const auto& [name, value] : answer) {
      NamedTensorProto output;
      output.set_name(name);
      value.AsProtoField(output.mutable_tensor());
      const std::string entry = output.SerializeAsString();
      response.AddLengthDelimited(kResponseOutputs, entry);
    }
    const std::string predict_log = Wrapped(kLogResponse, Serialized(response));
    TF_RETURN_IF_ERROR(writer.WriteRecord(Wrapped(kPredictLog, predict_log)));
  }
  TF_RETURN_IF_ERROR(writer.Close());
  return file->Close();
}

Batcher::Batcher(const BatchingParameters& parameters) : parameters(parameters) {
  tensorflow::serving::SharedBatchScheduler<Task>::Options options;
  options.num_batch_threads = parameters.num_batch_threads;
  TF_CHECK_OK(tensorflow::serving::SharedBatchScheduler<Task>::Create(options, &scheduler));
}

int64_t Batcher::PaddedSize(int64_t size) const {
  for (const int64_t allowed : parameters.allowed_batch_sizes) {
    if (allowed >= size) return allowed;
  }
  return size;
}

absl::StatusOr<std::shared_ptr<ServedVersion>> ServedVersion::Load(const std::string& folder, Batcher* batcher) {
  auto version = std::make_shared<ServedVersion>();
  const absl::Status loaded = tensorflow::LoadSavedModel(tensorflow::SessionOptions(), tensorflow::RunOptions(), folder,
                                                         {"serve"}, &version->bundle_);
  if (!loaded.ok()) {
    return absl::Status(loaded.code(), absl::StrCat("no SavedModel can be loaded: ", loaded.message()));
  }
  version->batcher_ = batcher;
  for (const auto& [name, definition] : version->bundle_.GetSignatures()) {
    if (definition.inputs_size() != 1) continue;  // such as __saved_model_init_op
    const auto& [input_name, input] = *definition.inputs().begin();
    Signature& signature = version->signatures_[name];
    signature.input_name = input_name;
    signature.input_tensor = input.name();
    signature.dtype = input.dtype();
    for (const auto& [output_name, output] : definition.outputs()) {
      signature.output_names.push_back(output_name);
      signature.output_tensors.push_back(output.name());
    }
    if (batcher == nullptr) continue;
    tensorflow::serving::SharedBatchScheduler<Task>::QueueOptions options;
    options.input_batch_size_limit = batcher->parameters.max_batch_size;
    options.batch_timeout_micros = batcher->parameters.batch_timeout_micros;
    options.max_enqueued_batches = batcher->parameters.max_enqueued_batches;
    const auto process = [raw = version.get(), &signature](std::unique_ptr<tensorflow::serving::Batch<Task>> batch) {
      batch->WaitUntilClosed();
      const absl::Status status = raw->RunBatch(signature, *batch);
      for (int i = 0; i < batch->num_tasks(); ++i) {
        *batch->task(i).status = status;
        batch->task(i).done->Notify();
      }
    };
    TF_RETURN_IF_ERROR(batcher->scheduler->AddQueue(options, process, &signature.queue));
  }
  const std::string warm_up = folder + kWarmUpRequests;
  if (tensorflow::Env::Default()->FileExists(warm_up).ok()) {
    TF_ASSIGN_OR_RETURN(const std::vector<Request> requests, ReadRequests(warm_up));
    for (const Request& request : requests) TF_RETURN_IF_ERROR(version->Ask(request).status());
  }
  return version;
}

absl::StatusOr<Answer> ServedVersion::Ask(const Request& request) const { return Ask(request, batcher_ != nullptr); }

absl::StatusOr<Answer> ServedVersion::AskAlone(const Request& request) const { return Ask(request, false); }

absl::StatusOr<Answer> ServedVersion::Ask(const Request& request, bool in_batches) const {
  TF_ASSIGN_OR_RETURN(const Signature* signature, Find(request));
  std::vector<Tensor> outputs;
  if (in_batches) {
    absl::Status status;
    absl::Notification done;
    auto task = std::make_unique<Task>();
    task->input = &request.value;
    task->outputs = &outputs;
    task->status = &status;
    task->done = &done;
    TF_RETURN_IF_ERROR(signature->queue->Schedule(&task));
    done.WaitForNotification();
    TF_RETURN_IF_ERROR(status);
  } else {
    TF_RETURN_IF_ERROR(Run(*signature, request.value, &outputs));
  }
  Answer answer;
  for (size_t i = 0; i < outputs.size(); ++i) answer[signature->output_names[i]] = std::move(outputs[i]);
  return answer;
}

absl::StatusOr<const ServedVersion::Signature*> ServedVersion::Find(const Request& request) const {
  const auto found = signatures_.find(request.signature);
  if (found == signatures_.end()) {
    return absl::NotFoundError(absl::StrCat("The version has no signature \"", request.signature, "\"."));
  }
  const Signature& signature = found->second;
  if (request.input != signature.input_name || request.value.dtype() != signature.dtype ||
      request.value.dims() == 0 || request.value.dim_size(0) == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.signature, " takes ", signature.input_name, ", one row or more of ",
        tensorflow::DataTypeString(signature.dtype), "; got ", request.input, ", ", request.value.DebugString(0)));
  }
  return &signature;
}

absl::Status ServedVersion::Run(const Signature& signature, const Tensor& input, std::vector<Tensor>* outputs) const {
  return bundle_.GetSession()->Run({{signature.input_tensor, input}}, signature.output_tensors, {}, outputs);
}

// As tensorflow_serving/batching/batching_session.cc has it: rows of another shape fail the batch, and it is filled up
// with the first row of the last task.
absl::Status ServedVersion::RunBatch(const Signature& signature,
                                     const tensorflow::serving::Batch<Task>& batch) const {
  if (batch.empty()) return absl::OkStatus();
  std::vector<Tensor> inputs;
  std::vector<tensorflow::int64> sizes;
  const auto row_shape = [](const Tensor& tensor) {
    tensorflow::TensorShape shape = tensor.shape();
    shape.RemoveDim(0);
    return shape;
  };
  for (int i = 0; i < batch.num_tasks(); ++i) {
    inputs.push_back(*batch.task(i).input);
    sizes.push_back(inputs.back().dim_size(0));
    if (row_shape(inputs.back()) != row_shape(inputs.front())) {
      return absl::FailedPreconditionError("Requests of one batch have rows of different shapes.");
    }
  }
  const int64_t size = batch.size(), padding = batcher_->PaddedSize(size) - size;
  const Tensor first_row = inputs.back().Slice(0, 1);
  inputs.insert(inputs.end(), padding, first_row);
  if (padding > 0) sizes.push_back(padding);
  Tensor joined;
  TF_RETURN_IF_ERROR(tensorflow::tensor::Concat(inputs, &joined));
  std::vector<Tensor> outputs;
  TF_RETURN_IF_ERROR(Run(signature, joined, &outputs));
  for (const Tensor& output : outputs) {
    if (output.dims() == 0 || output.dim_size(0) != size + padding) {
      return absl::FailedPreconditionError("An output has another number of rows than the input.");
    }
    std::vector<Tensor> parts;
    TF_RETURN_IF_ERROR(tensorflow::tensor::Split(output, sizes, &parts));
    for (int i = 0; i < batch.num_tasks(); ++i) batch.task(i).outputs->push_back(std::move(parts[i]));
  }
  ++batcher_->batches;
  batcher_->rows += size;
  batcher_->padded_rows += size + padding;
  return absl::OkStatus();
}

}  // namespace native
