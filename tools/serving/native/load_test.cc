// Asks a version of a model from many threads, as the clients of a server do; see tools/load_test.py.
//
//   load_test --saved_model=DIR --requests=FILE --answers=FILE           answers each request of a file
//   load_test --saved_model=DIR --requests=FILE --clients=8 --count=1000 measures, and compares each answer with the
//                                                                        one that the request gets alone
//
// With --max_batch_size and the other batching parameters requests share batches. --swap=DIR puts a new version in the
// place of the first when half of the requests are answered, without a pause.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <limits>
#include <mutex>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "served_version.h"
#include "tensorflow/core/util/command_line_flags.h"

namespace native {
namespace {

using ::tensorflow::Tensor;
using Clock = std::chrono::steady_clock;

// Of the largest number of an answer. Batches of other sizes are summed in another order: 1e-6.
constexpr float kTolerance = 1e-4;

bool Same(const Tensor& found, const Tensor& expected) {
  if (found.dtype() != expected.dtype() || found.shape() != expected.shape()) return false;
  if (found.dtype() == tensorflow::DT_STRING) {
    const auto a = found.flat<tensorflow::tstring>(), b = expected.flat<tensorflow::tstring>();
    return std::equal(a.data(), a.data() + a.size(), b.data());
  }
  const auto a = found.flat<float>(), b = expected.flat<float>();
  float largest = 0;
  for (int64_t i = 0; i < b.size(); ++i) {
    if (std::isfinite(b(i))) largest = std::max(largest, std::abs(b(i)));
  }
  for (int64_t i = 0; i < b.size(); ++i) {
    if (std::isnan(a(i)) != std::isnan(b(i)) || std::abs(a(i) - b(i)) > kTolerance * largest) return false;
  }
  return true;
}

bool Same(const Answer& found, const Answer& expected) {
  return found.size() == expected.size() &&
         std::equal(found.begin(), found.end(), expected.begin(),
                    [](const auto& a, const auto& b) { return a.first == b.first && Same(a.second, b.second); });
}

// Resident memory of this process.
double Megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stod(line.substr(6)) / 1e3;
  }
  return std::nan("");
}

// A version, and the answers that each request gets of it alone.
struct Candidate {
  std::shared_ptr<ServedVersion> version;
  const std::vector<Answer>* references;
};

absl::StatusOr<std::vector<Answer>> References(const ServedVersion& version, const std::vector<Request>& requests) {
  std::vector<Answer> answers;
  for (const Request& request : requests) {
    absl::StatusOr<Answer> answer = version.AskAlone(request);
    if (!answer.ok()) {
      return absl::Status(answer.status().code(),
                          absl::StrCat("request ", answers.size(), ": ", answer.status().message()));
    }
    answers.push_back(*std::move(answer));
  }
  return answers;
}

// In one line, as it is read.
std::string Line(const absl::string_view message) { return absl::StrReplaceAll(message, {{"\n", " "}, {"\t", ""}}); }

// How many requests have an answer that cannot be told from another request's.
int CountAlike(const std::vector<Request>& requests, const std::vector<Answer>& references) {
  int alike = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (requests[i].signature == requests[j].signature && Same(references[i], references[j])) {
        ++alike;
        break;
      }
    }
  }
  return alike;
}

class LoadTest {
 public:
  LoadTest(const std::vector<Request>& requests, Candidate first, int64_t count)
      : requests_(requests), current_(std::move(first)), count_(count), limit_(count) {}

  // Asks from so many threads; with a second version, until half of `count` requests were begun behind the change.
  absl::Status Run(int clients, const std::string& swap, Batcher* batcher, const std::vector<Answer>* references) {
    if (!swap.empty()) limit_ = std::numeric_limits<int64_t>::max();
    megabytes_[0] = Megabytes();
    const auto start = Clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < clients; ++i) threads.emplace_back([this] { Ask(); });
    absl::Status status;
    if (!swap.empty()) {
      std::unique_lock<std::mutex> lock(mutex_);
      half_.wait(lock, [this] { return next_ > count_ / 2; });
      lock.unlock();
      absl::StatusOr<std::shared_ptr<ServedVersion>> second = ServedVersion::Load(swap, batcher);
      lock.lock();
      status = second.status();
      Candidate old = current_;  // which ends with its last request
      if (status.ok()) current_ = {*std::move(second), references};
      limit_ = next_ + count_ - count_ / 2;
      lock.unlock();
    }
    for (std::thread& thread : threads) thread.join();
    seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
    megabytes_[2] = Megabytes();
    return status;
  }

  void Print() {
    std::sort(milliseconds_.begin(), milliseconds_.end());
    const auto percentile = [this](double share) {
      return milliseconds_[std::min<size_t>(milliseconds_.size() * share, milliseconds_.size() - 1)];
    };
    printf("requests %zu\nby_the_second %ld\nseconds %.3f\n", milliseconds_.size(), long{by_the_second_}, seconds_);
    printf("p50 %.3f\np99 %.3f\nerrors %ld\nwrong %ld\n", percentile(0.5), percentile(0.99), long{errors_},
           long{wrong_});
    printf("start_megabytes %.1f\nmiddle_megabytes %.1f\nend_megabytes %.1f\n", megabytes_[0], megabytes_[1],
           megabytes_[2]);
    printf("first_error %s\n", Line(first_error_).c_str());
  }

 private:
  // What one client does.
  void Ask() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (next_ < limit_) {
      const int64_t index = next_++;
      if (index == count_ / 2) {
        megabytes_[1] = Megabytes();
        half_.notify_one();
      }
      Candidate candidate = current_;
      lock.unlock();
      const size_t which = index % requests_.size();
      const auto start = Clock::now();
      const absl::StatusOr<Answer> answer = candidate.version->Ask(requests_[which]);
      const std::chrono::duration<double, std::milli> took = Clock::now() - start;
      const bool wrong = answer.ok() && !Same(*answer, (*candidate.references)[which]);
      const bool second = candidate.references != first_references_;
      candidate = {};  // may be the last of a version, which takes its time
      lock.lock();
      milliseconds_.push_back(took.count());
      by_the_second_ += second;
      wrong_ += wrong;
      if (!answer.ok() && ++errors_ == 1) first_error_ = std::string(answer.status().message());
    }
  }

  const std::vector<Request>& requests_;
  std::mutex mutex_;  // of all that follows
  std::condition_variable half_;
  Candidate current_;
  const std::vector<Answer>* const first_references_ = current_.references;
  const int64_t count_;
  int64_t limit_, next_ = 0, by_the_second_ = 0, errors_ = 0, wrong_ = 0;
  std::string first_error_;
  std::vector<double> milliseconds_;
  double seconds_ = 0, megabytes_[3] = {};
};

absl::StatusOr<std::vector<Answer>> AskAll(const ServedVersion& version, const std::vector<Request>& requests,
                                           int clients) {
  std::vector<absl::StatusOr<Answer>> found(requests.size());
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < clients; ++i) {
    threads.emplace_back([&] {
      for (size_t index; (index = next++) < requests.size();) found[index] = version.Ask(requests[index]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<Answer> answers;
  for (absl::StatusOr<Answer>& answer : found) {
    if (!answer.ok()) {
      return absl::Status(answer.status().code(),
                          absl::StrCat("request ", answers.size(), ": ", answer.status().message()));
    }
    answers.push_back(*std::move(answer));
  }
  return answers;
}

absl::Status Main(int argc, char** argv) {
  std::string saved_model, requests_file, answers_file, swap, allowed;
  tensorflow::int64 clients = 1, count = 0;
  BatchingParameters parameters;
  tensorflow::int64 size = 0, timeout = 0, enqueued = 0, batch_threads = 0;
  const std::vector<tensorflow::Flag> flags = {
      {"saved_model", &saved_model, "Folder of a version."},
      {"requests", &requests_file, "TFRecord file of PredictionLogs."},
      {"answers", &answers_file, "File for the answers; without it there is a load test."},
      {"clients", &clients, "Threads that ask."},
      {"count", &count, "Requests of the load test, from the file in turn."},
      {"swap", &swap, "Folder of the version that takes the place of the first."},
      {"max_batch_size", &size, "Of tensorflow.serving.BatchingParameters, as the others; 0 for no batching."},
      {"batch_timeout_micros", &timeout, ""},
      {"max_enqueued_batches", &enqueued, ""},
      {"num_batch_threads", &batch_threads, ""},
      {"allowed_batch_sizes", &allowed, "Ascending, with commas."},
  };
  if (!tensorflow::Flags::Parse(&argc, argv, flags) || argc > 1 || saved_model.empty() || requests_file.empty()) {
    fprintf(stderr, "%s", tensorflow::Flags::Usage(argv[0], flags).c_str());
    return absl::InvalidArgumentError("--saved_model, --requests and no other words but these flags are expected.");
  }
  std::unique_ptr<Batcher> batcher;
  if (size > 0) {
    parameters = {size, timeout, enqueued, batch_threads, {}};
    for (const auto part : absl::StrSplit(allowed, ',', absl::SkipEmpty())) {
      if (!absl::SimpleAtoi(part, &parameters.allowed_batch_sizes.emplace_back())) {
        return absl::InvalidArgumentError(absl::StrCat("--allowed_batch_sizes=", allowed, ": no list of numbers."));
      }
    }
    batcher = std::make_unique<Batcher>(parameters);
  }
  TF_ASSIGN_OR_RETURN(const std::vector<Request> requests, ReadRequests(requests_file));
  if (requests.empty()) return absl::InvalidArgumentError(absl::StrCat(requests_file, " holds no request."));

  std::vector<Answer> second_references;
  if (!swap.empty()) {  // and it is loaded again under load
    TF_ASSIGN_OR_RETURN(const auto second, ServedVersion::Load(swap, batcher.get()));
    TF_ASSIGN_OR_RETURN(second_references, References(*second, requests));
  }
  TF_ASSIGN_OR_RETURN(std::shared_ptr<ServedVersion> version, ServedVersion::Load(saved_model, batcher.get()));
  if (!answers_file.empty()) {
    TF_ASSIGN_OR_RETURN(const std::vector<Answer> answers, AskAll(*version, requests, clients));
    return WriteAnswers(answers_file, answers);
  }
  TF_ASSIGN_OR_RETURN(const std::vector<Answer> references, References(*version, requests));
  if (batcher != nullptr) batcher->batches = batcher->rows = batcher->padded_rows = 0;  // without the warm-up
  LoadTest test(requests, {std::move(version), &references}, count);
  TF_RETURN_IF_ERROR(test.Run(clients, swap, batcher.get(), &second_references));
  test.Print();
  printf("alike %d\n", CountAlike(requests, references));
  if (batcher != nullptr) {
    printf("batches %ld\nrows %ld\npadded_rows %ld\n", long{batcher->batches}, long{batcher->rows},
           long{batcher->padded_rows});
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace native

int main(int argc, char** argv) {
  const absl::Status status = native::Main(argc, argv);
  if (!status.ok()) fprintf(stderr, "%s\n", native::Line(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
