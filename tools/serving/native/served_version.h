// A version of a model as TensorFlow Serving has it: loaded, warmed up, and answering in batches.

#ifndef TOOLS_SERVING_NATIVE_SERVED_VERSION_H_
#define TOOLS_SERVING_NATIVE_SERVED_VERSION_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/kernels/batching_util/shared_batch_scheduler.h"

namespace native {

// What a PredictRequest asks. Each signature of tools/serving/signatures.py has one input.
struct Request {
  std::string signature;
  std::string input;
  tensorflow::Tensor value;  // [n, ...]
};

// Tensors by the names that the signature gives them.
using Answer = std::map<std::string, tensorflow::Tensor>;

// The requests of a TFRecord file of PredictionLogs, such as the warm-up requests of an export.
absl::StatusOr<std::vector<Request>> ReadRequests(const std::string& path);

// Writes a TFRecord file of PredictionLogs with responses alone.
absl::Status WriteAnswers(const std::string& path, const std::vector<Answer>& answers);

// tensorflow.serving.BatchingParameters, as far as tools/serving/batching_parameters.txt names them.
struct BatchingParameters {
  int64_t max_batch_size = 0;
  int64_t batch_timeout_micros = 0;
  int64_t max_enqueued_batches = 0;
  int64_t num_batch_threads = 0;
  std::vector<int64_t> allowed_batch_sizes;  // ascending, the last of them max_batch_size
};

// A request that waits for its answer, in the queue of its signature.
struct Task : public tensorflow::serving::BatchTask {
  size_t size() const override { return input->dim_size(0); }

  const tensorflow::Tensor* input;
  std::vector<tensorflow::Tensor>* outputs;
  absl::Status* status;
  absl::Notification* done;
};

// TensorFlow Serving's scheduler, one for all versions, and what its batches were.
struct Batcher {
  explicit Batcher(const BatchingParameters& parameters);

  // The size up to which a batch is filled.
  int64_t PaddedSize(int64_t size) const;

  const BatchingParameters parameters;
  std::shared_ptr<tensorflow::serving::SharedBatchScheduler<Task>> scheduler;
  std::atomic<int64_t> batches{0}, rows{0}, padded_rows{0};
};

class ServedVersion {
 public:
  // Loads a SavedModel and replays its warm-up requests. The batcher must outlive it; without one each request is run
  // by the thread that asks.
  static absl::StatusOr<std::shared_ptr<ServedVersion>> Load(const std::string& folder, Batcher* batcher);

  // Answers a request, in a batch with those of other threads if there is a batcher. Thread-safe.
  absl::StatusOr<Answer> Ask(const Request& request) const;

  // Answers a request in a batch of its own.
  absl::StatusOr<Answer> AskAlone(const Request& request) const;

 private:
  struct Signature {
    std::string input_name;
    std::string input_tensor;
    tensorflow::DataType dtype;
    std::vector<std::string> output_names;
    std::vector<std::string> output_tensors;
    // Last, so that it goes first: its destructor waits for the tasks in it.
    std::unique_ptr<tensorflow::serving::BatchScheduler<Task>> queue;
  };

  absl::StatusOr<const Signature*> Find(const Request& request) const;
  absl::StatusOr<Answer> Ask(const Request& request, bool in_batches) const;
  absl::Status Run(const Signature& signature, const tensorflow::Tensor& input,
                   std::vector<tensorflow::Tensor>* outputs) const;
  absl::Status RunBatch(const Signature& signature, const tensorflow::serving::Batch<Task>& batch) const;

  tensorflow::SavedModelBundle bundle_;
  Batcher* batcher_;
  std::map<std::string, Signature> signatures_;  // behind bundle_: queues are emptied before the session ends
};

}  // namespace native

#endif  // TOOLS_SERVING_NATIVE_SERVED_VERSION_H_
