// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/staged_tree.h"

#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/staging/staged_tree_impl.h"

namespace libmount {
namespace {

constexpr char kDataName[] = "data";
constexpr size_t kMaxLookupName = 1024;  // FUSE_NAME_MAX
constexpr uint64_t kStatBlockSize = 512;
constexpr uint64_t kBlockSize = 4096;
// A log is written anew when it is this large, and at least four times what a new one takes.
constexpr uint64_t kMinRewriteSize = uint64_t{64} << 20;

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

uint64_t WindowsNow() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return ToWindowsTime(now);
}

absl::StatusOr<std::unique_ptr<StagedTree>> StagedTree::Open(UniqueFd directory, const FileTree* base_tree,
                                                             const BaseImage* base, const BlobStore* blobs,
                                                             const StagedTreeOptions& options) {
  return OpenOn(StagingFilesOn(std::move(directory)), base_tree, base, blobs, options);
}

absl::StatusOr<std::unique_ptr<StagedTree>> StagedTree::OpenOn(std::unique_ptr<StagingFiles> files,
                                                               const FileTree* base_tree, const BaseImage* base,
                                                               const BlobStore* blobs,
                                                               const StagedTreeOptions& options) {
  auto tree = std::make_unique<StagedTreeImpl>(std::move(files), base_tree, base, blobs, options);
  if (absl::Status status = tree->Init(); !status.ok()) return status;
  return tree;
}

StagedTreeImpl::StagedTreeImpl(std::unique_ptr<StagingFiles> files, const FileTree* base_tree, const BaseImage* base,
                               const BlobStore* blobs, const StagedTreeOptions& options)
    : files_(std::move(files)),
      base_tree_(base_tree),
      base_(base),
      blobs_(blobs),
      options_(options),
      keeps_unix_data_(options.unix_data || base->has_unix_data()),
      catalog_(base_tree, base),
      rewrite_at_(kMinRewriteSize) {}

absl::Status StagedTreeImpl::Init() {
  if (int error = files_->Lock()) {
    if (error == EWOULDBLOCK) return MakeError(Reason::kImageInUse, "another process has the staging directory open");
    return MakeErrnoError(Reason::kOutOfResources, error, "cannot lock the staging directory");
  }
  ErrnoOr<std::unique_ptr<StagingFile>> data = files_->Open(kDataName, /*create=*/true);
  if (!data.ok()) {
    return MakeErrnoError(Reason::kOutOfResources, data.error(), "cannot open the data in the staging directory");
  }
  arena_ = std::make_unique<Arena>(*std::move(data));

  absl::MutexLock lock(&mutex_);
  absl::StatusOr<std::unique_ptr<EditLog>> log =
      EditLog::Open(files_.get(), options_.identity, [this](const EditLog::Record& record) {
        mutex_.AssertHeld();
        return ReplayRecord(record);
      });
  if (!log.ok()) return log.status();
  log_ = *std::move(log);
  if (!catalog_.IsConsistent()) {
    return MakeError(Reason::kBadImageFormat, "what the log in the staging directory says is no tree");
  }
  catalog_.TakeFreed();
  rewrite_at_ = std::max(kMinRewriteSize, log_->size());
  if (options_.resumed) {
    first_known_node_ = catalog_.next_node();
  } else {
    catalog_.ForgetRequests();
    EditWriter edits;
    for (NodeId orphan : catalog_.orphans()) edits.Op(Edit::kDropNode).Number(orphan);
    // Where there is no space for that they stay, and do no harm.
    if (!edits.empty() && edits.bytes().size() <= EditLog::kMaxEdits) Commit(0, Operation::kInternal, 0, edits);
    catalog_.TakeFreed();
    freed_.clear();
    freed_bytes_ = 0;
  }
  // Whatever frees them must be on the disk before they go.
  std::vector<ArenaRange> used = catalog_.UsedRanges();
  if (log_->Sync() == 0) {
    arena_->KeepOnly(std::move(used));
  } else {
    return MakeError(Reason::kOutOfResources, "cannot sync the log in the staging directory");
  }
  return absl::OkStatus();
}

absl::Status StagedTreeImpl::ReplayRecord(const EditLog::Record& record) {
  const uint64_t number = catalog_.last_change() + (record.operation == 0 ? 0 : 1);
  if (!catalog_.Apply(record.edits, number)) {
    return MakeError(Reason::kBadImageFormat, "the log in the staging directory says what makes no sense");
  }
  catalog_.Remember(record.request, {record.operation, record.outcome});
  return absl::OkStatus();
}

// --- looking

ErrnoOr<StagedTreeImpl::Target> StagedTreeImpl::Find(NodeId id) const {
  Target target;
  std::tie(target.file, target.stream_id) = catalog_.Resolve(id);
  target.node = catalog_.Find(target.file);
  if (target.node == nullptr) {
    if (!catalog_.Exists(target.file)) return Errno(ENOENT);
    return target;
  }
  target.stream = target.node->FindStream(target.stream_id);
  if (target.stream == nullptr && target.stream_id != 0) return Errno(ENOENT);
  return target;
}

ErrnoOr<StagedTreeImpl::Target> StagedTreeImpl::FindForChange(NodeId id) {
  ErrnoOr<Target> target = Find(id);
  if (!target.ok() || target->node != nullptr) return target;
  if (catalog_.Copy(target->file) == nullptr) return Errno(EIO);
  return Find(id);
}

ErrnoOr<StagedTreeImpl::Target> StagedTreeImpl::FindData(NodeId id) {
  ErrnoOr<Target> target = FindForChange(id);
  if (!target.ok()) return target;
  if (target->stream_id == 0 && !S_ISREG(target->node->mode())) {
    return Errno(target->node->is_directory() ? EISDIR : EINVAL);
  }
  // A file of the base without a data stream gets one by its first write; there is none such in practice.
  if (target->stream == nullptr) return Errno(EIO);
  return target;
}

uint64_t StagedTreeImpl::LinkSize(NodeId file, const Node& node) const {
  if (node.link_text) return node.link_text->size();
  if (!node.reparse_staged && file < kFirstNewNode) {
    ErrnoOr<NodeAttributes> attributes = base_tree_->GetAttributes(file);
    if (attributes.ok() && S_ISLNK(attributes->mode)) return attributes->size;
  }
  ErrnoOr<std::string> data = ReparseDataOf(node);
  if (!data.ok()) return 0;
  std::optional<std::string> text = LinkText(node.reparse_tag, *data);
  return text ? text->size() : 0;
}

NodeAttributes StagedTreeImpl::AttributesOf(NodeId file, const Node& node, const Stream* named_stream) const {
  NodeAttributes attributes;
  attributes.node = file;
  attributes.mode = node.mode();
  attributes.link_count = node.is_directory() && node.parent == 0 && file != kRootNode ? 0 : node.link_count;
  attributes.uid = node.unix_data ? node.unix_data->uid : options_.uid;
  attributes.gid = node.unix_data ? node.unix_data->gid : options_.gid;
  if (node.unix_data && (S_ISCHR(attributes.mode) || S_ISBLK(attributes.mode))) {
    attributes.device = node.unix_data->device;
  }
  attributes.access_time = ToTimespec(node.access_time);
  attributes.modification_time = ToTimespec(node.write_time);
  attributes.change_time = ToTimespec(node.change_time);
  const Stream* stream = named_stream;
  if (named_stream != nullptr) {
    attributes.node = named_stream->id;
    attributes.stream_of = file;
    attributes.mode = S_IFREG | (attributes.mode & 0666);
    attributes.link_count = 1;
    attributes.device = 0;
  } else if (S_ISREG(attributes.mode)) {
    stream = node.FindStream(0);
  } else if (S_ISLNK(attributes.mode)) {
    attributes.size = LinkSize(file, node);
  }
  if (stream != nullptr) {
    attributes.size = stream->size;
    attributes.allocated =
        RoundUp(std::min(stream->size, stream->blob_used + stream->extents.data_bytes()), kStatBlockSize);
  }
  return attributes;
}

ErrnoOr<NodeAttributes> StagedTreeImpl::AttributesLocked(NodeId id) const {
  ErrnoOr<Target> target = Find(id);
  if (!target.ok()) return Errno(target.error());
  if (target->node == nullptr) return base_tree_->GetAttributes(id);
  return AttributesOf(target->file, *target->node, target->stream_id == 0 ? nullptr : target->stream);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::GetAttributes(NodeId node) const {
  absl::ReaderMutexLock lock(&mutex_);
  return AttributesLocked(node);
}

bool StagedTreeImpl::IsDirectory(NodeId id) const {
  ErrnoOr<NodeAttributes> attributes = AttributesLocked(id);
  return attributes.ok() && S_ISDIR(attributes->mode);
}

int StagedTreeImpl::CheckDirectory(NodeId directory) const {
  ErrnoOr<NodeAttributes> attributes = AttributesLocked(directory);
  if (!attributes.ok()) return attributes.error();
  return S_ISDIR(attributes->mode) ? 0 : ENOTDIR;
}

ErrnoOr<NodeId> StagedTreeImpl::ParentLocked(NodeId directory) const {
  ErrnoOr<Target> target = Find(directory);
  if (!target.ok()) return Errno(target.error());
  if (target->node == nullptr) return base_tree_->Parent(directory);
  if (target->stream_id != 0 || !target->node->is_directory()) return Errno(ENOTDIR);
  return directory == kRootNode ? kRootNode : target->node->parent;
}

ErrnoOr<NodeId> StagedTreeImpl::Parent(NodeId directory) const {
  absl::ReaderMutexLock lock(&mutex_);
  ErrnoOr<NodeId> parent = ParentLocked(directory);
  // A removed directory, still open: as ext4 has it, ".." stays what it was; nobody can tell where it leads.
  if (parent.ok() && *parent == 0) return kRootNode;
  return parent;
}

bool StagedTreeImpl::IsWithin(NodeId directory, NodeId ancestor) const {
  while (directory != ancestor) {
    if (directory == kRootNode || directory == 0) return false;
    ErrnoOr<NodeId> parent = ParentLocked(directory);
    if (!parent.ok()) return false;
    directory = *parent;
  }
  return true;
}

StagedTreeImpl::FoundName StagedTreeImpl::FindInDirectory(NodeId directory, std::string_view name) const {
  if (const Directory* entries = catalog_.FindDirectory(directory)) {
    const Directory::Found found = entries->Find(name);
    return found.item == nullptr ? FoundName() : FoundName{found.item->node, found.exact};
  }
  ErrnoOr<LookupResult> found = base_tree_->Lookup(directory, name);
  // Streams are found below, where changed files are known.
  if (!found.ok() || base_->FileOfNode(found->attributes.node).first != found->attributes.node) return {};
  return {found->attributes.node, found->exact};
}

StagedTreeImpl::FoundName StagedTreeImpl::StreamOf(NodeId file, std::string_view wanted) const {
  FoundName result;
  auto consider = [&](std::string_view name, NodeId id) {
    if (name.empty() || (result.node != 0 && result.exact)) return;
    if (name == wanted) {
      result = {id, true};
    } else if (result.node == 0 && EqualFolded(name, wanted)) {
      result = {id, false};
    }
  };
  if (const Node* node = catalog_.Find(file)) {
    for (const Stream& stream : node->streams) consider(stream.name, stream.id);
    return result;
  }
  ErrnoOr<FileRecord> record = base_->GetFileRecord(file);
  if (!record.ok()) return result;
  for (size_t i = 0; i < record->streams.size(); ++i) {
    const std::string& name = record->streams[i].name;
    if (!name.empty()) consider(name, base_->StreamNode(file, i));
  }
  return result;
}

// "file:stream", with ":$DATA" behind it or not; "file::$DATA" is the file itself.
StagedTreeImpl::FoundName StagedTreeImpl::FindStreamName(NodeId directory, std::string_view name) const {
  constexpr std::string_view kDataType = ":$DATA";
  const size_t colon = name.find(':');
  if (colon == name.npos || colon == 0) return {};
  const FoundName file = FindInDirectory(directory, name.substr(0, colon));
  if (file.node == 0) return {};
  std::string_view wanted = name.substr(colon + 1);
  const size_t type_at = wanted.rfind(':');
  const bool typed = type_at != wanted.npos;
  if (typed) {
    if (!EqualFolded(wanted.substr(type_at), kDataType)) return {};
    wanted = wanted.substr(0, type_at);
    if (wanted.empty()) return {file.node, false};
  }
  FoundName stream = StreamOf(file.node, wanted);
  stream.exact = stream.exact && file.exact && !typed;
  return stream;
}

ErrnoOr<LookupResult> StagedTreeImpl::Lookup(NodeId directory, std::string_view name) const {
  absl::ReaderMutexLock lock(&mutex_);
  if (int error = CheckDirectory(directory)) return Errno(error);
  if (name.size() > kMaxLookupName) return Errno(ENAMETOOLONG);
  FoundName found = FindInDirectory(directory, name);
  if (found.node == 0) found = FindStreamName(directory, name);
  if (found.node == 0) {
    // Longer than a name may be, and not the two names of file:stream.
    const bool too_long = name.find(':') == name.npos && CheckName(name) == ENAMETOOLONG;
    return Errno(too_long ? ENAMETOOLONG : ENOENT);
  }
  ErrnoOr<NodeAttributes> attributes = AttributesLocked(found.node);
  if (!attributes.ok()) return Errno(attributes.error());
  return LookupResult{*attributes, found.exact};
}

int StagedTreeImpl::ReadDirectory(NodeId id, uint64_t cookie, EntryVisitor visitor) const {
  absl::ReaderMutexLock lock(&mutex_);
  if (int error = CheckDirectory(id)) return error;
  const Directory* directory = catalog_.FindDirectory(id);
  if (directory == nullptr) {
    return base_tree_->ReadDirectory(id, cookie, [&](const DirectoryEntry& entry) {
      mutex_.AssertReaderHeld();
      const NodeId node = entry.attributes.node;
      const Node* changed = catalog_.Find(node);
      if (changed == nullptr) return visitor(entry);
      const NodeAttributes attributes = AttributesOf(node, *changed, nullptr);
      return visitor({entry.name, attributes, entry.next_cookie});
    });
  }
  if (cookie >= directory->next_cookie()) return EINVAL;
  const auto& items = directory->items();
  for (auto it = items.upper_bound(cookie); it != items.end(); ++it) {
    ErrnoOr<NodeAttributes> attributes = AttributesLocked(it->second.node);
    if (!attributes.ok()) continue;
    if (!visitor({it->second.name, *attributes, it->first})) break;
  }
  return 0;
}

// None: what the kernel was given ahead could overtake a write.
void StagedTreeImpl::VisitReadAheadCandidates(NodeId, uint64_t, CandidateVisitor) const {}

struct statvfs StagedTreeImpl::FileSystemStats() const {
  struct statvfs stats = {};
  stats.f_bsize = kBlockSize;
  stats.f_frsize = kBlockSize;
  stats.f_namemax = MaxWtf8Size(kMaxNameUnits);
  stats.f_flag = ST_NOSUID | ST_NODEV;
  const uint64_t image_blocks = RoundUp(base_->total_size(), kBlockSize) / kBlockSize;
  ErrnoOr<struct statvfs> staging = files_->Stats();
  if (staging.ok()) {
    const uint64_t unit = std::max<uint64_t>(staging->f_frsize, 1);
    stats.f_bfree = staging->f_bfree * unit / kBlockSize;
    stats.f_bavail = staging->f_bavail * unit / kBlockSize;
  }
  absl::ReaderMutexLock lock(&mutex_);
  stats.f_blocks = image_blocks + RoundUp(catalog_.staged_bytes(), kBlockSize) / kBlockSize + stats.f_bfree;
  stats.f_ffree = stats.f_favail = kEndOfNewNodes - catalog_.next_node();
  stats.f_files = base_->LastNode() + (kEndOfNewNodes - kFirstNewNode);
  return stats;
}

StagedTree::Stats StagedTreeImpl::GetStats() const {
  absl::ReaderMutexLock lock(&mutex_);
  Stats stats;
  stats.staged_bytes = catalog_.staged_bytes();
  stats.log_bytes = log_->size();
  stats.changed_nodes = catalog_.changed_count();
  return stats;
}

}  // namespace libmount
