// SPDX-License-Identifier: Apache-2.0
//
// UniqueFd: owns one file descriptor and closes it. (The service's own lives in libmount, under another licence.)

#ifndef CLIENT_COMMON_UNIQUE_FD_H_
#define CLIENT_COMMON_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace dismd {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() {
    if (fd_ >= 0) close(fd_);
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

}  // namespace dismd

#endif  // CLIENT_COMMON_UNIQUE_FD_H_
