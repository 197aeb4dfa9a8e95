// SPDX-License-Identifier: GPL-3.0-or-later
//
// Listener: the service's Unix socket. Accepts connections, asks the kernel who connected, and keeps to the limits.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_LISTENER_H_
#define DAEMON_BROKER_LISTENER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/broker/event_loop.h"
#include "daemon/broker/identity.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// A connection beyond these is closed at once; its client sees UNAVAILABLE.
inline constexpr int kMaxConnections = 1024;
inline constexpr int kMaxConnectionsOfUser = 128;

class Listener {
 public:
  using OnConnection = std::function<void(uint64_t id, const Peer& peer, libmount::UniqueFd socket)>;

  // Binds `path` (replacing a stale socket: the caller holds the lock), in a directory that it makes if need be. The
  // socket is everyone's to connect to; rootless, only its user's.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(EventLoop* loop, const std::string& path, bool rootless);
  ~Listener();  // Close

  // Connections wait in the kernel until this is called.
  void StartAccepting(OnConnection on_connection);
  void StopAccepting();

  // Removes the socket. Connections that were accepted go on.
  void Close();

  // The peer of a connection that is open; null if it is not.
  const Peer* Find(uint64_t id) const;
  void Closed(uint64_t id);
  // The front has died, and all connections with it.
  void AllClosed();

 private:
  Listener(EventLoop* loop, std::string path, bool rootless, libmount::UniqueFd socket)
      : loop_(loop), path_(std::move(path)), rootless_(rootless), socket_(std::move(socket)) {}

  void AcceptSome();
  void Admit(libmount::UniqueFd connection);
  void LogRefusal(uint32_t uid, int of_user);

  EventLoop* const loop_;
  const std::string path_;
  const bool rootless_;
  libmount::UniqueFd socket_;
  bool accepting_ = false;
  OnConnection on_connection_;
  std::map<uint64_t, Peer> connections_;
  std::map<uint32_t, int> connections_of_user_;
  uint64_t next_id_ = 1;
  EventLoop::Clock::time_point last_refusal_logged_;
  int refusals_ = 0;  // since then
};

}  // namespace dismd

#endif  // DAEMON_BROKER_LISTENER_H_
