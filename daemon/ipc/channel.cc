// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/ipc/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace dismd {
namespace {

using libmount::UniqueFd;

// How long a full queue is waited for. The peers only ever wait for disks, never for clients.
constexpr int kSendTimeoutMilliseconds = 30'000;

enum class Place : uint32_t { kInline = 0x44534d31, kMemfd = 0x44534d32 };

struct PacketHeader {
  uint32_t place;
  uint32_t length;  // of the serialized message
};

absl::Status ErrnoStatus(const char* what) {
  if (errno == EPIPE || errno == ECONNRESET) return absl::UnavailableError("the peer process has closed its socket");
  return absl::ErrnoToStatus(errno, what);
}

absl::StatusOr<UniqueFd> ToMemfd(const std::string& bytes) {
  UniqueFd memfd(memfd_create("dismd-message", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd) return ErrnoStatus("memfd_create");
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = write(memfd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0) return ErrnoStatus("write to a memfd");
    done += static_cast<size_t>(n);
  }
  // Sealed, so that the receiver reads what it has measured.
  if (fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return ErrnoStatus("seal a memfd");
  return memfd;
}

absl::StatusOr<std::string> FromMemfd(const UniqueFd& memfd, uint32_t length) {
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_WRITE;
  if ((fcntl(memfd.get(), F_GET_SEALS) & kSeals) != kSeals) return absl::DataLossError("unsealed message");
  std::string bytes(length, '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = pread(memfd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n <= 0) return absl::DataLossError("short message");
    done += static_cast<size_t>(n);
  }
  return bytes;
}

bool WaitWritable(int fd) {
  pollfd entry = {fd, POLLOUT, 0};
  int ready;
  do {
    ready = poll(&entry, 1, kSendTimeoutMilliseconds);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

}  // namespace

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> Channel::CreatePair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoStatus("socketpair");
  return std::pair<UniqueFd, UniqueFd>(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

absl::Status Channel::Send(const google::protobuf::MessageLite& message, absl::Span<const int> fds) {
  return SendPacket(message, fds, true);
}

absl::Status Channel::SendNow(const google::protobuf::MessageLite& message, absl::Span<const int> fds) {
  return SendPacket(message, fds, false);
}

void Channel::ShutDown() { shutdown(socket_.get(), SHUT_RDWR); }

absl::Status Channel::SendPacket(const google::protobuf::MessageLite& message, absl::Span<const int> fds, bool wait) {
  std::string bytes = message.SerializeAsString();
  if (bytes.size() > kMaxMessageBytes || fds.size() > kMaxDescriptors) {
    return absl::ResourceExhaustedError("the message is larger than a channel carries");
  }
  std::vector<int> passed(fds.begin(), fds.end());
  PacketHeader header = {static_cast<uint32_t>(Place::kInline), static_cast<uint32_t>(bytes.size())};
  UniqueFd memfd;
  if (bytes.size() > kInlineBytes) {
    absl::StatusOr<UniqueFd> made = ToMemfd(bytes);
    if (!made.ok()) return made.status();
    memfd = *std::move(made);
    passed.push_back(memfd.get());
    header.place = static_cast<uint32_t>(Place::kMemfd);
    bytes.clear();
  }

  iovec parts[2] = {{&header, sizeof(header)}, {bytes.data(), bytes.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxDescriptors + 1))] = {};
  msghdr packet = {};
  packet.msg_iov = parts;
  packet.msg_iovlen = bytes.empty() ? 1 : 2;
  if (!passed.empty()) {
    packet.msg_control = control;
    packet.msg_controllen = CMSG_SPACE(sizeof(int) * passed.size());
    cmsghdr* cmsg = CMSG_FIRSTHDR(&packet);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int) * passed.size());
    memcpy(CMSG_DATA(cmsg), passed.data(), sizeof(int) * passed.size());
  }
  while (sendmsg(socket_.get(), &packet, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)) < 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return ErrnoStatus("sendmsg");
    if (!wait) return absl::DeadlineExceededError("the peer's queue is full");
    if (!WaitWritable(socket_.get())) return absl::ResourceExhaustedError("the peer process does not read its socket");
  }
  return absl::OkStatus();
}

absl::StatusOr<Channel::Received> Channel::Receive(google::protobuf::MessageLite* message, std::vector<UniqueFd>* fds) {
  fds->clear();
  PacketHeader header = {};
  std::string bytes(kInlineBytes, '\0');
  iovec parts[2] = {{&header, sizeof(header)}, {bytes.data(), bytes.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxDescriptors + 1))];
  msghdr packet = {};
  packet.msg_iov = parts;
  packet.msg_iovlen = 2;
  packet.msg_control = control;
  packet.msg_controllen = sizeof(control);
  ssize_t n;
  do {
    n = recvmsg(socket_.get(), &packet, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Received::kNothing;
  if (n < 0 && errno == ECONNRESET) return Received::kEnd;
  if (n < 0) return ErrnoStatus("recvmsg");
  for (cmsghdr* cmsg = CMSG_FIRSTHDR(&packet); cmsg != nullptr; cmsg = CMSG_NXTHDR(&packet, cmsg)) {
    if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
      fds->emplace_back(fd);
    }
  }
  if (n == 0) return Received::kEnd;
  if ((packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || n < static_cast<ssize_t>(sizeof(header))) {
    return absl::DataLossError("truncated packet");
  }
  if (header.length > kMaxMessageBytes) return absl::DataLossError("message too large");

  if (header.place == static_cast<uint32_t>(Place::kMemfd)) {
    if (fds->empty()) return absl::DataLossError("message without its memfd");
    absl::StatusOr<std::string> read = FromMemfd(fds->back(), header.length);
    if (!read.ok()) return read.status();
    fds->pop_back();
    bytes = *std::move(read);
  } else {
    if (header.place != static_cast<uint32_t>(Place::kInline) ||
        n != static_cast<ssize_t>(sizeof(header) + header.length)) {
      return absl::DataLossError("malformed packet");
    }
    bytes.resize(header.length);
  }
  if (!message->ParseFromString(bytes)) return absl::DataLossError("malformed message");
  return Received::kMessage;
}

}  // namespace dismd
