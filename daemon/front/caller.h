// SPDX-License-Identifier: GPL-3.0-or-later
//
// Caller: in whose name a call is made, by the kernel's word on the connection it came over.

#ifndef DAEMON_FRONT_CALLER_H_
#define DAEMON_FRONT_CALLER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace dismd {

// The broker opens paths in the name of a connection. It keeps the identity of one for as long as anything here may
// still ask for it: the stream's end does not end an operation. The last holder's end runs `on_end`.
class ConnectionLease {
 public:
  ConnectionLease(uint64_t id, std::function<void(uint64_t)> on_end) : id_(id), on_end_(std::move(on_end)) {}
  ~ConnectionLease() { on_end_(id_); }
  ConnectionLease(const ConnectionLease&) = delete;
  ConnectionLease& operator=(const ConnectionLease&) = delete;

  uint64_t id() const { return id_; }

 private:
  const uint64_t id_;
  const std::function<void(uint64_t)> on_end_;
};

struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int32_t pid = 0;
  std::shared_ptr<const ConnectionLease> connection;  // null: it went with a front before this one

  bool is_root() const { return uid == 0; }
  // Root sees all; the others what is theirs.
  bool MaySee(uint32_t owner) const { return is_root() || uid == owner; }
};

}  // namespace dismd

#endif  // DAEMON_FRONT_CALLER_H_
