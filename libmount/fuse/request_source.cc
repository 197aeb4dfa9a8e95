// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/request_source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "absl/time/time.h"

namespace libmount {
namespace {

// How long the next request is looked for without blocking, and how close together requests must be for that.
constexpr int64_t kSpinNanoseconds = 100'000;
// One long pause does not end the spinning: a gap counts at most this much in the average.
constexpr int64_t kLongestGap = 1'000'000;
constexpr int kGapSmoothing = 8;
// Requests that were already there, in a row, before a second thread is woken.
constexpr int kBacklogForHelp = 2;
constexpr int kIdleMilliseconds = 2'000;

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

absl::Status Watch(int epoll, int fd) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) return absl::ErrnoToStatus(errno, "epoll_ctl");
  return absl::OkStatus();
}

}  // namespace

void RequestSource::Turn::Prepare() {
  if (prepared_) return;
  prepared_ = true;
  prepare_();
}

void RequestSource::Turn::BecomeIdle(bool all) {
  prepared_ = false;
  on_idle_(all);
}

absl::Status RequestSource::Open(int fd) {
  fd_ = fd;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return absl::ErrnoToStatus(errno, "fcntl(O_NONBLOCK)");
  stop_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_event_) return absl::ErrnoToStatus(errno, "eventfd");
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return absl::ErrnoToStatus(errno, "epoll_create1");
  absl::Status watched = Watch(epoll_.get(), fd_);
  if (watched.ok()) watched = Watch(epoll_.get(), stop_event_.get());
  return watched;
}

size_t RequestSource::Receive(Turn* turn, absl::Span<char> buffer) {
  while (!ended_.load(std::memory_order_acquire)) {
    if (!turn->held_ && !TakeTurn(turn)) {
      // Somebody else receives. Take what is queued already, else sleep: two threads that wait for one request are one
      // too many.
      if (turn->prepared_) {
        if (size_t size = TryRead(buffer); size > 0) return size;
      }
      SleepUntilNeeded(turn);
      turn->Prepare();
      continue;
    }
    turn->Prepare();
    int64_t start = Now();
    if (size_t size = TryRead(buffer); size > 0) {
      average_gap_ -= average_gap_ / kGapSmoothing;
      if (++backlog_ >= kBacklogForHelp) {
        backlog_ = 0;
        // One client alone may be so quick, on the processor that it woke up on: nobody can help with that.
        if (IsMoreQueued()) InviteHelp();
      }
      return size;
    }
    backlog_ = 0;
    size_t size = SpinRead(buffer);
    while (size == 0 && !ended_.load(std::memory_order_acquire)) {
      Block(turn);
      size = TryRead(buffer);
    }
    int64_t gap = std::min(Now() - start, kLongestGap);
    average_gap_ += (gap - average_gap_) / kGapSmoothing;
    if (size > 0) return size;
  }
  PassTurn(turn);
  return 0;
}

void RequestSource::PassTurn(Turn* turn) {
  if (!turn->held_) return;
  turn->held_ = false;
  absl::MutexLock lock(&mutex_);
  turn_taken_ = false;
  if (sleeping_ > 0) needed_.Signal();
}

bool RequestSource::TakeTurn(Turn* turn) {
  absl::MutexLock lock(&mutex_);
  if (turn_taken_) return false;
  turn_taken_ = true;
  turn->held_ = true;
  backlog_ = 0;
  return true;
}

void RequestSource::SleepUntilNeeded(Turn* turn) {
  bool told_idle = false;
  mutex_.Lock();
  ++sleeping_;
  while (turn_taken_ && help_wanted_ == 0 && !ended_.load(std::memory_order_relaxed)) {
    if (told_idle) {
      needed_.Wait(&mutex_);
    } else if (needed_.WaitWithTimeout(&mutex_, absl::Milliseconds(kIdleMilliseconds))) {
      told_idle = true;
      mutex_.Unlock();
      turn->BecomeIdle(/*all=*/false);
      mutex_.Lock();
    }
  }
  --sleeping_;
  if (help_wanted_ > 0) --help_wanted_;
  mutex_.Unlock();
}

bool RequestSource::IsMoreQueued() const {
  pollfd queue = {fd_, POLLIN, 0};
  return poll(&queue, 1, 0) > 0;
}

void RequestSource::InviteHelp() {
  absl::MutexLock lock(&mutex_);
  if (sleeping_ == 0 || help_wanted_ > 0) return;
  help_wanted_ = 1;
  needed_.Signal();
}

size_t RequestSource::TryRead(absl::Span<char> buffer) {
  for (;;) {
    ssize_t size = read(fd_, buffer.data(), buffer.size());
    if (size > 0) return static_cast<size_t>(size);
    if (size == 0) {  // never from the kernel: the end of a test's socket
      End(absl::OkStatus());
      return 0;
    }
    switch (errno) {
      case EINTR:
      case ENOENT:  // the request was interrupted before it could be read
        continue;
      case EAGAIN: return 0;
      case ENODEV:        // unmounted, or the connection was aborted
      case ECONNABORTED:  // aborted, where the kernel tells the difference
        End(absl::OkStatus());
        return 0;
      default: End(absl::ErrnoToStatus(errno, "reading from the FUSE device")); return 0;
    }
  }
}

size_t RequestSource::SpinRead(absl::Span<char> buffer) {
  if (average_gap_ > kSpinNanoseconds) return 0;
  constexpr int kPausesBetweenReads = 16;
  int64_t deadline = Now() + kSpinNanoseconds;
  do {
    for (int i = 0; i < kPausesBetweenReads; ++i) Pause();
    if (size_t size = TryRead(buffer); size > 0) return size;
  } while (!ended_.load(std::memory_order_relaxed) && Now() < deadline);
  return 0;
}

void RequestSource::Block(Turn* turn) {
  epoll_event events[2];
  int ready;
  do {
    ready = epoll_wait(epoll_.get(), events, 2, kIdleMilliseconds);
  } while (ready < 0 && errno == EINTR);
  if (ready != 0) return;
  turn->BecomeIdle(/*all=*/true);
  do {
    ready = epoll_wait(epoll_.get(), events, 2, -1);
  } while (ready < 0 && errno == EINTR);
  turn->Prepare();
}

void RequestSource::Stop() { End(absl::OkStatus()); }

void RequestSource::End(absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_.load(std::memory_order_relaxed)) return;
    end_status_ = std::move(status);
    ended_.store(true, std::memory_order_release);
    needed_.SignalAll();
  }
  if (stop_event_) eventfd_write(stop_event_.get(), 1);
}

absl::Status RequestSource::end_status() const {
  absl::MutexLock lock(&mutex_);
  return end_status_;
}

}  // namespace libmount
