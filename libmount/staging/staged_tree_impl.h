// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTreeImpl: the catalog, the log and the arena together. Each change: look at the catalog, write what is to be
// done as edits, append them to the log, apply them to the catalog.
//
// Locks, in this order: a file's (one of a few), which orders changes to its data; mutex_, for the catalog, held for
// writing while a record is appended; the arena's and the log's own.
//
// Implemented in staged_tree.cc (opening, looking), staged_names.cc, staged_attributes.cc, staged_data.cc,
// staged_xattrs.cc, staged_links.cc, staged_log.cc and staged_commit.cc.

#ifndef LIBMOUNT_STAGING_STAGED_TREE_IMPL_H_
#define LIBMOUNT_STAGING_STAGED_TREE_IMPL_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libmount/staging/arena.h"
#include "libmount/staging/catalog.h"
#include "libmount/staging/edit_log.h"
#include "libmount/staging/staged_tree.h"
#include "libmount/staging/staging_files.h"
#include "libmount/tree/names.h"
#include "libmount/tree/reparse.h"

namespace libmount {

// What a record says that it was.
enum class Operation : uint32_t {
  kInternal = 0,  // no change that a commit would write
  kMakeNode = 1,
  kMakeDirectory = 2,
  kMakeSymlink = 3,
  kMakeLink = 4,
  kUnlink = 5,
  kRemoveDirectory = 6,
  kRename = 7,
  kSetAttributes = 8,
  kWrite = 9,
  kAllocate = 10,
  kSetXattr = 11,
  kRemoveXattr = 12,
};

// A stretch of a stream, and where its bytes are.
struct Segment {
  enum class Source { kZero, kArena, kBlob } source = Source::kZero;
  uint64_t offset = 0;  // in the stream
  uint64_t length = 0;
  uint64_t at = 0;  // in the arena, or in the blob
  uint64_t epoch = 0;
};
// REQUIRES: the range lies within the stream.
std::vector<Segment> SegmentsOf(const Stream& stream, uint64_t offset, uint64_t length);

class StagedTreeImpl final : public StagedTree {
 public:
  StagedTreeImpl(std::unique_ptr<StagingFiles> files, const FileTree* base_tree, const BaseImage* base,
                 const BlobStore* blobs, const StagedTreeOptions& options);
  absl::Status Init();

  ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const override;
  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override;
  ErrnoOr<NodeId> Parent(NodeId directory) const override;
  int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const override;
  ErrnoOr<std::string> ReadLink(NodeId link) const override;
  ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const override;
  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const override;
  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const override;
  void VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const override;
  struct statvfs FileSystemStats() const override;

  ErrnoOr<NodeAttributes> MakeNode(const Request& request, NodeId parent, std::string_view name, uint32_t mode,
                                   uint32_t device) override;
  ErrnoOr<NodeAttributes> MakeDirectory(const Request& request, NodeId parent, std::string_view name,
                                        uint32_t mode) override;
  ErrnoOr<NodeAttributes> MakeSymlink(const Request& request, NodeId parent, std::string_view name,
                                      std::string_view target) override;
  ErrnoOr<NodeAttributes> MakeLink(const Request& request, NodeId node, NodeId new_parent,
                                   std::string_view new_name) override;
  int Unlink(const Request& request, NodeId parent, std::string_view name) override;
  int RemoveDirectory(const Request& request, NodeId parent, std::string_view name) override;
  int Rename(const Request& request, NodeId parent, std::string_view name, NodeId new_parent, std::string_view new_name,
             unsigned flags) override;
  ErrnoOr<NodeAttributes> SetAttributes(const Request& request, NodeId node, const AttributeChanges& changes) override;
  ErrnoOr<size_t> Write(const Request& request, NodeId file, uint64_t offset, absl::Span<const char> data) override;
  int Allocate(const Request& request, NodeId file, int mode, uint64_t offset, uint64_t length) override;
  ErrnoOr<uint64_t> Seek(NodeId file, uint64_t offset, int whence) const override;
  int SetXattr(const Request& request, NodeId node, std::string_view name, std::string_view value, int flags) override;
  int RemoveXattr(const Request& request, NodeId node, std::string_view name) override;
  int Open(NodeId node) override;
  void Release(NodeId node) override;
  int Sync() override;

  bool has_changes() const override;
  absl::StatusOr<std::unique_ptr<ImageContents>> Snapshot() override;
  absl::Status FinishCommit(const std::vector<StoredFile>& stored) override;
  void AbandonCommit() override;
  std::vector<MovedBlob> MovedBlobs(const std::vector<StoredFile>& stored) const override;
  absl::Status PrepareMove() override;
  absl::Status TakeMovedBlobs(const std::vector<MovedBlob>& moved) override;
  Stats GetStats() const override;

 private:
  static constexpr size_t kFileLocks = 64;

  absl::Mutex* FileLock(NodeId node) { return &file_locks_[node % kFileLocks]; }

  // A node id, looked up: `node` is null for a file that is as the base has it, `stream` for the file itself where it
  // has no such stream.
  struct Target {
    NodeId file = 0;
    NodeId stream_id = 0;
    const Node* node = nullptr;
    const Stream* stream = nullptr;
  };
  // For looking. ENOENT.
  ErrnoOr<Target> Find(NodeId id) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // For changing: `node` is never null.
  ErrnoOr<Target> FindForChange(NodeId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, of regular files and named streams: `stream` is never null. EISDIR, EINVAL.
  ErrnoOr<Target> FindData(NodeId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ErrnoOr<NodeAttributes> AttributesLocked(NodeId id) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Of a changed node, or of one of its named streams.
  NodeAttributes AttributesOf(NodeId file, const Node& node, const Stream* named_stream) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  uint64_t LinkSize(NodeId file, const Node& node) const;

  struct FoundName {
    NodeId node = 0;  // 0: none
    bool exact = false;
  };
  FoundName FindInDirectory(NodeId directory, std::string_view name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  FoundName FindStreamName(NodeId directory, std::string_view name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // The node of the file's stream with that name; 0: none.
  FoundName StreamOf(NodeId file, std::string_view stream) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // 0, ENOENT or ENOTDIR.
  int CheckDirectory(NodeId directory) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool IsDirectory(NodeId node) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool IsEmptyDirectory(NodeId directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `directory` is `ancestor` or lies below it.
  bool IsWithin(NodeId directory, NodeId ancestor) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  ErrnoOr<NodeId> ParentLocked(NodeId directory) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  // --- the log
  // Whether the request was done before, and what came of it.
  const Catalog::Outcome* Repeated(const Request& request, Operation operation) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // What a repeated request that made a node is answered.
  ErrnoOr<NodeAttributes> RepeatedNode(const Catalog::Outcome& outcome) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Makes the change: 0 when it is in the log and in the catalog.
  int Commit(uint64_t request, Operation operation, uint64_t outcome, const EditWriter& edits)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReplayRecord(const EditLog::Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int MoveBlob(const MovedBlob& moved) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // 0, or an errno: then it is as it was.
  int RewriteLog() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives freed space back where much of it waits, or (`now`) at all. Not under mutex_.
  void ReclaimSpace(bool now) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<ArenaRange> TakePunchable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // --- staged_names.cc
  ErrnoOr<NodeAttributes> MakeFile(const Request& request, Operation operation, NodeId parent, std::string_view name,
                                   uint32_t mode, uint32_t device, std::optional<std::string_view> link_target);
  ErrnoOr<NodeAttributes> MakeStream(const Request& request, NodeId file, std::string_view name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int UnlinkStream(const Request& request, NodeId parent, std::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DescribeNew(const Request& request, NodeId id, NodeId parent, uint32_t mode, uint32_t device,
                   std::optional<std::string_view> link_target, uint64_t now, EditWriter& edits)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<const std::string> InheritedSecurity(const Node& parent, bool is_directory)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Lets the node go with its last name, unless somebody may have it open.
  void DropIfUnused(NodeId node, uint32_t names_left, EditWriter& edits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Exchange(const Request& request, NodeId parent, const Directory::Found& from, NodeId new_parent,
               const Directory::Found& to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // --- staged_attributes.cc
  int DescribeChanges(const Target& target, const AttributeChanges& changes, EditWriter& edits)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // --- staged_data.cc
  // 0, or an errno: then nothing of it is in the catalog. What it staged is in `edits`.
  int StageData(const Target& target, uint64_t offset, absl::Span<const char> data, EditWriter& edits)
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  ErrnoOr<size_t> WriteOnce(const Request& request, NodeId file, uint64_t offset, absl::Span<const char> data);
  ErrnoOr<size_t> ReadStream(const Stream& stream, uint64_t offset, absl::Span<char> out,
                             std::vector<Segment>& blob_parts) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  int ReadBlobParts(const BlobHash& hash, const std::vector<Segment>& parts, uint64_t offset,
                    absl::Span<char> out) const;
  int AllocateHoles(const Target& target, uint64_t offset, uint64_t end, EditWriter& edits)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // --- staged_xattrs.cc
  ErrnoOr<std::string> NtfsXattr(NodeId file, const Node& node, std::string_view name) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  ErrnoOr<std::string> ReparseDataOf(const Node& node) const;
  // `value` is nullopt where the attribute is to go.
  int DescribeXattr(const Target& target, std::string_view name, std::optional<std::string_view> value,
                    EditWriter& edits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int DescribeReparse(const Target& target, std::optional<std::string_view> value, EditWriter& edits)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int DescribeShortName(NodeId file, std::string_view value, EditWriter& edits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int DescribeStreamXattr(const Target& target, std::string_view stream, std::optional<std::string_view> value,
                          EditWriter& edits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasXattr(NodeId file, const Node& node, std::string_view name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  int ChangeXattr(const Request& request, Operation operation, NodeId node, std::string_view name,
                  std::optional<std::string_view> value, int flags);

  const std::unique_ptr<StagingFiles> files_;
  const FileTree* const base_tree_;
  const BaseImage* const base_;
  const BlobStore* const blobs_;
  const StagedTreeOptions options_;
  const bool keeps_unix_data_;
  std::unique_ptr<EditLog> log_;
  std::unique_ptr<Arena> arena_;

  std::array<absl::Mutex, kFileLocks> file_locks_;
  mutable absl::Mutex mutex_;
  Catalog catalog_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<NodeId, uint32_t> open_counts_ ABSL_GUARDED_BY(mutex_);
  // What may be open without our knowing: everything that was there when a process died.
  NodeId first_known_node_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t rewrite_at_ ABSL_GUARDED_BY(mutex_);
  // By the directory's descriptor, for files and for directories.
  absl::flat_hash_map<std::pair<const std::string*, bool>, std::shared_ptr<const std::string>> inherited_
      ABSL_GUARDED_BY(mutex_);

  // Freed, by records that are not on the disk yet, or still in a snapshot.
  std::vector<ArenaRange> freed_ ABSL_GUARDED_BY(mutex_);
  uint64_t freed_bytes_ ABSL_GUARDED_BY(mutex_) = 0;

  // The snapshot of a commit.
  struct Frozen;
  std::shared_ptr<Frozen> frozen_ ABSL_GUARDED_BY(mutex_);
  friend class FrozenContents;

  // One sync at a time, for all who wait.
  absl::Mutex sync_mutex_;
  bool syncing_ ABSL_GUARDED_BY(sync_mutex_) = false;
  uint64_t syncs_wanted_ ABSL_GUARDED_BY(sync_mutex_) = 0;
  uint64_t syncs_done_ ABSL_GUARDED_BY(sync_mutex_) = 0;
  int sync_error_ ABSL_GUARDED_BY(sync_mutex_) = 0;
};

// Windows' time now.
uint64_t WindowsNow();

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_STAGED_TREE_IMPL_H_
