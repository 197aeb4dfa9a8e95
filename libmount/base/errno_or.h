// SPDX-License-Identifier: GPL-3.0-or-later
//
// ErrnoOr<T>: a value, or the errno that the kernel is to be told.
//
// The kernel side of a tree speaks errno and nothing else, a hundred thousand times a second, so the border between
// fuse/ and tree/ uses this instead of absl::StatusOr (whose errors carry a message nobody there could read).
// What is worth telling a human (a damaged blob, say) goes to the tree's TreeObserver where it is found.

#ifndef LIBMOUNT_BASE_ERRNO_OR_H_
#define LIBMOUNT_BASE_ERRNO_OR_H_

#include <cassert>
#include <optional>
#include <utility>

namespace libmount {

// An errno value as a distinct type: `return Errno(ENOENT);`.
struct Errno {
  explicit constexpr Errno(int value) : value(value) {}
  int value;  // positive; never 0
};

template <typename T>
class [[nodiscard]] ErrnoOr {
 public:
  ErrnoOr(Errno error) : error_(error.value) { assert(error.value > 0); }  // NOLINT(google-explicit-constructor)
  ErrnoOr(T value) : value_(std::move(value)) {}                           // NOLINT(google-explicit-constructor)

  bool ok() const { return error_ == 0; }
  // 0 when ok().
  int error() const { return error_; }

  // REQUIRES: ok().
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return *std::move(value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  int error_ = 0;
  std::optional<T> value_;
};

}  // namespace libmount

#endif  // LIBMOUNT_BASE_ERRNO_OR_H_
