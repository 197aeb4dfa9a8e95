// SPDX-License-Identifier: GPL-3.0-or-later
//
// JournaledTree: a WritableTree with the semantics of a real one and none of its speed: names and attributes in memory,
// file data in files. In a directory it keeps a journal too, from which another process goes on after this one was
// killed; without one all is gone at the end (memfds).
//
// Every change is one record, written with one write(2) before it is acknowledged. A record that a kill tore is
// dropped: its change was not acknowledged. Data is written to its file before the record.
//
// What breaks the test program itself (no space in the directory, say) ends it.
//
// Thread safety: as WritableTree.

#ifndef TESTS_UNIT_JOURNALED_TREE_H_
#define TESTS_UNIT_JOURNALED_TREE_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/unique_fd.h"
#include "libmount/tree/writable_tree.h"

namespace libmount {

class JournaledTree : public WritableTree {
 public:
  explicit JournaledTree(UniqueFd directory = UniqueFd());

  // Each change that succeeds runs this after it was recorded and before it returns.
  void SetChangeHook(std::function<void()> hook) { hook_ = std::move(hook); }
  // The next changes give this errno (0: no more).
  void SetError(int error) { forced_error_ = error; }
  int open_count(NodeId node) const;
  int changes() const { return changes_; }  // made by this process, repeated ones not counted

  ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const override;
  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override;
  ErrnoOr<NodeId> Parent(NodeId directory) const override;
  int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const override;
  ErrnoOr<std::string> ReadLink(NodeId link) const override;
  ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const override;
  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const override;
  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const override;
  void VisitReadAheadCandidates(NodeId, uint64_t, CandidateVisitor) const override {}
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

 private:
  enum class Kind : uint32_t { kMake, kLink, kUnlink, kRemove, kRename, kSet, kWrite, kSetXattr, kRemoveXattr };

  // A change, as it stands in the journal.
  struct Fixed {
    Kind kind;
    uint32_t mode = 0, uid = 0, gid = 0, device = 0, flags = 0;
    uint64_t id = 0;
    NodeId node = 0, parent = 0, new_parent = 0;
    uint64_t size = 0;
    timespec now = {}, access_time = {}, modification_time = {};
    uint32_t name_size = 0, value_size = 0;
  };
  struct Change : Fixed {
    std::string name, value;
  };

  struct Entry {
    std::string name;
    NodeId node;
  };
  struct Node {
    NodeAttributes attributes;
    NodeId parent = 0;  // of a directory
    std::string target;
    std::map<uint64_t, Entry> entries;  // by cookie
    std::map<std::string, uint64_t> names;
    uint64_t last_cookie = 0;
    std::map<std::string, std::string> xattrs;
    std::map<std::string, NodeId> streams;
    std::shared_ptr<UniqueFd> data;
    int opened = 0;
  };
  using Answer = ErrnoOr<NodeId>;

  Answer Do(const Request& request, Change change) ABSL_LOCKS_EXCLUDED(mutex_);
  ErrnoOr<NodeAttributes> DoForAttributes(const Request& request, Change change) ABSL_LOCKS_EXCLUDED(mutex_);
  Answer Apply(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplyMake(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplyMakeStream(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplyLink(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplyUnlink(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplyRename(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplySet(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Answer ApplyXattr(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Load();
  void Append(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Node* Find(NodeId node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Node* Find(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ErrnoOr<LookupResult> FindName(NodeId directory, std::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  NodeId NewNode(const Change& change, uint32_t mode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddName(NodeId parent, const std::string& name, NodeId node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveName(NodeId parent, const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string OwnName(NodeId parent, NodeId node, std::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop(NodeId node, timespec now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // one name less
  void DestroyIfUnused(NodeId node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsWithin(NodeId directory, NodeId ancestor) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<UniqueFd> DataOf(NodeId node) const ABSL_LOCKS_EXCLUDED(mutex_);

  const UniqueFd directory_;
  UniqueFd journal_;
  std::function<void()> hook_;
  std::atomic<int> forced_error_{0};
  std::atomic<int> changes_{0};

  mutable absl::Mutex mutex_;
  mutable std::unordered_map<NodeId, Node> nodes_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, Answer> answered_ ABSL_GUARDED_BY(mutex_);
  NodeId last_node_ ABSL_GUARDED_BY(mutex_) = kRootNode;
  NodeId last_recovered_ ABSL_GUARDED_BY(mutex_) = 0;
  bool loading_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace libmount

#endif  // TESTS_UNIT_JOURNALED_TREE_H_
