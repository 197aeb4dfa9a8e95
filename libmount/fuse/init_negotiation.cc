// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/init_negotiation.h"

#include <linux/fuse.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "libmount/fuse/wire.h"

namespace libmount {
namespace {

// Linux 6.6; not yet in Debian 12's header. Of the upper 32 flags.
constexpr uint32_t kDirectIoAllowMmap = uint32_t{1} << (36 - 32);

constexpr size_t kReplyBytes = sizeof(fuse_out_header) + FUSE_COMPAT_22_INIT_OUT_SIZE;

fuse_init_out ParseReply(const std::string& reply) {
  fuse_init_out out = {};
  memcpy(&out, reply.data() + sizeof(fuse_out_header), std::min(sizeof(out), reply.size() - sizeof(fuse_out_header)));
  return out;
}

constexpr size_t kFlags2End = offsetof(fuse_init_out, flags2) + sizeof(uint32_t);

bool CanMapDirect(const std::string& request) {
  fuse_init_in asked = {};
  memcpy(&asked, request.data() + sizeof(fuse_in_header),
         std::min(sizeof(asked), request.size() - sizeof(fuse_in_header)));
  return (asked.flags & FUSE_INIT_EXT) != 0 && (asked.flags2 & kDirectIoAllowMmap) != 0;
}

}  // namespace

void InitNegotiation::OnRequest(const char* request, size_t size) {
  absl::MutexLock lock(&mutex_);
  if (exchange_.request.empty()) exchange_.request.assign(request, size);
}

// FUSE_PARALLEL_DIROPS is forgotten by libfuse 3.14; without it the kernel lets only one look-up or reading at a time
// into a directory. FUSE_HANDLE_KILLPRIV_V2 it does not know; without it the kernel asks for security.capability before
// each write. Flags beyond the first 32 it cannot say either.
bool InitNegotiation::CompleteReply(std::string* reply) {
  absl::MutexLock lock(&mutex_);
  if (exchange_.request.empty() || reply->size() < kReplyBytes) return false;
  fuse_out_header header;
  memcpy(&header, reply->data(), sizeof(header));
  if (header.error != 0 || header.unique != HeaderOf(exchange_.request.data()).unique) return false;
  fuse_init_in asked;
  memcpy(&asked, exchange_.request.data() + sizeof(fuse_in_header), offsetof(fuse_init_in, flags2));
  char* flags_at = reply->data() + sizeof(header) + offsetof(fuse_init_out, flags);
  uint32_t flags;
  memcpy(&flags, flags_at, sizeof(flags));
  flags |= asked.flags & FUSE_PARALLEL_DIROPS;
  if (writable_) flags |= asked.flags & FUSE_HANDLE_KILLPRIV_V2;
  if (writable_ && CanMapDirect(exchange_.request) && reply->size() >= sizeof(header) + kFlags2End) {
    flags |= FUSE_INIT_EXT;
    memcpy(reply->data() + sizeof(header) + offsetof(fuse_init_out, flags2), &kDirectIoAllowMmap, sizeof(uint32_t));
  }
  memcpy(flags_at, &flags, sizeof(flags));
  return true;
}

bool InitNegotiation::AllowsDirectMapping(const std::string& reply) {
  if (reply.size() < sizeof(fuse_out_header) + kFlags2End) return false;
  const fuse_init_out out = ParseReply(reply);
  return (out.flags & FUSE_INIT_EXT) != 0 && (out.flags2 & kDirectIoAllowMmap) != 0;
}

void InitNegotiation::OnReplied(std::string reply) {
  absl::MutexLock lock(&mutex_);
  exchange_.reply = std::move(reply);
}

std::optional<FuseServer::InitExchange> InitNegotiation::exchange() const {
  absl::MutexLock lock(&mutex_);
  if (exchange_.reply.empty()) return std::nullopt;
  return exchange_;
}

absl::Status InitNegotiation::Check(const FuseServer::InitExchange& exchange) {
  if (!IsWellFormed(exchange.request.data(), exchange.request.size()) ||
      HeaderOf(exchange.request.data()).opcode != FUSE_INIT || exchange.reply.size() < kReplyBytes) {
    return absl::FailedPreconditionError("the saved INIT exchange is none");
  }
  return absl::OkStatus();
}

absl::Status InitNegotiation::CheckAgreesWith(const FuseServer::InitExchange& saved) const {
  absl::MutexLock lock(&mutex_);
  if (exchange_.reply.size() < kReplyBytes) return absl::InternalError("libfuse did not take the saved INIT request");
  const fuse_init_out now = ParseReply(exchange_.reply);
  const fuse_init_out then = ParseReply(saved.reply);
  if (then.max_write > now.max_write || (writable_ && (then.flags & FUSE_NO_OPEN_SUPPORT) != 0)) {
    return absl::FailedPreconditionError("the mount was begun by another kind of server");
  }
  return absl::OkStatus();
}

}  // namespace libmount
