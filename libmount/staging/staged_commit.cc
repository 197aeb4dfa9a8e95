// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: snapshots for a commit.
//
// A snapshot is the catalog's maps, copied; the nodes and directories in them are not changed any more, and their data
// in the arena neither: who writes to what a snapshot has writes elsewhere. Nothing is punched while there is one.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/reason.h"
#include "libmount/staging/staged_tree_impl.h"

namespace libmount {

struct StagedTreeImpl::Frozen {
  Catalog::NodeMap nodes;
  Catalog::DirectoryMap directories;
  absl::flat_hash_set<NodeId> orphans;
  uint64_t change = 0;
  uint64_t staged_bytes = 0;
  std::atomic<bool> ended = false;
};

class FrozenContents final : public ImageContents {
 public:
  FrozenContents(std::shared_ptr<const StagedTreeImpl::Frozen> frozen, const BaseImage* base, const BlobStore* blobs,
                 const Arena* arena)
      : frozen_(std::move(frozen)), base_(base), blobs_(blobs), arena_(arena) {}

  File GetFile(NodeId id) const override {
    File file;
    const Node* node = Find(id);
    if (node == nullptr) {
      if (ErrnoOr<FileRecord> record = base_->GetFileRecord(id); record.ok()) file.record = *std::move(record);
      file.staged.resize(file.record.streams.size());
      const bool is_link = (file.record.attributes & kAttributeReparsePoint) != 0 && IsLinkTag(file.record.reparse_tag);
      file.is_directory = (file.record.attributes & kAttributeDirectory) != 0 && !is_link;
      return file;
    }
    FileRecord& record = file.record;
    record.attributes = node->attributes;
    record.creation_time = node->creation_time;
    record.access_time = node->access_time;
    record.write_time = node->write_time;
    if (node->security != nullptr) record.security_descriptor = *node->security;
    record.reparse_tag = node->reparse_tag;
    record.reparse_reserved = node->reparse_reserved;
    record.reparse_flags = node->reparse_flags;
    record.unknown_field = node->unknown_field;
    record.reparse_hash = node->reparse_hash;
    record.reparse_size = node->reparse_size;
    record.unix_data = node->unix_data;
    record.tagged_items = node->tagged_items;
    for (const Stream& stream : node->streams) {
      const bool staged = stream.staged();
      record.streams.push_back({stream.name, stream.size, staged || stream.size == 0 ? BlobHash() : stream.hash});
      file.staged.push_back(staged);
    }
    file.staged_reparse = node->reparse_staged && !node->reparse_data.empty();
    if (file.staged_reparse) file.reparse_data = node->reparse_data;
    file.is_directory = node->is_directory();
    return file;
  }

  void VisitEntries(NodeId id, EntryVisitor visitor) const override {
    auto found = frozen_->directories.find(id);
    if (found == frozen_->directories.end()) {
      base_->VisitEntries(id, [&](const BaseImage::Entry& entry) {
        visitor({entry.name, entry.short_name, entry.node});
        return true;
      });
      return;
    }
    for (const auto& [cookie, item] : found->second->items()) visitor({item.name, item.short_name, item.node});
  }

  absl::Status ReadStaged(NodeId id, size_t index, uint64_t offset, absl::Span<char> out) const override {
    const Node* node = Find(id);
    auto failed = [&](int error) {
      return MakeErrnoError(error == ENOMEM || error == ENOSPC ? Reason::kOutOfResources : Reason::kUnspecified, error,
                            absl::StrCat("cannot read the staged data of ", PathOf(id)));
    };
    if (node == nullptr || index >= node->streams.size() || frozen_->ended) return failed(EINVAL);
    const Stream& stream = node->streams[index];
    if (offset > stream.size || out.size() > stream.size - offset) return failed(EINVAL);
    for (const Segment& segment : SegmentsOf(stream, offset, out.size())) {
      absl::Span<char> part = out.subspan(segment.offset - offset, segment.length);
      int error = 0;
      switch (segment.source) {
        case Segment::Source::kZero: memset(part.data(), 0, part.size()); break;
        case Segment::Source::kArena: error = arena_->Read(segment.at, part); break;
        case Segment::Source::kBlob: error = blobs_->ReadBlob(stream.hash, segment.at, part); break;
      }
      if (error != 0) return failed(error);
    }
    return absl::OkStatus();
  }

  void VisitHeldBlobs(absl::FunctionRef<void(const BlobHash&)> visitor) const override {
    for (NodeId id : frozen_->orphans) {
      const Node* node = Find(id);
      if (node == nullptr) continue;
      for (const Stream& stream : node->streams) {
        if (stream.blob_used > 0) visitor(stream.hash);
      }
      constexpr BlobHash kNoBytes = {};
      if (node->reparse_hash != kNoBytes) visitor(node->reparse_hash);
    }
  }

  uint64_t staged_bytes() const override { return frozen_->staged_bytes; }

 private:
  const Node* Find(NodeId id) const {
    auto found = frozen_->nodes.find(id);
    return found == frozen_->nodes.end() ? nullptr : found->second.get();
  }

  // For an error: the name, and those above it.
  std::string PathOf(NodeId id) const {
    std::string path;
    for (int depth = 0; id != kRootNode && id != 0 && depth < kMaxShownDepth; ++depth) {
      const Node* node = Find(id);
      auto directory = node == nullptr ? frozen_->directories.end() : frozen_->directories.find(node->parent);
      if (directory == frozen_->directories.end()) break;
      for (const auto& [cookie, item] : directory->second->items()) {
        if (item.node == id) path.insert(0, absl::StrCat("/", item.name));
      }
      id = node->parent;
    }
    return path.empty() ? absl::StrCat("file ", id) : path;
  }

  static constexpr int kMaxShownDepth = 64;

  const std::shared_ptr<const StagedTreeImpl::Frozen> frozen_;
  const BaseImage* const base_;
  const BlobStore* const blobs_;
  const Arena* const arena_;
};

bool StagedTreeImpl::has_changes() const {
  absl::ReaderMutexLock lock(&mutex_);
  return catalog_.last_change() != catalog_.committed_change();
}

absl::StatusOr<std::unique_ptr<ImageContents>> StagedTreeImpl::Snapshot() {
  absl::MutexLock lock(&mutex_);
  if (frozen_ != nullptr) return absl::FailedPreconditionError("a commit is under way");
  auto frozen = std::make_shared<Frozen>();
  frozen->nodes = catalog_.nodes();
  frozen->directories = catalog_.directories();
  frozen->orphans = catalog_.orphans();
  frozen->change = catalog_.last_change();
  // Of streams with a hole or with the image's data in them more is to be stored than is staged.
  for (const auto& [id, node] : frozen->nodes) {
    if (catalog_.orphans().contains(id)) continue;
    for (const Stream& stream : node->streams) frozen->staged_bytes += stream.staged() ? stream.size : 0;
  }
  catalog_.Freeze();
  frozen_ = frozen;
  return std::unique_ptr<ImageContents>(std::make_unique<FrozenContents>(frozen, base_, blobs_, arena_.get()));
}

void StagedTreeImpl::AbandonCommit() {
  absl::MutexLock lock(&mutex_);
  if (frozen_ == nullptr) return;
  frozen_->ended = true;
  frozen_.reset();
  catalog_.Thaw();
}

std::vector<StagedTree::MovedBlob> StagedTreeImpl::MovedBlobs(const std::vector<StoredFile>& stored) const {
  absl::ReaderMutexLock lock(&mutex_);
  std::vector<MovedBlob> moved;
  if (frozen_ == nullptr) return moved;
  for (const StoredFile& file : stored) {
    auto found = frozen_->nodes.find(file.node);
    if (found == frozen_->nodes.end()) continue;
    const std::vector<Stream>& streams = found->second->streams;
    for (size_t i = 0; i < std::min(streams.size(), file.stream_hashes.size()); ++i) {
      if (!streams[i].staged() || streams[i].blob_used == 0) continue;
      moved.push_back({file.node, streams[i].id, streams[i].hash, file.stream_hashes[i], streams[i].size});
    }
  }
  return moved;
}

absl::Status StagedTreeImpl::PrepareMove() {
  absl::MutexLock lock(&mutex_);
  if (int error = RewriteLog()) {
    return MakeErrnoError(Reason::kOutOfResources, error, "cannot write the log in the staging directory anew");
  }
  return absl::OkStatus();
}

int StagedTreeImpl::MoveBlob(const MovedBlob& moved) {
  const Node* node = catalog_.Find(moved.file);
  const Stream* stream = node == nullptr ? nullptr : node->FindStream(moved.stream);
  if (stream == nullptr || stream->hash != moved.from || stream->blob_used == 0 || stream->blob_used > moved.size) {
    return 0;
  }
  EditWriter edits;
  edits.Op(Edit::kMoved).Number(moved.file).Number(moved.stream).Hash(moved.to).Number(moved.size);
  return Commit(0, Operation::kInternal, 0, edits);
}

absl::Status StagedTreeImpl::TakeMovedBlobs(const std::vector<MovedBlob>& moved) {
  absl::MutexLock lock(&mutex_);
  for (const MovedBlob& one : moved) {
    if (int error = MoveBlob(one)) {
      return MakeErrnoError(Reason::kOutOfResources, error, "cannot note in the staging directory what was committed");
    }
  }
  return absl::OkStatus();
}

absl::Status StagedTreeImpl::FinishCommit(const std::vector<StoredFile>& stored) {
  std::shared_ptr<Frozen> frozen;
  {
    absl::ReaderMutexLock lock(&mutex_);
    frozen = frozen_;
  }
  if (frozen == nullptr) return absl::FailedPreconditionError("no commit is under way");
  int error = 0;
  for (const StoredFile& file : stored) {
    auto found = frozen->nodes.find(file.node);
    if (found == frozen->nodes.end() || error != 0) continue;
    const Node& then = *found->second;
    if (file.stream_hashes.size() != then.streams.size()) {
      error = EINVAL;
      break;
    }
    // A stream is written under its own lock, between whose steps its blocks must not be let go.
    for (size_t i = 0; i < then.streams.size() && error == 0; ++i) {
      const Stream& stream = then.streams[i];
      if (!stream.staged()) continue;
      absl::MutexLock file_lock(FileLock(stream.id != 0 ? stream.id : file.node));
      absl::MutexLock lock(&mutex_);
      const Node* now = catalog_.Find(file.node);
      const Stream* current = now == nullptr ? nullptr : now->FindStream(stream.id);
      if (current == nullptr) continue;
      if (current->version != stream.version) {
        // Written to since: what it still shows of the former blob it shows of the new one.
        if (current->hash == stream.hash) {
          error = MoveBlob({file.node, stream.id, stream.hash, file.stream_hashes[i], stream.size});
        }
        continue;
      }
      EditWriter edits;
      edits.Op(Edit::kStored).Number(file.node).Number(stream.id).Hash(file.stream_hashes[i]);
      error = Commit(0, Operation::kInternal, 0, edits);
    }
    absl::MutexLock lock(&mutex_);
    const Node* now = catalog_.Find(file.node);
    if (error != 0 || now == nullptr || !then.reparse_staged || !now->reparse_staged ||
        now->reparse_version != then.reparse_version) {
      continue;
    }
    EditWriter edits;
    edits.Op(Edit::kReparseStored).Number(file.node).Hash(file.reparse_hash);
    error = Commit(0, Operation::kInternal, 0, edits);
  }
  absl::MutexLock lock(&mutex_);
  if (error == 0) {
    EditWriter edits;
    edits.Op(Edit::kCommitted).Number(frozen->change);
    error = Commit(0, Operation::kInternal, 0, edits);
  }
  frozen->ended = true;
  frozen_.reset();
  catalog_.Thaw();
  if (error == 0) return absl::OkStatus();
  return MakeErrnoError(Reason::kOutOfResources, error, "cannot note in the staging directory what was committed");
}

}  // namespace libmount
