// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the records of an overlay's log say (the log itself is staging's, edit_log.h), and their replay.
//
// A group's record has the mapping of its clusters, with a checksum of their data: what a power loss leaves of groups
// that were not synced is taken as far as data and checksum agree, and cut off from there on. A mark says which groups
// were synced with their data: those are not read again, and space that they have freed may be gone.
//
// Thread safety: as a standard container.

#ifndef LIBMOUNT_BLOCK_OVERLAY_RECORDS_H_
#define LIBMOUNT_BLOCK_OVERLAY_RECORDS_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "libmount/block/cluster_map.h"
#include "libmount/block/overlay.h"
#include "libmount/staging/arena.h"
#include "libmount/staging/edit_log.h"
#include "libmount/staging/edits.h"

namespace libmount {

// Numbers as in EditWriter.
enum class OverlayRecord : uint64_t {
  kState = 1,        // version, last group, whether a commit is pending, identity of the base. The first one.
  kRuns = 2,         // cluster, slot, count ...: synced; in order
  kReply = 3,        // request, operation, result
  kPart = 4,         // group, extents: of a group too large for one record; kGroup follows
  kGroup = 5,        // group, extents; the log's own fields have request and reply
  kMark = 6,         // group: up to it all is on the disk
  kCommitBegun = 7,  // the base is being written to
  kCommitted = 8,    // slot, identity: what lies below the slot is in the base, which has a new identity
  kForget = 9,       // the replies: a new mount numbers its requests anew
};

// Clusters next to each other, in slots next to each other.
struct StagedExtent {
  uint64_t cluster = 0;
  uint64_t slot = 0;
  uint64_t count = 0;
  uint32_t crc = 0;  // Crc32c of the data

  static constexpr uint64_t kMaxCount = 256;
};

// The replies of the last requests.
class ReplyTable {
 public:
  static constexpr size_t kMaxReplies = 1024;

  void Remember(uint64_t request, const OverlayDevice::Reply& reply);
  std::optional<OverlayDevice::Reply> Find(uint64_t request) const;
  void Clear();
  bool empty() const { return order_.empty(); }
  void Visit(absl::FunctionRef<void(uint64_t request, const OverlayDevice::Reply&)> visitor) const;

 private:
  std::deque<uint64_t> order_;
  absl::flat_hash_map<uint64_t, OverlayDevice::Reply> replies_;
};

// What a log adds up to.
struct OverlayState {
  explicit OverlayState(uint64_t clusters) : map(clusters) {}

  ClusterMap map;
  ReplyTable replies;
  std::string base_identity;
  uint64_t last_group = 0;
  uint64_t marked_group = 0;
  bool commit_pending = false;
  bool known = false;  // there was a kState
};

// Gives the records of a log that says what `state` says. REQUIRES: no cluster is buffered.
void DumpOverlay(const OverlayState& state, EditLog::Appender append);

// Gives the records of a group, the last of which makes it one; an error ends it. `reply` goes into that last one.
int EncodeGroup(uint64_t group, const std::vector<StagedExtent>& extents, uint64_t request,
                const OverlayDevice::Reply& reply, absl::FunctionRef<int(const EditLog::Record&)> append);

class OverlayReplay {
 public:
  // Of the records behind the last mark.
  static constexpr uint64_t kMaxUnmarkedBytes = uint64_t{64} << 20;

  // Both must outlive it.
  OverlayReplay(OverlayState* state, const Arena* arena) : state_(state), arena_(arena) {}

  // kBadImageFormat: the record makes no sense.
  absl::Status Take(const EditLog::Record& record);
  // Looks at what no mark covers. kOutOfResources: it cannot be read.
  absl::Status Finish();

  // After Finish: the log has more than `state`: it has to be written anew.
  bool cut() const { return cut_; }
  // After Finish: the log has groups that no mark covers.
  bool unmarked() const { return state_->last_group > state_->marked_group; }

 private:
  // In the order of the log, waiting for a mark.
  struct Change {
    OverlayRecord kind = OverlayRecord::kGroup;
    uint64_t group = 0;  // that of the last one before, for others than groups
    std::vector<StagedExtent> extents;
    uint64_t request = 0;
    OverlayDevice::Reply reply;
    uint64_t slot = 0;
    std::string identity;
  };

  bool TakeState(EditReader& reader);
  bool TakeRuns(EditReader& reader);
  bool TakeGroup(OverlayRecord kind, const EditLog::Record& record, EditReader& reader);
  bool TakeMark(EditReader& reader);
  bool TakeExtents(EditReader& reader, std::vector<StagedExtent>& extents) const;
  bool Apply(const Change& change);
  // 0: the data are there; EILSEQ: they are not.
  int Verify(const Change& change, std::string& buffer) const;

  OverlayState* const state_;
  const Arena* const arena_;
  std::deque<Change> changes_;
  Change open_;              // the parts of a group whose end has not come
  uint64_t read_group_ = 0;  // the last one in the log
  uint64_t runs_end_ = 0;
  uint64_t unmarked_bytes_ = 0;
  bool cut_ = false;
};

// Takes everything that lies in slots below `slot` out of the map; tells which slots.
void DropCommitted(ClusterMap& map, uint64_t slot, absl::FunctionRef<void(uint64_t slot)> freed);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_OVERLAY_RECORDS_H_
