// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/overlay_records.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/crc32c.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr uint64_t kVersion = 1;
constexpr uint64_t kMaxOperation = 255;
// Well below EditLog::kMaxEdits, so that an item more does not matter.
constexpr size_t kFullRecord = size_t{256} << 10;

EditWriter Begin(OverlayRecord kind) {
  EditWriter edits;
  edits.Number(static_cast<uint64_t>(kind));
  return edits;
}

bool SlotsExist(uint64_t slot, uint64_t count) {
  return slot <= ClusterMap::kMaxSlots && count <= ClusterMap::kMaxSlots - slot;
}

}  // namespace

void ReplyTable::Remember(uint64_t request, const OverlayDevice::Reply& reply) {
  if (request == 0) return;
  if (replies_.insert_or_assign(request, reply).second) order_.push_back(request);
  if (order_.size() <= kMaxReplies) return;
  replies_.erase(order_.front());
  order_.pop_front();
}

std::optional<OverlayDevice::Reply> ReplyTable::Find(uint64_t request) const {
  auto found = replies_.find(request);
  if (request == 0 || found == replies_.end()) return std::nullopt;
  return found->second;
}

void ReplyTable::Clear() {
  order_.clear();
  replies_.clear();
}

void ReplyTable::Visit(absl::FunctionRef<void(uint64_t request, const OverlayDevice::Reply&)> visitor) const {
  for (uint64_t request : order_) visitor(request, replies_.at(request));
}

void DumpOverlay(const OverlayState& state, EditLog::Appender append) {
  EditWriter edits = Begin(OverlayRecord::kState);
  edits.Number(kVersion).Number(state.last_group).Number(state.commit_pending ? 1 : 0).Text(state.base_identity);
  append({0, 0, 0, edits.bytes()});

  edits = Begin(OverlayRecord::kRuns);
  StagedExtent run;
  auto put = [&] {
    if (run.count != 0) edits.Number(run.cluster).Number(run.slot).Number(run.count);
    if (edits.bytes().size() < kFullRecord) return;
    append({0, 0, 0, edits.bytes()});
    edits = Begin(OverlayRecord::kRuns);
  };
  state.map.VisitChanged([&](uint64_t cluster, ClusterMap::Entry entry) {
    const uint64_t slot = entry - 1;
    if (run.count != 0 && run.cluster + run.count == cluster && run.slot + run.count == slot) {
      ++run.count;
      return;
    }
    put();
    run = {cluster, slot, 1};
  });
  put();
  append({0, 0, 0, edits.bytes()});

  state.replies.Visit([&](uint64_t request, const OverlayDevice::Reply& reply) {
    EditWriter kept = Begin(OverlayRecord::kReply);
    kept.Number(request).Number(reply.operation).Number(reply.result);
    append({0, 0, 0, kept.bytes()});
  });
}

int EncodeGroup(uint64_t group, const std::vector<StagedExtent>& extents, uint64_t request,
                const OverlayDevice::Reply& reply, absl::FunctionRef<int(const EditLog::Record&)> append) {
  EditWriter items;
  auto record = [&](OverlayRecord kind) {
    EditWriter edits = Begin(kind);
    edits.Number(group);
    return absl::StrCat(absl::string_view(edits.bytes().data(), edits.bytes().size()),
                        absl::string_view(items.bytes().data(), items.bytes().size()));
  };
  for (const StagedExtent& extent : extents) {
    items.Number(extent.cluster).Number(extent.slot).Number(extent.count).Number(extent.crc);
    if (items.bytes().size() < kFullRecord) continue;
    if (int error = append({0, 0, 0, record(OverlayRecord::kPart)})) return error;
    items.clear();
  }
  return append({request, reply.result, reply.operation, record(OverlayRecord::kGroup)});
}

void DropCommitted(ClusterMap& map, uint64_t slot, absl::FunctionRef<void(uint64_t slot)> freed) {
  map.VisitChanged([&](uint64_t cluster, ClusterMap::Entry entry) {
    if (entry == ClusterMap::kBuffered || entry - 1 >= slot) return;
    map.Set(cluster, ClusterMap::kBase);
    freed(entry - 1);
  });
}

absl::Status OverlayReplay::Take(const EditLog::Record& record) {
  EditReader reader(record.edits);
  const auto kind = static_cast<OverlayRecord>(reader.Number());
  bool good = state_->known || kind == OverlayRecord::kState;
  if (good) {
    switch (kind) {
      case OverlayRecord::kState: good = TakeState(reader); break;
      case OverlayRecord::kRuns: good = TakeRuns(reader); break;
      case OverlayRecord::kReply: {
        const uint64_t request = reader.Number();
        const uint32_t operation = reader.Number32();
        const uint64_t result = reader.Number();
        good = operation <= kMaxOperation;
        if (reader.ok() && good) state_->replies.Remember(request, {operation, result});
        break;
      }
      case OverlayRecord::kPart:
      case OverlayRecord::kGroup: good = TakeGroup(kind, record, reader); break;
      case OverlayRecord::kMark: good = TakeMark(reader); break;
      case OverlayRecord::kCommitBegun:
      case OverlayRecord::kForget: changes_.push_back({kind, read_group_}); break;
      case OverlayRecord::kCommitted: {
        Change change{kind, read_group_};
        change.slot = reader.Number();
        change.identity = reader.Text();
        good = reader.ok() && change.identity.size() <= OverlayDevice::kMaxIdentity;
        changes_.push_back(std::move(change));
        break;
      }
      default: good = false;
    }
  }
  unmarked_bytes_ += record.edits.size();
  if (changes_.empty() && open_.extents.empty()) unmarked_bytes_ = 0;
  if (good && reader.ok() && unmarked_bytes_ <= kMaxUnmarkedBytes) return absl::OkStatus();
  return MakeError(Reason::kBadImageFormat, absl::StrCat("the log of the overlay is damaged: a record of kind ",
                                                         static_cast<uint64_t>(kind), " makes no sense"));
}

bool OverlayReplay::TakeState(EditReader& reader) {
  if (state_->known || reader.Number() != kVersion) return false;
  state_->last_group = state_->marked_group = read_group_ = reader.Number();
  state_->commit_pending = reader.Number() != 0;
  state_->base_identity = reader.Text();
  state_->known = true;
  return state_->base_identity.size() <= OverlayDevice::kMaxIdentity;
}

bool OverlayReplay::TakeRuns(EditReader& reader) {
  ClusterMap& map = state_->map;
  while (!reader.AtEnd()) {
    const uint64_t cluster = reader.Number();
    const uint64_t slot = reader.Number();
    const uint64_t count = reader.Number();
    if (!reader.ok() || cluster < runs_end_ || cluster > map.clusters() || count > map.clusters() - cluster ||
        !SlotsExist(slot, count) || !map.Prepare(cluster, count)) {
      return false;
    }
    for (uint64_t i = 0; i < count; ++i) map.Set(cluster + i, static_cast<ClusterMap::Entry>(slot + i + 1));
    runs_end_ = cluster + count;
  }
  return true;
}

bool OverlayReplay::TakeExtents(EditReader& reader, std::vector<StagedExtent>& extents) const {
  const uint64_t clusters = state_->map.clusters();
  while (!reader.AtEnd()) {
    StagedExtent extent;
    extent.cluster = reader.Number();
    extent.slot = reader.Number();
    extent.count = reader.Number();
    extent.crc = reader.Number32();
    if (!reader.ok() || extent.count == 0 || extent.count > StagedExtent::kMaxCount || extent.cluster >= clusters ||
        extent.count > clusters - extent.cluster || !SlotsExist(extent.slot, extent.count)) {
      return false;
    }
    extents.push_back(extent);
  }
  return true;
}

bool OverlayReplay::TakeGroup(OverlayRecord kind, const EditLog::Record& record, EditReader& reader) {
  const uint64_t group = reader.Number();
  if (group <= read_group_) return false;
  // Parts of a group whose end could not be written are followed by another group.
  if (open_.group != group) open_.extents.clear();
  open_.group = group;
  if (!TakeExtents(reader, open_.extents)) return false;
  if (kind == OverlayRecord::kPart) return true;
  open_.request = record.request;
  open_.reply = {record.operation, record.outcome};
  read_group_ = group;
  changes_.push_back(std::exchange(open_, Change()));
  return true;
}

bool OverlayReplay::TakeMark(EditReader& reader) {
  const uint64_t group = reader.Number();
  if (!reader.ok() || group > read_group_ || group < state_->marked_group) return false;
  while (!changes_.empty() && changes_.front().group <= group) {
    if (!Apply(changes_.front())) return false;
    changes_.pop_front();
  }
  state_->marked_group = group;
  return true;
}

bool OverlayReplay::Apply(const Change& change) {
  ClusterMap& map = state_->map;
  switch (change.kind) {
    case OverlayRecord::kGroup:
      for (const StagedExtent& extent : change.extents) {
        if (!map.Prepare(extent.cluster, extent.count)) return false;
        for (uint64_t i = 0; i < extent.count; ++i) {
          map.Set(extent.cluster + i, static_cast<ClusterMap::Entry>(extent.slot + i + 1));
        }
      }
      state_->replies.Remember(change.request, change.reply);
      state_->last_group = change.group;
      break;
    case OverlayRecord::kCommitBegun: state_->commit_pending = true; break;
    case OverlayRecord::kCommitted:
      DropCommitted(map, change.slot, [](uint64_t) {});
      state_->commit_pending = false;
      state_->base_identity = change.identity;
      break;
    case OverlayRecord::kForget: state_->replies.Clear(); break;
    default: return false;
  }
  return true;
}

int OverlayReplay::Verify(const Change& change, std::string& buffer) const {
  for (const StagedExtent& extent : change.extents) {
    buffer.resize(extent.count * OverlayDevice::kClusterSize);
    if (int error = arena_->Read(extent.slot * OverlayDevice::kClusterSize, absl::MakeSpan(buffer))) return error;
    if (Crc32c(buffer) != extent.crc) return EILSEQ;
  }
  return 0;
}

absl::Status OverlayReplay::Finish() {
  cut_ = !open_.extents.empty();
  std::string buffer;
  for (; !changes_.empty(); changes_.pop_front()) {
    const int error = Verify(changes_.front(), buffer);
    if (error == EILSEQ) break;
    if (error != 0) return MakeErrnoError(Reason::kOutOfResources, error, "cannot read the data of the overlay");
    if (!Apply(changes_.front())) {
      return MakeError(Reason::kOutOfResources, "the overlay has changes in too many places for this process' memory");
    }
  }
  cut_ |= !changes_.empty();
  changes_.clear();
  return absl::OkStatus();
}

}  // namespace libmount
