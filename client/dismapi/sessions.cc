// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/sessions.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

namespace dismd {
namespace {

// The sessions that calls of this thread are using, the progress callbacks that run inside them included.
std::vector<DismSession>& UsedByThisThread() {
  thread_local std::vector<DismSession> used;
  return used;
}

// Two names of one mount point shall compare equal. The mount point itself is not looked at: what it holds may hang, or
// be gone.
std::string Canonical(const std::string& path) {
  std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();  // "/mnt/"
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::canonical(normal.parent_path(), error);
  return error ? normal.string() : (parent / normal.filename()).string();
}

}  // namespace

Sessions::Use::Use(Sessions* sessions, DismSession id, Session session)
    : sessions_(sessions), id_(id), session_(std::move(session)) {
  UsedByThisThread().push_back(id);
}

Sessions::Use::Use(Use&& other) noexcept
    : sessions_(std::exchange(other.sessions_, nullptr)), id_(other.id_), session_(other.session_) {}

Sessions::Use::~Use() {
  if (sessions_ == nullptr) return;
  std::vector<DismSession>& used = UsedByThisThread();
  used.erase(std::find(used.begin(), used.end(), id_));
  sessions_->Leave(id_);
}

DismSession Sessions::Add(Session session) {
  std::string canonical = Canonical(session.path);
  MutexLock lock(&mutex_);
  const DismSession id = next_++;
  entries_[id] = Entry{std::move(session), std::move(canonical)};
  return id;
}

std::optional<Sessions::Use> Sessions::Enter(DismSession id, HRESULT* error) {
  MutexLock lock(&mutex_);
  auto found = entries_.find(id);
  if (found == entries_.end()) {
    *error = E_INVALIDARG;
    return std::nullopt;
  }
  if (found->second.closing) {
    *error = DISMAPI_E_INVALID_DISM_SESSION;
    return std::nullopt;
  }
  Use use(this, id, found->second.session);
  ++found->second.uses;
  return use;
}

void Sessions::Leave(DismSession id) {
  MutexLock lock(&mutex_);
  if (--entries_.at(id).uses == 0) left_.notify_all();
}

HRESULT Sessions::Close(DismSession id) {
  const std::vector<DismSession>& used = UsedByThisThread();
  if (std::find(used.begin(), used.end(), id) != used.end()) return HRESULT_FROM_WIN32(ERROR_POSSIBLE_DEADLOCK);
  MutexLock lock(&mutex_);
  auto found = entries_.find(id);
  if (found == entries_.end() || found->second.closing) return DISMAPI_E_INVALID_DISM_SESSION;
  Entry* entry = &found->second;  // a map's entries stay where they are
  entry->closing = true;
  while (entry->uses > 0) left_.wait(mutex_);
  entries_.erase(id);
  return S_OK;
}

bool Sessions::OpenOn(const std::string& path) const {
  {
    MutexLock lock(&mutex_);
    if (entries_.empty()) return false;
  }
  const std::string canonical = Canonical(path);
  MutexLock lock(&mutex_);
  return std::any_of(entries_.begin(), entries_.end(), [&](const auto& item) {
    return item.second.session.path == path || item.second.canonical_path == canonical;
  });
}

bool Sessions::empty() const {
  MutexLock lock(&mutex_);
  return entries_.empty();
}

}  // namespace dismd
