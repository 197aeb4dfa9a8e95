// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/listener.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/records.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::Log;
using libmount::LogContext;
using libmount::Severity;
using libmount::UniqueFd;

constexpr int kBacklog = 512;
constexpr int kAcceptAtOnce = 32;  // then other events have their turn
// After running out of descriptors: trying at once again would only burn the processor.
constexpr std::chrono::milliseconds kAcceptPause{200};
// Anyone can be refused as often as they like; the log need not grow with it.
constexpr std::chrono::seconds kRefusalLogInterval{10};

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(EventLoop* loop, const std::string& path, bool rootless) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the socket's path is longer than ", sizeof(address.sun_path) - 1, " bytes: ", path));
  }
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_fd) return absl::ErrnoToStatus(errno, "socket");
  // What another dismd left here. Only a socket is removed: a wrong --socket must not cost a file.
  struct stat there;
  if (lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, " exists and is no socket"));
    unlink(path.c_str());
  }
  if (bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the socket ", path));
  }
  // Everyone may connect: who it is, the kernel says, and what they may do depends on that alone.
  if (chmod(path.c_str(), rootless ? 0600 : 0666) != 0 || listen(socket_fd.get(), kBacklog) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot listen on ", path));
  }
  return std::unique_ptr<Listener>(new Listener(loop, path, rootless, std::move(socket_fd)));
}

Listener::~Listener() { Close(); }

void Listener::StartAccepting(OnConnection on_connection) {
  if (accepting_ || !socket_) return;
  on_connection_ = std::move(on_connection);
  absl::Status watched = loop_->Watch(socket_.get(), EPOLLIN, [this](uint32_t) { AcceptSome(); });
  if (!watched.ok()) Log(Severity::kError, watched.ToString());
  accepting_ = watched.ok();
}

void Listener::StopAccepting() {
  if (accepting_) loop_->Unwatch(socket_.get());
  accepting_ = false;
}

void Listener::Close() {
  if (!socket_) return;
  StopAccepting();
  unlink(path_.c_str());
  socket_.reset();
}

void Listener::AcceptSome() {
  for (int i = 0; i < kAcceptAtOnce && accepting_; ++i) {
    UniqueFd connection(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection) {
      Admit(std::move(connection));
      continue;
    }
    if (errno == ECONNABORTED || errno == EINTR) continue;
    if (errno == EAGAIN) return;
    Log(Severity::kError, absl::StrCat("cannot accept connections: ", strerror(errno)));
    loop_->ChangeEvents(socket_.get(), 0);
    loop_->After(kAcceptPause, [this] {
      if (accepting_) loop_->ChangeEvents(socket_.get(), EPOLLIN);
    });
    return;
  }
}

void Listener::Admit(UniqueFd connection) {
  absl::StatusOr<Peer> peer = IdentifyPeer(connection.get());
  if (!peer.ok()) {
    Log(Severity::kWarning, absl::StrCat("refused a connection: ", std::string(peer.status().message())));
    return;
  }
  uint32_t uid = peer->identity.uid();
  // A dismd without root acts with its user's rights, so that user alone may ask it to.
  if (rootless_ && uid != geteuid()) return;
  int& of_user = connections_of_user_[uid];
  if (connections_.size() >= kMaxConnections || of_user >= kMaxConnectionsOfUser) {
    return LogRefusal(uid, of_user);
  }
  ++of_user;
  uint64_t id = next_id_++;
  const Peer& kept = connections_.emplace(id, *std::move(peer)).first->second;
  on_connection_(id, kept, std::move(connection));
}

void Listener::LogRefusal(uint32_t uid, int of_user) {
  ++refusals_;
  auto now = EventLoop::Clock::now();
  if (now - last_refusal_logged_ < kRefusalLogInterval) return;
  last_refusal_logged_ = now;
  Log(Severity::kWarning, LogContext{"", "", uid},
      absl::StrCat("refused a connection: there are ", connections_.size(), ", ", of_user, " of this user; ",
                   std::exchange(refusals_, 0), " refused since this was logged last"));
}

const Peer* Listener::Find(uint64_t id) const {
  auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : &found->second;
}

void Listener::Closed(uint64_t id) {
  auto found = connections_.find(id);
  if (found == connections_.end()) return;
  auto of_user = connections_of_user_.find(found->second.identity.uid());
  if (--of_user->second == 0) connections_of_user_.erase(of_user);
  connections_.erase(found);
}

void Listener::AllClosed() {
  connections_.clear();
  connections_of_user_.clear();
}

}  // namespace dismd
