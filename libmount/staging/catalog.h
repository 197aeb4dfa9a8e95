// SPDX-License-Identifier: GPL-3.0-or-later
//
// Catalog: the image and what became of it, in memory: the changed nodes and the entries of the changed directories.
// What is not in it is as the base has it.
//
// It changes by edits (edits.h) alone: the log's replay and the change that is made now take the same way. Besides,
// copies of what the base has are made when they are needed (Change, ChangeDirectory); they say nothing new.
//
// Thread safety: as a standard container. What a snapshot has of it may be read by anybody.

#ifndef LIBMOUNT_STAGING_CATALOG_H_
#define LIBMOUNT_STAGING_CATALOG_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "libmount/staging/edits.h"
#include "libmount/staging/node.h"
#include "libmount/tree/base_image.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

// Ids of nodes and streams made here. Those of the base lie below, and those of its named streams at 2^40 and above.
inline constexpr NodeId kFirstNewNode = NodeId{1} << 32;
inline constexpr NodeId kEndOfNewNodes = NodeId{1} << 40;

// EFBIG beyond: the arena's numbers have room for many of these.
inline constexpr uint64_t kMaxFileSize = uint64_t{1} << 44;

// The security descriptors that a log knows, by number.
class SecurityTable {
 public:
  // The number; `edits` gets what the log needs to know it by, where it does not yet (one for each record).
  uint64_t NumberOf(const std::shared_ptr<const std::string>& security, EditWriter& edits) const;
  void Add(const std::shared_ptr<const std::string>& security);
  void AddIfNew(const std::shared_ptr<const std::string>& security) {
    if (!numbers_.contains(security.get())) Add(security);
  }
  size_t size() const { return all_.size(); }
  const std::shared_ptr<const std::string>& at(uint64_t number) const { return all_[number]; }

 private:
  std::vector<std::shared_ptr<const std::string>> all_;
  absl::flat_hash_map<const std::string*, uint64_t> numbers_;
};

class Catalog {
 public:
  using NodeMap = absl::flat_hash_map<NodeId, std::shared_ptr<Node>>;
  using DirectoryMap = absl::flat_hash_map<NodeId, std::shared_ptr<Directory>>;

  // What a request did, for when it comes again.
  struct Outcome {
    uint32_t operation = 0;
    uint64_t result = 0;
  };

  // Both must outlive it.
  Catalog(const FileTree* base_tree, const BaseImage* base) : base_tree_(base_tree), base_(base) {}

  // --- looking
  // Null: not changed, or no such node.
  const Node* Find(NodeId file) const;
  bool Exists(NodeId file) const;
  // Null: the directory is as the base has it.
  const Directory* FindDirectory(NodeId directory) const;
  // {file, stream}: what a node id stands for; stream 0 is the file itself.
  std::pair<NodeId, NodeId> Resolve(NodeId id) const;
  // The entries' directory, made to be looked at here; null: no directory.
  const Directory* Entries(NodeId directory);
  // A changed node, made to be looked at here; null: no such node.
  const Node* Copy(NodeId file) { return Change(file); }
  // One of a node's names: where there are several, one with a short name is preferred to others of its directory.
  // `directory` is 0 where it has none.
  struct Name {
    NodeId directory = 0;
    uint64_t cookie = 0;
    std::string short_name;
  };
  Name FindName(NodeId file) const;

  // --- changing
  // Applies a record's edits; `number`: of the change. False: they make no sense, and the catalog is not to be used any
  // more (impossible for edits made from what the catalog says).
  bool Apply(std::string_view edits, uint64_t number);
  // Whether what was replayed is a tree. For logs that were tampered with.
  bool IsConsistent() const;
  // Gives each record of a log that has all this, and nothing else. What comes is the table of that log.
  SecurityTable Dump(absl::FunctionRef<void(std::string_view edits)> visitor) const;
  void SetSecurityTable(SecurityTable table) { logged_security_ = std::move(table); }

  // From here on, what is there now is not changed in place (its shared pointers can be kept), until Thaw. Extents: the
  // data in the arena stay likewise, so only extents of `writable_epoch` or later may be written to.
  void Freeze() { frozen_epoch_ = ++epoch_; }
  void Thaw() { frozen_epoch_ = 0; }
  uint64_t writable_epoch() const { return frozen_epoch_; }

  const SecurityTable& security_table() const { return logged_security_; }
  std::shared_ptr<const std::string> Intern(std::string_view security);

  void Remember(uint64_t request, const Outcome& outcome);
  // Null: not among the last ones.
  const Outcome* FindOutcome(uint64_t request) const;
  void ForgetRequests();

  // Ranges of the arena that nothing here uses any more, since the last call.
  std::vector<ArenaRange> TakeFreed() { return std::exchange(freed_, {}); }
  std::vector<ArenaRange> UsedRanges() const;

  const NodeMap& nodes() const { return nodes_; }
  const DirectoryMap& directories() const { return directories_; }
  NodeId next_node() const { return next_node_; }
  uint64_t last_change() const { return last_change_; }
  uint64_t committed_change() const { return committed_change_; }
  uint64_t staged_bytes() const { return staged_bytes_; }
  // Files and directories made, changed, renamed or removed since the last commit.
  size_t changed_count() const { return changed_.size(); }
  // Nodes without names that are still here.
  const absl::flat_hash_set<NodeId>& orphans() const { return orphans_; }

 private:
  // For changing: a node or directory of its own, copied from the base or from what a snapshot has. Null: none.
  Node* Change(NodeId file);
  Directory* ChangeDirectory(NodeId directory);
  Stream* ChangeStream(NodeId file, NodeId stream);
  bool CanHold(NodeId directory) const;
  void FindParents() const;

  void NoteChanged(NodeId file);
  void NoteCommitted();
  bool ApplyOne(Edit edit, EditReader& reader);
  bool ApplyNewNode(EditReader& reader);
  bool ApplyMeta(EditReader& reader);
  bool ApplyAddName(EditReader& reader);
  bool ApplyRemoveName(EditReader& reader);
  bool ApplyStream(Edit edit, EditReader& reader);
  bool ApplyStreamData(Edit edit, Stream& stream, EditReader& reader);
  bool ApplyDropNode(NodeId file);
  bool ApplyDumped(Edit edit, EditReader& reader);
  bool ApplyDumpedNode(EditReader& reader);
  bool ApplyDumpedStream(EditReader& reader);
  void ReleaseStream(Stream& stream);
  void SetReparse(Node& node, uint32_t tag, uint16_t reserved, std::string_view data);
  bool TakeId(NodeId id);
  bool ExtentsAreDisjoint() const;

  const FileTree* const base_tree_;
  const BaseImage* const base_;
  NodeMap nodes_;
  DirectoryMap directories_;
  absl::flat_hash_set<NodeId> gone_;  // nodes of the base that are no more
  absl::flat_hash_set<NodeId> orphans_;
  absl::flat_hash_map<NodeId, NodeId> stream_files_;  // of streams made here
  // Of the base's nodes, by id: a directory with one of their names, if possible a short one. Made when needed.
  mutable std::once_flag parents_once_;
  mutable std::vector<NodeId> parents_;

  // By content.
  absl::flat_hash_map<std::string_view, std::shared_ptr<const std::string>> security_;
  SecurityTable logged_security_;

  std::deque<uint64_t> request_order_;
  absl::flat_hash_map<uint64_t, Outcome> outcomes_;

  std::vector<ArenaRange> freed_;
  NodeId next_node_ = kFirstNewNode;
  uint64_t epoch_ = 1;
  uint64_t frozen_epoch_ = 0;
  uint64_t last_change_ = 0;
  uint64_t committed_change_ = 0;
  uint64_t staged_bytes_ = 0;

  struct Changed {
    uint64_t last = 0;  // number of the change
    uint64_t made = 0;  // of the one that made it; 0: it was there at the last commit
  };
  absl::flat_hash_map<NodeId, Changed> changed_;  // since the last commit
  bool counts_ = false;                           // what is applied is a change, and no record of what was
};

// The fields of `node` that `mask` names, as a kMeta edit, behind what the log needs to understand it.
void AppendMeta(NodeId id, const Node& node, uint32_t mask, const SecurityTable& security, EditWriter& edits);

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_CATALOG_H_
