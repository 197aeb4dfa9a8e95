// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/event_loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

constexpr int kEventsAtOnce = 64;
constexpr EventLoop::WatchId kWakeId = 0;

}  // namespace

EventLoop::EventLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = kWakeId}};
  if (!epoll_ || !wake_ || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    libmount::Log(libmount::Severity::kError, absl::StrCat("cannot make an event loop: errno ", errno));
    abort();
  }
  thread_ = std::thread([this] { Run(); });
}

EventLoop::~EventLoop() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

EventLoop::WatchId EventLoop::Add(int fd, uint32_t events, Callback callback) {
  auto watch = std::make_shared<Watch>();
  watch->fd = fd;
  {
    absl::MutexLock lock(&watch->mutex);
    watch->callback = std::move(callback);
  }
  absl::MutexLock lock(&mutex_);
  WatchId id = ++last_id_;
  watches_[id] = std::move(watch);
  epoll_event event = {.events = events, .data = {.u64 = id}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    libmount::Log(libmount::Severity::kError, absl::StrCat("cannot watch a descriptor: errno ", errno));
  }
  return id;
}

void EventLoop::Remove(WatchId id) {
  std::shared_ptr<Watch> watch;
  {
    absl::MutexLock lock(&mutex_);
    auto place = watches_.find(id);
    if (place == watches_.end()) return;
    watch = std::move(place->second);
    watches_.erase(place);
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watch->fd, nullptr);
  }
  if (std::this_thread::get_id() == thread_.get_id()) return;  // inside a callback, perhaps this one
  Callback callback;
  absl::MutexLock lock(&watch->mutex);
  callback.swap(watch->callback);  // what it owns goes now, not when the loop lets go of it
}

void EventLoop::Dispatch(WatchId id, uint32_t events) {
  std::shared_ptr<Watch> watch;
  {
    absl::MutexLock lock(&mutex_);
    auto place = watches_.find(id);
    if (place == watches_.end()) return;
    watch = place->second;
  }
  absl::MutexLock lock(&watch->mutex);
  if (watch->callback) watch->callback(events);
}

void EventLoop::Run() {
  epoll_event events[kEventsAtOnce];
  while (true) {
    int count = epoll_wait(epoll_.get(), events, kEventsAtOnce, -1);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.u64 != kWakeId) Dispatch(events[i].data.u64, events[i].events);
    }
    absl::MutexLock lock(&mutex_);
    if (ending_) return;
  }
}

}  // namespace dismd
