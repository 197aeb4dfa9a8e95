// SPDX-License-Identifier: GPL-3.0-or-later
//
// FakeKernel: plays the kernel's side of FUSE over a socketpair, so that a FuseServer is tested without privileges.
//
// Requests are sent byte for byte as fs/fuse sends them (uapi linux/fuse.h), replies and notifications are handed back
// raw. Replies are matched to requests by `unique`, since a server's threads answer in any order.
//
// Thread safety: none.

#ifndef TESTS_UNIT_FAKE_KERNEL_H_
#define TESTS_UNIT_FAKE_KERNEL_H_

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libmount/base/unique_fd.h"

namespace libmount {

class FakeKernel {
 public:
  struct Reply {
    int32_t error = 0;  // as on the wire: 0 or a negative errno
    std::string body;

    // The fixed structure that the body starts with.
    template <typename T>
    T As() const {
      T value = {};
      EXPECT_GE(body.size(), sizeof(T));
      memcpy(&value, body.data(), std::min(sizeof(T), body.size()));
      return value;
    }
  };

  struct Notification {
    int32_t code;
    std::string body;
  };

  static constexpr int kTimeoutMilliseconds = 20'000;

  FakeKernel() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    kernel_.reset(ends[0]);
    server_.reset(ends[1]);
  }

  // The server's /dev/fuse.
  UniqueFd TakeServerEnd() { return std::move(server_); }

  // The file system is unmounted.
  void Unmount() { kernel_.reset(); }

  static std::string Bytes(const auto& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static std::string Name(std::string_view name) { return std::string(name) + '\0'; }

  // Sends a request; returns its unique number.
  uint64_t Send(uint32_t opcode, uint64_t node, std::string_view payload, uint32_t pid = 1) {
    fuse_in_header header = {};
    header.len = static_cast<uint32_t>(sizeof(header) + payload.size());
    header.opcode = opcode;
    header.unique = next_unique_;
    header.nodeid = node;
    header.uid = header.gid = 1000;
    header.pid = pid;
    next_unique_ += 2;  // as the kernel counts
    SendRaw(Bytes(header) + std::string(payload));
    return header.unique;
  }

  void SendRaw(std::string_view bytes) {
    ASSERT_EQ(send(kernel_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }

  // Waits for the reply to a request; notifications that come before it are kept.
  Reply Await(uint64_t unique) {
    while (replies_.find(unique) == replies_.end()) {
      if (!ReceiveOne()) {
        ADD_FAILURE() << "no reply to request " << unique;
        return Reply{.error = -1};
      }
    }
    Reply reply = std::move(replies_[unique]);
    replies_.erase(unique);
    return reply;
  }

  Reply Ask(uint32_t opcode, uint64_t node, std::string_view payload) { return Await(Send(opcode, node, payload)); }

  // Whether a reply is there that nobody has awaited (after the server answered a later request, say).
  bool has_stray_replies() const { return !replies_.empty(); }
  const std::vector<Notification>& notifications() const { return notifications_; }

  // Waits until that many notifications have come.
  bool AwaitNotifications(size_t count) {
    while (notifications_.size() < count) {
      if (!ReceiveOne()) return false;
    }
    return true;
  }

  static fuse_init_in InitRequest() {
    fuse_init_in in = {};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = 38;
    in.max_readahead = 128 << 10;  // what the kernel offers
    in.flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
               FUSE_ASYNC_DIO | FUSE_NO_OPEN_SUPPORT | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
               FUSE_NO_OPENDIR_SUPPORT | FUSE_AUTO_INVAL_DATA | FUSE_SPLICE_WRITE | FUSE_SPLICE_MOVE |
               FUSE_SPLICE_READ | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_WRITEBACK_CACHE | FUSE_POSIX_ACL;
    return in;
  }

  // One that also lets files be mapped that are open past the page cache.
  static fuse_init_in InitRequestOfLinux66() {
    fuse_init_in in = InitRequest();
    in.minor = 39;
    in.flags |= FUSE_INIT_EXT;
    in.flags2 = 1 << 4;  // FUSE_DIRECT_IO_ALLOW_MMAP, not yet in Debian 12's header
    return in;
  }

  fuse_init_out Init() { return Ask(FUSE_INIT, 0, Bytes(InitRequest())).As<fuse_init_out>(); }

  Reply Lookup(uint64_t parent, std::string_view name) { return Ask(FUSE_LOOKUP, parent, Name(name)); }
  Reply GetAttr(uint64_t node) { return Ask(FUSE_GETATTR, node, Bytes(fuse_getattr_in{})); }
  Reply Read(uint64_t node, uint64_t offset, uint32_t size) { return Await(SendRead(node, offset, size)); }
  uint64_t SendRead(uint64_t node, uint64_t offset, uint32_t size) {
    return Send(FUSE_READ, node, Bytes(fuse_read_in{.offset = offset, .size = size}));
  }
  Reply ReadDirPlus(uint64_t node, uint64_t offset, uint32_t size) {
    return Ask(FUSE_READDIRPLUS, node, Bytes(fuse_read_in{.offset = offset, .size = size}));
  }
  Reply GetXattr(uint64_t node, std::string_view name, uint32_t size) {
    return Ask(FUSE_GETXATTR, node, Bytes(fuse_getxattr_in{.size = size}) + Name(name));
  }
  Reply ListXattr(uint64_t node, uint32_t size) {
    return Ask(FUSE_LISTXATTR, node, Bytes(fuse_getxattr_in{.size = size}));
  }

 private:
  bool ReceiveOne() {
    pollfd entry = {kernel_.get(), POLLIN, 0};
    if (poll(&entry, 1, kTimeoutMilliseconds) <= 0) return false;
    std::string packet(2 << 20, '\0');
    ssize_t size = recv(kernel_.get(), packet.data(), packet.size(), 0);
    if (size < static_cast<ssize_t>(sizeof(fuse_out_header))) return false;
    packet.resize(static_cast<size_t>(size));
    fuse_out_header header;
    memcpy(&header, packet.data(), sizeof(header));
    EXPECT_EQ(header.len, packet.size());
    std::string body = packet.substr(sizeof(header));
    if (header.unique == 0) {
      notifications_.push_back({header.error, std::move(body)});
    } else {
      EXPECT_EQ(replies_.count(header.unique), 0u) << "two replies to one request";
      replies_[header.unique] = {header.error, std::move(body)};
    }
    return true;
  }

  UniqueFd kernel_;
  UniqueFd server_;
  uint64_t next_unique_ = 2;
  std::map<uint64_t, Reply> replies_;
  std::vector<Notification> notifications_;
};

}  // namespace libmount

#endif  // TESTS_UNIT_FAKE_KERNEL_H_
