// SPDX-License-Identifier: Apache-2.0
//
// A running call as its caller sees it: Wake puts the calling thread to sleep until there is something to do,
// ServerStream and UnaryCall receive on gRPC's threads and wake it.
//
// Both calls may be destroyed at any moment: the destructor cancels what still runs and waits until gRPC has let go.

#ifndef CLIENT_COMMON_STREAM_CALL_H_
#define CLIENT_COMMON_STREAM_CALL_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <chrono>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/common/service.h"
#include "client/common/unique_fd.h"

namespace dismd {

class Wake {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Event { kWoken, kCancelled, kTimedOut };

  Wake() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  bool valid() const { return fd_.valid(); }

  // Any thread.
  void Signal() { eventfd_write(fd_.get(), 1); }

  // Sleeps until Signal, `cancel` (may be null) or the deadline.
  Event Wait(CancelSource* cancel, std::optional<Clock::time_point> deadline) {
    for (;;) {
      pollfd fds[2] = {{fd_.get(), POLLIN, 0}, {cancel != nullptr ? cancel->fd() : -1, POLLIN, 0}};
      int timeout = -1;
      if (deadline) {
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - Clock::now()).count();
        timeout = left < 0 ? 0 : static_cast<int>(left) + 1;
      }
      int ready = poll(fds, 2, timeout);
      if (ready == 0) return Event::kTimedOut;
      if (ready < 0) continue;  // EINTR: a signal handler may have made the cancel source readable
      // The cancel source first: under a flood of messages it must not starve.
      if (fds[1].revents != 0 && cancel->Take()) return Event::kCancelled;
      if (fds[0].revents != 0) {
        eventfd_t count;
        eventfd_read(fd_.get(), &count);
        return Event::kWoken;
      }
    }
  }

 private:
  UniqueFd fd_;
};

template <typename Response>
class ServerStream final : public grpc::ClientReadReactor<Response> {
 public:
  enum class Keep {
    kLatest,  // a message that was not taken in time is replaced by the next
    kEvery,   // the next message is asked for when the last was taken
  };

  ServerStream(Wake* wake, Keep keep) : wake_(wake), keep_(keep) {}

  ~ServerStream() override {
    if (!started_) return;
    context_.TryCancel();
    bool release = false;
    {
      absl::MutexLock lock(&mutex_);
      release = !reading_ && !ended_;
      if (release) ended_ = true;
    }
    if (release) this->RemoveHold();
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
  }

  grpc::ClientContext* context() { return &context_; }

  // After the stub's method was called with this reactor.
  void Start() {
    started_ = true;
    this->AddHold();  // reads are also started from the calling thread
    this->StartRead(&incoming_);
    this->StartCall();
  }

  // The message that has arrived, if any; `*status` is set once the call has ended and no further message comes.
  std::optional<Response> Take(std::optional<grpc::Status>* status) {
    bool read_next = false;
    std::optional<Response> message;
    {
      absl::MutexLock lock(&mutex_);
      message = std::exchange(arrived_, std::nullopt);
      if (done_) *status = status_;
      read_next = message.has_value() && keep_ == Keep::kEvery && !reading_ && !ended_;
      if (read_next) reading_ = true;
    }
    if (read_next) this->StartRead(&incoming_);
    return message;
  }

 private:
  void OnReadDone(bool ok) override {
    bool read_next = false;
    {
      absl::MutexLock lock(&mutex_);
      if (ok) {
        arrived_ = std::move(incoming_);
        incoming_ = Response();
      } else {
        ended_ = true;
      }
      read_next = reading_ = ok && keep_ == Keep::kLatest;
      wake_->Signal();
    }
    if (read_next) this->StartRead(&incoming_);
    if (!ok) this->RemoveHold();
  }

  void OnDone(const grpc::Status& status) override {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
    wake_->Signal();
  }

  Wake* const wake_;
  const Keep keep_;
  grpc::ClientContext context_;
  Response incoming_;  // gRPC's while a read is under way
  bool started_ = false;
  absl::Mutex mutex_;
  std::optional<Response> arrived_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // no further read; the hold is given back
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

class UnaryCall {
 public:
  explicit UnaryCall(Wake* wake) : wake_(wake) {}
  ~UnaryCall() {
    if (!started_) return;
    context_.TryCancel();
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
  }

  grpc::ClientContext* context() { return &context_; }

  // What the stub's method takes as its callback.
  std::function<void(grpc::Status)> Callback() {
    started_ = true;
    return [this](grpc::Status status) {
      absl::MutexLock lock(&mutex_);
      status_ = std::move(status);
      done_ = true;
      wake_->Signal();
    };
  }

  std::optional<grpc::Status> Result() {
    absl::MutexLock lock(&mutex_);
    return done_ ? std::optional<grpc::Status>(status_) : std::nullopt;
  }

 private:
  Wake* const wake_;
  grpc::ClientContext context_;
  bool started_ = false;
  absl::Mutex mutex_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // CLIENT_COMMON_STREAM_CALL_H_
