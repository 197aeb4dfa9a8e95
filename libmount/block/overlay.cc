// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/overlay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/block/overlay_impl.h"

namespace libmount {
namespace {

constexpr char kDataName[] = "data";

// Of the log: what cannot change as long as the disk is the same one.
std::string LogIdentity(uint64_t disk_size) {
  std::string identity = "overlay";
  AppendLe(disk_size, identity);
  return identity;
}

absl::Status StagingError(int error, const char* what) {
  return MakeErrnoError(Reason::kOutOfResources, error, absl::StrCat(what, " in the staging directory"));
}

std::vector<ArenaRange> UsedRanges(const ClusterMap& map) {
  std::vector<ArenaRange> used;
  map.VisitChanged([&](uint64_t, ClusterMap::Entry entry) {
    const uint64_t at = (entry - uint64_t{1}) * OverlayDevice::kClusterSize;
    if (!used.empty() && used.back().offset + used.back().length == at) {
      used.back().length += OverlayDevice::kClusterSize;
    } else {
      used.push_back({at, OverlayDevice::kClusterSize});
    }
  });
  return used;
}

}  // namespace

static_assert(OverlayDevice::kClusterSize == Arena::kBlockSize);

absl::StatusOr<std::unique_ptr<OverlayDevice>> OverlayDevice::Open(UniqueFd directory, const BlockDevice* base,
                                                                   const OverlayOptions& options) {
  return OpenOn(StagingFilesOn(std::move(directory)), base, options);
}

absl::StatusOr<std::unique_ptr<OverlayDevice>> OverlayDevice::OpenOn(std::unique_ptr<StagingFiles> files,
                                                                     const BlockDevice* base,
                                                                     const OverlayOptions& options) {
  if (options.base_identity.size() > kMaxIdentity) {
    return MakeError(Reason::kUnspecified, "too long an identity of the disk");
  }
  if (base->size() / kClusterSize >= ClusterMap::kMaxClusters) {
    return MakeError(Reason::kOutOfResources, absl::StrCat("disks of ", base->size(), " bytes cannot be written to"));
  }
  auto device = std::make_unique<OverlayImpl>(std::move(files), base, options.rewrite_log_at);
  if (absl::Status status = device->Init(options); !status.ok()) return status;
  return std::unique_ptr<OverlayDevice>(std::move(device));
}

absl::Status OverlayImpl::Init(const OverlayOptions& options) {
  if (int error = files_->Lock()) {
    if (error == EWOULDBLOCK) return MakeError(Reason::kImageInUse, "another process has the staging directory open");
    return StagingError(error, "cannot lock");
  }
  ErrnoOr<std::unique_ptr<StagingFile>> data = files_->Open(kDataName, /*create=*/true);
  if (!data.ok()) return StagingError(data.error(), "cannot open the data");
  arena_ = std::make_unique<Arena>(*std::move(data));
  OverlayReplay replay(&state_, arena_.get());
  auto log = EditLog::Open(files_.get(), LogIdentity(size_),
                           [&](const EditLog::Record& record) { return replay.Take(record); });
  if (!log.ok()) return log.status();
  log_ = *std::move(log);
  if (absl::Status status = replay.Finish(); !status.ok()) return status;
  return Recover(replay, options);
}

absl::Status OverlayImpl::Recover(const OverlayReplay& replay, const OverlayOptions& options) {
  // While a commit wrote to the base its identity was any; what is staged says again all that it wrote.
  if (state_.known && !state_.commit_pending && state_.base_identity != options.base_identity) {
    return MakeError(Reason::kImageChanged,
                     "the disk was changed by another program since it was mounted; put the file back, or discard the "
                     "edits");
  }
  OwnGroup own(this);
  absl::MutexLock lock(&mutex_);
  const bool is_new = !state_.known;
  const bool forgets = !options.resumed && !state_.replies.empty();
  if (forgets) state_.replies.Clear();
  state_.known = true;
  state_.base_identity = options.base_identity;
  if (is_new || replay.cut()) {
    if (replay.cut()) {
      Log(Severity::kWarning, "the end of the overlay's log was not on the disk when the machine stopped: cut off");
    }
    if (int error = RewriteLog()) return StagingError(error, "cannot write the log");
  } else if (forgets) {
    EditWriter edits;
    edits.Number(static_cast<uint64_t>(OverlayRecord::kForget));
    if (int error = AppendNote(edits)) return StagingError(error, "cannot write the log");
  }
  unmarked_log_bytes_ = replay.unmarked() ? log_->size() : 0;
  // Not at once: after a power loss groups are verified again that no mark on the disk covers, and what we have just
  // read need not be on the disk. Groups without any mark: nor with the next sync.
  std::vector<ArenaRange> unused = arena_->TakeOver(UsedRanges(state_.map));
  (replay.unmarked() ? freed_ : freed_before_sync_) = std::move(unused);
  return absl::OkStatus();
}

int OverlayImpl::Read(uint64_t offset, absl::Span<char> out) const {
  if (offset > size_ || out.size() > size_ - offset) return EINVAL;
  for (;;) {
    const uint64_t punches = punches_.load(std::memory_order_seq_cst);
    bool read_slots = false;
    const int error = ReadOnce(offset, out, read_slots);
    // What was in a slot before it was punched may be in it no more.
    if (!read_slots || punches == punches_.load(std::memory_order_seq_cst)) return error;
  }
}

int OverlayImpl::ReadOnce(uint64_t offset, absl::Span<char> out, bool& read_slots) const {
  while (!out.empty()) {
    const uint64_t cluster = offset / kClusterSize;
    const uint64_t within = offset % kClusterSize;
    const ClusterMap::Entry first = state_.map.Get(cluster);
    if (first == ClusterMap::kBuffered) {
      const size_t length = std::min<uint64_t>(out.size(), kClusterSize - within);
      if (!ReadBuffered(cluster, within, out.first(length))) continue;  // it has just moved on
      offset += length;
      out.remove_prefix(length);
      continue;
    }
    // As far as it goes on in the same place.
    uint64_t length = kClusterSize - within;
    for (uint64_t count = 1; length < out.size(); ++count, length += kClusterSize) {
      const ClusterMap::Entry next = state_.map.Get(cluster + count);
      if (next != (first == ClusterMap::kBase ? ClusterMap::kBase : first + count)) break;
    }
    absl::Span<char> part = out.first(std::min<uint64_t>(length, out.size()));
    int error;
    if (first == ClusterMap::kBase) {
      error = base_->Read(offset, part);
    } else {
      read_slots = true;
      error = arena_->Read((first - uint64_t{1}) * kClusterSize + within, part);
    }
    if (error != 0) return error;
    offset += part.size();
    out.remove_prefix(part.size());
  }
  return 0;
}

bool OverlayImpl::ReadBuffered(uint64_t cluster, uint64_t offset_in_cluster, absl::Span<char> out) const {
  absl::MutexLock lock(&buffer_mutex_);
  auto found = buffer_index_.find(cluster);
  if (found == buffer_index_.end()) return false;
  memcpy(out.data(), buffer_.data() + found->second * kClusterSize + offset_in_cluster, out.size());
  return true;
}

std::optional<OverlayDevice::Reply> OverlayImpl::FindReply(uint64_t request) const {
  absl::MutexLock lock(&mutex_);
  return state_.replies.Find(request);
}

bool OverlayImpl::has_changes() const { return state_.map.changed() != 0 || commit_pending(); }

bool OverlayImpl::commit_pending() const {
  absl::MutexLock lock(&mutex_);
  return state_.commit_pending;
}

OverlayDevice::Stats OverlayImpl::GetStats() const {
  Stats stats;
  stats.changed_bytes = state_.map.changed() * kClusterSize;
  stats.log_bytes = log_->size();
  stats.staged_end = arena_->end();
  return stats;
}

}  // namespace libmount
