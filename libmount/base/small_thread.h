// SPDX-License-Identifier: GPL-3.0-or-later
//
// SmallThread: a thread with a stack of a known, small size, joined when destroyed.
//
// A worker serves one mount and there may be hundreds of them; the usual 8 MiB of stack are only reserved, but what a
// deep call once touched stays resident, and a sandbox's address space limit counts the reservation. Under a sanitizer,
// whose frames are larger, the stack is too.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_BASE_SMALL_THREAD_H_
#define LIBMOUNT_BASE_SMALL_THREAD_H_

#include <pthread.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"

namespace libmount {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr size_t kSmallThreadStackBytes = size_t{2} << 20;
#else
inline constexpr size_t kSmallThreadStackBytes = size_t{256} << 10;
#endif

class SmallThread {
 public:
  SmallThread() = default;
  SmallThread(SmallThread&& other) noexcept : thread_(other.thread_), running_(std::exchange(other.running_, false)) {}
  SmallThread& operator=(SmallThread&&) = delete;
  ~SmallThread() { Join(); }

  // REQUIRES: not running. `name` is at most 15 characters, as seen in ps and top.
  absl::Status Start(const char* name, std::function<void()> body) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kSmallThreadStackBytes);
    auto owned = std::make_unique<std::function<void()>>(std::move(body));
    int error = pthread_create(&thread_, &attributes, &Run, owned.get());
    pthread_attr_destroy(&attributes);
    if (error != 0) return absl::ErrnoToStatus(error, "pthread_create");
    static_cast<void>(owned.release());  // Run owns it now
    running_ = true;
    pthread_setname_np(thread_, name);
    return absl::OkStatus();
  }

  void Join() {
    if (std::exchange(running_, false)) pthread_join(thread_, nullptr);
  }

 private:
  static void* Run(void* argument) {
    std::unique_ptr<std::function<void()>> body(static_cast<std::function<void()>*>(argument));
    (*body)();
    return nullptr;
  }

  pthread_t thread_ = {};
  bool running_ = false;
};

}  // namespace libmount

#endif  // LIBMOUNT_BASE_SMALL_THREAD_H_
