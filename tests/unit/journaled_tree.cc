// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/unit/journaled_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace libmount {
namespace {

constexpr uint32_t kMostLinks = 1024;
constexpr size_t kMostNameUnits = 255;
constexpr std::string_view kUser = "user.";
// For the flags of a kSet change.
constexpr uint32_t kMode = 1, kUid = 2, kGid = 4, kSize = 8, kAccess = 16, kModification = 32;

void Check(bool good, const char* what) {
  if (good) return;
  perror(what);
  abort();
}

timespec Now() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  now.tv_nsec -= now.tv_nsec % 100;
  return now;
}

uint32_t Sum(std::string_view bytes) {
  uint32_t sum = 2166136261U;
  for (char byte : bytes) sum = (sum ^ static_cast<uint8_t>(byte)) * 16777619U;
  return sum;
}

int CheckName(std::string_view name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos) return EINVAL;
  size_t units = 0;
  for (char c : name) {
    auto byte = static_cast<uint8_t>(c);
    units += (byte & 0xC0) != 0x80 ? 1 : 0;
    units += byte >= 0xF0 ? 1 : 0;
  }
  return units > kMostNameUnits ? ENAMETOOLONG : 0;
}

int ErrorOf(const auto& result) { return result.ok() ? 0 : result.error(); }

}  // namespace

JournaledTree::JournaledTree(UniqueFd directory) : directory_(std::move(directory)) {
  absl::MutexLock lock(&mutex_);
  Node& root = nodes_[kRootNode];
  root.attributes.node = kRootNode;
  root.attributes.mode = S_IFDIR | 0755;
  root.attributes.link_count = 2;
  root.attributes.size = 4096;
  root.parent = kRootNode;
  if (directory_) Load();
}

void JournaledTree::Load() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  journal_.reset(openat(directory_.get(), "journal", O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0600));
  Check(journal_.valid(), "journal");
  struct stat st;
  Check(fstat(journal_.get(), &st) == 0, "fstat");
  std::string all(static_cast<size_t>(st.st_size), '\0');
  for (size_t got = 0; got < all.size();) {
    ssize_t n = pread(journal_.get(), all.data() + got, all.size() - got, static_cast<off_t>(got));
    Check(n > 0, "pread");
    got += static_cast<size_t>(n);
  }
  size_t at = 0;
  loading_ = true;
  for (;;) {
    uint32_t head[2];
    if (all.size() - at < sizeof(head)) break;
    memcpy(head, all.data() + at, sizeof(head));
    if (all.size() - at - sizeof(head) < head[0]) break;
    std::string_view body = std::string_view(all).substr(at + sizeof(head), head[0]);
    if (Sum(body) != head[1]) break;
    Change change;
    memcpy(static_cast<Fixed*>(&change), body.data(), sizeof(Fixed));
    change.name = body.substr(sizeof(Fixed), change.name_size);
    change.value = body.substr(sizeof(Fixed) + change.name_size);
    Answer answer = Apply(change);
    Check(answer.ok(), "replaying a change");
    if (change.id != 0) answered_.insert_or_assign(change.id, answer);
    at += sizeof(head) + head[0];
  }
  loading_ = false;
  last_recovered_ = at > 0 ? last_node_ : 0;
  Check(ftruncate(journal_.get(), static_cast<off_t>(at)) == 0, "ftruncate");
  // What a write that was not acknowledged left behind the end must not come to light.
  for (auto& [id, node] : nodes_) {
    if (!S_ISREG(node.attributes.mode)) continue;
    UniqueFd data(openat(directory_.get(), ("d" + std::to_string(id)).c_str(), O_RDWR | O_CLOEXEC));
    if (data && fstat(data.get(), &st) == 0 && static_cast<uint64_t>(st.st_size) > node.attributes.size) {
      Check(ftruncate(data.get(), static_cast<off_t>(node.attributes.size)) == 0, "ftruncate");
    }
  }
}

void JournaledTree::Append(const Change& change) {
  if (!journal_) return;
  Fixed fixed = change;
  fixed.name_size = static_cast<uint32_t>(change.name.size());
  fixed.value_size = static_cast<uint32_t>(change.value.size());
  std::string record(8, '\0');
  record.append(reinterpret_cast<const char*>(&fixed), sizeof(fixed)).append(change.name).append(change.value);
  uint32_t head[2] = {static_cast<uint32_t>(record.size() - 8), Sum(std::string_view(record).substr(8))};
  memcpy(record.data(), head, sizeof(head));
  Check(write(journal_.get(), record.data(), record.size()) == static_cast<ssize_t>(record.size()), "journal");
}

JournaledTree::Answer JournaledTree::Do(const Request& request, Change change) {
  if (int error = forced_error_; error != 0) return Errno(error);
  change.id = request.id;
  change.uid = change.kind == Kind::kSet ? change.uid : request.uid;
  change.gid = change.kind == Kind::kSet ? change.gid : request.gid;
  change.now = Now();
  Answer answer = Errno(EIO);
  {
    absl::MutexLock lock(&mutex_);
    auto repeated = answered_.find(request.id);
    if (request.id != 0 && repeated != answered_.end()) return repeated->second;
    answer = Apply(change);
    if (!answer.ok()) return answer;
    Append(change);
    if (request.id != 0) answered_.insert_or_assign(request.id, answer);
    ++changes_;
  }
  if (hook_) hook_();
  return answer;
}

ErrnoOr<NodeAttributes> JournaledTree::DoForAttributes(const Request& request, Change change) {
  Answer answer = Do(request, std::move(change));
  if (!answer.ok()) return Errno(answer.error());
  return GetAttributes(*answer);
}

JournaledTree::Answer JournaledTree::Apply(const Change& change) {
  switch (change.kind) {
    case Kind::kMake: return ApplyMake(change);
    case Kind::kLink: return ApplyLink(change);
    case Kind::kUnlink:
    case Kind::kRemove: return ApplyUnlink(change);
    case Kind::kRename: return ApplyRename(change);
    case Kind::kSet: return ApplySet(change);
    case Kind::kWrite: {
      Node* node = Find(change.node);
      if (node == nullptr) return Errno(ENOENT);
      node->attributes.size = std::max(node->attributes.size, change.size);
      node->attributes.modification_time = node->attributes.change_time = change.now;
      return change.node;
    }
    case Kind::kSetXattr:
    case Kind::kRemoveXattr: return ApplyXattr(change);
  }
  return Errno(EINVAL);
}

const JournaledTree::Node* JournaledTree::Find(NodeId node) const {
  auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : &found->second;
}
JournaledTree::Node* JournaledTree::Find(NodeId node) {
  auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : &found->second;
}

ErrnoOr<LookupResult> JournaledTree::FindName(NodeId directory, std::string_view name) const {
  const Node* at = Find(directory);
  if (at == nullptr) return Errno(ENOENT);
  if (!S_ISDIR(at->attributes.mode)) return Errno(ENOTDIR);
  if (size_t colon = name.find(':'); colon != name.npos) {
    ErrnoOr<LookupResult> file = FindName(directory, name.substr(0, colon));
    if (!file.ok()) return file;
    const Node* node = Find(file->attributes.node);
    auto stream = node->streams.find(std::string(name.substr(colon + 1)));
    if (stream == node->streams.end()) return Errno(ENOENT);
    return LookupResult{Find(stream->second)->attributes, file->exact};
  }
  if (int error = CheckName(name); error == ENAMETOOLONG) return Errno(error);
  if (auto exact = at->names.find(std::string(name)); exact != at->names.end()) {
    return LookupResult{Find(at->entries.at(exact->second).node)->attributes, true};
  }
  for (const auto& [cookie, entry] : at->entries) {
    if (entry.name.size() == name.size() && strncasecmp(entry.name.data(), name.data(), name.size()) == 0) {
      return LookupResult{Find(entry.node)->attributes, false};
    }
  }
  return Errno(ENOENT);
}

NodeId JournaledTree::NewNode(const Change& change, uint32_t mode) {
  NodeId id = ++last_node_;
  NodeAttributes& made = nodes_[id].attributes;
  made.node = id;
  made.mode = mode;
  made.link_count = S_ISDIR(mode) ? 2 : 1;
  made.size = S_ISDIR(mode) ? 4096 : 0;
  made.uid = change.uid;
  made.gid = change.gid;
  made.device = change.device;
  made.access_time = made.modification_time = made.change_time = change.now;
  return id;
}

void JournaledTree::AddName(NodeId parent, const std::string& name, NodeId node) {
  Node& directory = *Find(parent);
  directory.entries[++directory.last_cookie] = {name, node};
  directory.names[name] = directory.last_cookie;
  if (S_ISDIR(Find(node)->attributes.mode)) {
    ++directory.attributes.link_count;
    Find(node)->parent = parent;
  }
}

void JournaledTree::RemoveName(NodeId parent, const std::string& name) {
  Node& directory = *Find(parent);
  auto found = directory.names.find(name);
  if (S_ISDIR(Find(directory.entries.at(found->second).node)->attributes.mode)) --directory.attributes.link_count;
  directory.entries.erase(found->second);
  directory.names.erase(found);
}

// The name in the directory by which `name` found the node.
std::string JournaledTree::OwnName(NodeId parent, NodeId node, std::string_view name) const {
  const Node* directory = Find(parent);
  if (directory->names.count(std::string(name)) > 0) return std::string(name);
  for (const auto& [cookie, entry] : directory->entries) {
    if (entry.node == node && strcasecmp(entry.name.c_str(), std::string(name).c_str()) == 0) return entry.name;
  }
  return std::string(name);
}

void JournaledTree::Drop(NodeId id, timespec now) {
  Node& node = *Find(id);
  node.attributes.link_count = S_ISDIR(node.attributes.mode) ? 0 : node.attributes.link_count - 1;
  node.attributes.change_time = now;
  DestroyIfUnused(id);
}

void JournaledTree::DestroyIfUnused(NodeId id) {
  Node* node = Find(id);
  // Nobody knows who has open what another process served: it lives on.
  if (node->attributes.link_count > 0 || node->opened > 0 || loading_ || id <= last_recovered_) return;
  std::map<std::string, NodeId> streams = std::move(node->streams);
  nodes_.erase(id);
  if (directory_) unlinkat(directory_.get(), ("d" + std::to_string(id)).c_str(), 0);
  for (const auto& [name, stream] : streams) {
    Find(stream)->attributes.link_count = 0;
    DestroyIfUnused(stream);
  }
}

bool JournaledTree::IsWithin(NodeId directory, NodeId ancestor) const {
  for (;; directory = Find(directory)->parent) {
    if (directory == ancestor) return true;
    if (directory == kRootNode) return false;
  }
}

JournaledTree::Answer JournaledTree::ApplyMake(const Change& change) {
  Node* parent = Find(change.parent);
  if (parent == nullptr || parent->attributes.link_count == 0) return Errno(ENOENT);
  if (!S_ISDIR(parent->attributes.mode)) return Errno(ENOTDIR);
  if (int error = CheckName(change.name); error != 0) return Errno(error);
  if (FindName(change.parent, change.name).ok()) return Errno(EEXIST);
  if (change.name.find(':') != std::string::npos) return ApplyMakeStream(change);
  NodeId id = NewNode(change, change.mode);
  if (S_ISLNK(change.mode)) {
    Find(id)->target = change.value;
    Find(id)->attributes.size = change.value.size();
  }
  AddName(change.parent, change.name, id);
  parent = Find(change.parent);
  parent->attributes.modification_time = parent->attributes.change_time = change.now;
  return id;
}

JournaledTree::Answer JournaledTree::ApplyMakeStream(const Change& change) {
  size_t colon = change.name.find(':');
  ErrnoOr<LookupResult> file = FindName(change.parent, change.name.substr(0, colon));
  if (!file.ok()) return Errno(file.error());
  if (!S_ISREG(change.mode)) return Errno(EINVAL);
  NodeId id = NewNode(change, change.mode);
  Find(id)->attributes.stream_of = file->attributes.node;
  Find(file->attributes.node)->streams[change.name.substr(colon + 1)] = id;
  return id;
}

JournaledTree::Answer JournaledTree::ApplyLink(const Change& change) {
  Node* node = Find(change.node);
  Node* parent = Find(change.parent);
  if (node == nullptr || parent == nullptr || node->attributes.link_count == 0) return Errno(ENOENT);
  if (S_ISDIR(node->attributes.mode) || node->attributes.stream_of != 0) return Errno(EPERM);
  if (int error = CheckName(change.name); error != 0) return Errno(error);
  if (FindName(change.parent, change.name).ok()) return Errno(EEXIST);
  if (node->attributes.link_count >= kMostLinks) return Errno(EMLINK);
  ++node->attributes.link_count;
  node->attributes.change_time = change.now;
  AddName(change.parent, change.name, change.node);
  parent->attributes.modification_time = parent->attributes.change_time = change.now;
  return change.node;
}

JournaledTree::Answer JournaledTree::ApplyUnlink(const Change& change) {
  ErrnoOr<LookupResult> found = FindName(change.parent, change.name);
  if (!found.ok()) return Errno(found.error());
  const NodeAttributes& attributes = found->attributes;
  if (attributes.stream_of != 0) {
    if (change.kind == Kind::kRemove) return Errno(ENOTDIR);
    Find(attributes.stream_of)->streams.erase(change.name.substr(change.name.find(':') + 1));
    Drop(attributes.node, change.now);
    return attributes.node;
  }
  if (change.kind == Kind::kUnlink && S_ISDIR(attributes.mode)) return Errno(EISDIR);
  if (change.kind == Kind::kRemove && !S_ISDIR(attributes.mode)) return Errno(ENOTDIR);
  if (!Find(attributes.node)->entries.empty()) return Errno(ENOTEMPTY);
  RemoveName(change.parent, OwnName(change.parent, attributes.node, change.name));
  Node* parent = Find(change.parent);
  parent->attributes.modification_time = parent->attributes.change_time = change.now;
  Drop(attributes.node, change.now);
  return attributes.node;
}

JournaledTree::Answer JournaledTree::ApplyRename(const Change& change) {
  const std::string& new_name = change.value;
  if ((change.flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) return Errno(EINVAL);
  ErrnoOr<LookupResult> from = FindName(change.parent, change.name);
  if (!from.ok()) return Errno(from.error());
  if (from->attributes.stream_of != 0) return Errno(EINVAL);
  if (Find(change.new_parent) == nullptr) return Errno(ENOENT);
  if (int error = CheckName(new_name); error != 0) return Errno(error);
  ErrnoOr<LookupResult> to = FindName(change.new_parent, new_name);
  if (!to.ok() && to.error() != ENOENT) return Errno(to.error());
  const NodeId node = from->attributes.node;
  const bool is_directory = S_ISDIR(from->attributes.mode);
  const std::string own = OwnName(change.parent, node, change.name);
  if (is_directory && IsWithin(change.new_parent, node)) return Errno(EINVAL);
  const bool replaces = to.ok() && to->attributes.node != node;
  if (replaces && (change.flags & RENAME_NOREPLACE) != 0) return Errno(EEXIST);
  auto touch = [&](NodeId id, bool modified) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    NodeAttributes& attributes = Find(id)->attributes;
    attributes.change_time = change.now;
    if (modified) attributes.modification_time = change.now;
  };
  touch(change.parent, false);
  if ((change.flags & RENAME_EXCHANGE) != 0) {
    if (!to.ok()) return Errno(ENOENT);
    const NodeId other = to->attributes.node;
    if (S_ISDIR(to->attributes.mode) && IsWithin(change.parent, other)) return Errno(EINVAL);
    const std::string other_own = OwnName(change.new_parent, other, new_name);
    RemoveName(change.parent, own);
    RemoveName(change.new_parent, other_own);
    AddName(change.parent, own, other);
    AddName(change.new_parent, other_own, node);
    touch(other, false);
  } else {
    if (replaces) {
      const bool onto_directory = S_ISDIR(to->attributes.mode);
      if (is_directory && !onto_directory) return Errno(ENOTDIR);
      if (!is_directory && onto_directory) return Errno(EISDIR);
      if (!Find(to->attributes.node)->entries.empty()) return Errno(ENOTEMPTY);
      RemoveName(change.new_parent, OwnName(change.new_parent, to->attributes.node, new_name));
      Drop(to->attributes.node, change.now);
    } else if (to.ok() && to->exact && !(change.parent == change.new_parent && own == new_name)) {
      return node;  // two names of one file: nothing happens
    }
    RemoveName(change.parent, own);
    AddName(change.new_parent, new_name, node);
  }
  touch(node, false);
  touch(change.parent, true);
  touch(change.new_parent, true);
  return node;
}

JournaledTree::Answer JournaledTree::ApplySet(const Change& change) {
  Node* node = Find(change.node);
  if (node == nullptr) return Errno(ENOENT);
  NodeAttributes& attributes = node->attributes;
  if ((change.flags & kSize) != 0) {
    if (S_ISDIR(attributes.mode)) return Errno(EISDIR);
    if (!S_ISREG(attributes.mode)) return Errno(EINVAL);
    attributes.size = change.size;
    attributes.modification_time = change.now;
  }
  if ((change.flags & kMode) != 0) attributes.mode = (attributes.mode & S_IFMT) | (change.mode & 07777);
  if ((change.flags & kUid) != 0) attributes.uid = change.uid;
  if ((change.flags & kGid) != 0) attributes.gid = change.gid;
  if ((change.flags & kAccess) != 0) attributes.access_time = change.access_time;
  if ((change.flags & kModification) != 0) attributes.modification_time = change.modification_time;
  attributes.change_time = change.now;
  return change.node;
}

JournaledTree::Answer JournaledTree::ApplyXattr(const Change& change) {
  Node* node = Find(change.node);
  if (node == nullptr) return Errno(ENOENT);
  const bool is_stream = std::string_view(change.name).starts_with(kUser);
  if (!is_stream && !std::string_view(change.name).starts_with("system.ntfs_")) return Errno(EOPNOTSUPP);
  const std::string stream = is_stream ? change.name.substr(kUser.size()) : "";
  const bool there = is_stream ? node->streams.count(stream) > 0 : node->xattrs.count(change.name) > 0;
  node->attributes.change_time = change.now;
  if (change.kind == Kind::kRemoveXattr) {
    if (!there) return Errno(ENODATA);
    if (is_stream) {
      NodeId id = node->streams[stream];
      node->streams.erase(stream);
      Drop(id, change.now);
    } else {
      node->xattrs.erase(change.name);
    }
    return change.node;
  }
  if (there && (change.flags & XATTR_CREATE) != 0) return Errno(EEXIST);
  if (!there && (change.flags & XATTR_REPLACE) != 0) return Errno(ENODATA);
  if (is_stream) {
    NodeId id = there ? node->streams[stream] : NewNode(change, S_IFREG | 0644);
    node = Find(change.node);
    node->streams[stream] = id;
    Find(id)->attributes.stream_of = change.node;
    Find(id)->attributes.size = change.value.size();
    return change.node;
  }
  node->xattrs[change.name] = change.value;
  if (change.name == "system.ntfs_attrib" && !change.value.empty()) {
    node->attributes.mode = (change.value[0] & 1) != 0 ? node->attributes.mode & ~0222U : node->attributes.mode | 0200U;
  }
  if (change.name == "system.ntfs_reparse_data") {
    node->attributes.mode = S_IFLNK | 0777;
    node->target = change.value;
    node->attributes.size = change.value.size();
  }
  return change.node;
}

std::shared_ptr<UniqueFd> JournaledTree::DataOf(NodeId id) const {
  absl::MutexLock lock(&mutex_);
  auto found = nodes_.find(id);
  if (found == nodes_.end()) return nullptr;
  Node& node = found->second;
  if (node.data == nullptr) {
    int fd = directory_
                 ? openat(directory_.get(), ("d" + std::to_string(id)).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)
                 : memfd_create("data", MFD_CLOEXEC);
    Check(fd >= 0, "data file");
    node.data = std::make_shared<UniqueFd>(fd);
  }
  return node.data;
}

int JournaledTree::open_count(NodeId node) const {
  absl::MutexLock lock(&mutex_);
  const Node* found = Find(node);
  return found == nullptr ? -1 : found->opened;
}

ErrnoOr<NodeAttributes> JournaledTree::GetAttributes(NodeId node) const {
  absl::MutexLock lock(&mutex_);
  const Node* found = Find(node);
  if (found == nullptr) return Errno(ENOENT);
  NodeAttributes attributes = found->attributes;
  if (S_ISREG(attributes.mode) && found->data != nullptr) {
    struct stat st;
    Check(fstat(found->data->get(), &st) == 0, "fstat");
    attributes.allocated = static_cast<uint64_t>(st.st_blocks) * 512;
  }
  return attributes;
}

ErrnoOr<LookupResult> JournaledTree::Lookup(NodeId directory, std::string_view name) const {
  absl::MutexLock lock(&mutex_);
  return FindName(directory, name);
}

ErrnoOr<NodeId> JournaledTree::Parent(NodeId directory) const {
  absl::MutexLock lock(&mutex_);
  const Node* found = Find(directory);
  if (found == nullptr) return Errno(ENOENT);
  if (!S_ISDIR(found->attributes.mode)) return Errno(ENOTDIR);
  return found->parent;
}

int JournaledTree::ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const {
  absl::MutexLock lock(&mutex_);
  const Node* found = Find(directory);
  if (found == nullptr) return ENOENT;
  if (!S_ISDIR(found->attributes.mode)) return ENOTDIR;
  for (auto at = found->entries.upper_bound(cookie); at != found->entries.end(); ++at) {
    if (!visitor(DirectoryEntry{at->second.name, Find(at->second.node)->attributes, at->first})) break;
  }
  return 0;
}

ErrnoOr<std::string> JournaledTree::ReadLink(NodeId link) const {
  absl::MutexLock lock(&mutex_);
  const Node* found = Find(link);
  if (found == nullptr) return Errno(ENOENT);
  if (!S_ISLNK(found->attributes.mode)) return Errno(EINVAL);
  return found->target;
}

ErrnoOr<size_t> JournaledTree::Read(NodeId file, uint64_t offset, absl::Span<char> out) const {
  ErrnoOr<NodeAttributes> attributes = GetAttributes(file);
  if (!attributes.ok()) return Errno(attributes.error());
  if (S_ISDIR(attributes->mode)) return Errno(EISDIR);
  if (offset >= attributes->size) return size_t{0};
  size_t size = std::min<uint64_t>(out.size(), attributes->size - offset);
  std::shared_ptr<UniqueFd> data = DataOf(file);
  memset(out.data(), 0, size);  // the data file may end earlier
  ssize_t got = pread(data->get(), out.data(), size, static_cast<off_t>(offset));
  if (got < 0) return Errno(errno);
  return size;
}

ErrnoOr<std::vector<std::string>> JournaledTree::ListXattrs(NodeId node) const {
  absl::MutexLock lock(&mutex_);
  const Node* found = Find(node);
  if (found == nullptr) return Errno(ENOENT);
  std::vector<std::string> names;
  for (const auto& [name, value] : found->xattrs) names.push_back(name);
  for (const auto& [name, stream] : found->streams) names.push_back(std::string(kUser) + name);
  return names;
}

ErrnoOr<std::string> JournaledTree::GetXattr(NodeId node, std::string_view name) const {
  NodeId stream;
  {
    absl::MutexLock lock(&mutex_);
    const Node* found = Find(node);
    if (found == nullptr) return Errno(ENOENT);
    if (!name.starts_with(kUser)) {
      auto value = found->xattrs.find(std::string(name));
      if (value == found->xattrs.end()) return Errno(ENODATA);
      return value->second;
    }
    auto at = found->streams.find(std::string(name.substr(kUser.size())));
    if (at == found->streams.end()) return Errno(ENODATA);
    stream = at->second;
  }
  std::string value(GetAttributes(stream)->size, '\0');
  if (value.size() > XATTR_SIZE_MAX) return Errno(E2BIG);
  ErrnoOr<size_t> got = Read(stream, 0, absl::MakeSpan(value));
  if (!got.ok()) return Errno(got.error());
  return value;
}

struct statvfs JournaledTree::FileSystemStats() const {
  struct statvfs stats = {};
  stats.f_bsize = stats.f_frsize = 4096;
  stats.f_blocks = stats.f_bfree = stats.f_bavail = 1 << 20;
  if (directory_) Check(fstatvfs(directory_.get(), &stats) == 0, "fstatvfs");
  stats.f_namemax = kMostNameUnits;
  return stats;
}

ErrnoOr<NodeAttributes> JournaledTree::MakeNode(const Request& request, NodeId parent, std::string_view name,
                                                uint32_t mode, uint32_t device) {
  Change change = {{.kind = Kind::kMake, .mode = mode, .device = device, .parent = parent}, std::string(name), ""};
  return DoForAttributes(request, std::move(change));
}

ErrnoOr<NodeAttributes> JournaledTree::MakeDirectory(const Request& request, NodeId parent, std::string_view name,
                                                     uint32_t mode) {
  return MakeNode(request, parent, name, S_IFDIR | mode, 0);
}

ErrnoOr<NodeAttributes> JournaledTree::MakeSymlink(const Request& request, NodeId parent, std::string_view name,
                                                   std::string_view target) {
  return DoForAttributes(
      request,
      {{.kind = Kind::kMake, .mode = S_IFLNK | 0777, .parent = parent}, std::string(name), std::string(target)});
}

ErrnoOr<NodeAttributes> JournaledTree::MakeLink(const Request& request, NodeId node, NodeId new_parent,
                                                std::string_view new_name) {
  return DoForAttributes(request,
                         {{.kind = Kind::kLink, .node = node, .parent = new_parent}, std::string(new_name), ""});
}

int JournaledTree::Unlink(const Request& request, NodeId parent, std::string_view name) {
  return ErrorOf(Do(request, {{.kind = Kind::kUnlink, .parent = parent}, std::string(name), ""}));
}

int JournaledTree::RemoveDirectory(const Request& request, NodeId parent, std::string_view name) {
  return ErrorOf(Do(request, {{.kind = Kind::kRemove, .parent = parent}, std::string(name), ""}));
}

int JournaledTree::Rename(const Request& request, NodeId parent, std::string_view name, NodeId new_parent,
                          std::string_view new_name, unsigned flags) {
  return ErrorOf(Do(request, {{.kind = Kind::kRename, .flags = flags, .parent = parent, .new_parent = new_parent},
                              std::string(name),
                              std::string(new_name)}));
}

ErrnoOr<NodeAttributes> JournaledTree::SetAttributes(const Request& request, NodeId node,
                                                     const AttributeChanges& changes) {
  Change change = {{.kind = Kind::kSet, .node = node}, "", ""};
  auto take = [&](const auto& from, auto& to, uint32_t flag) {
    if (!from.has_value()) return;
    to = *from;
    change.flags |= flag;
  };
  take(changes.mode, change.mode, kMode);
  take(changes.uid, change.uid, kUid);
  take(changes.gid, change.gid, kGid);
  take(changes.size, change.size, kSize);
  take(changes.access_time, change.access_time, kAccess);
  take(changes.modification_time, change.modification_time, kModification);
  if (changes.access_time_now) change.access_time = Now(), change.flags |= kAccess;
  if (changes.modification_time_now) change.modification_time = Now(), change.flags |= kModification;
  if (changes.size.has_value() && forced_error_ == 0) {
    // Only once: what was written after the first time must stay.
    {
      absl::MutexLock lock(&mutex_);
      if (request.id != 0 && answered_.count(request.id) > 0) change.flags &= ~kSize;
    }
    ErrnoOr<NodeAttributes> before = GetAttributes(node);
    if (before.ok() && S_ISREG(before->mode) && (change.flags & kSize) != 0) {
      if (ftruncate(DataOf(node)->get(), static_cast<off_t>(*changes.size)) != 0) return Errno(errno);
    }
  }
  return DoForAttributes(request, std::move(change));
}

ErrnoOr<size_t> JournaledTree::Write(const Request& request, NodeId file, uint64_t offset,
                                     absl::Span<const char> data) {
  if (int error = forced_error_; error != 0) return Errno(error);
  {
    absl::MutexLock lock(&mutex_);
    if (request.id != 0 && answered_.count(request.id) > 0) return data.size();
  }
  std::shared_ptr<UniqueFd> fd = DataOf(file);
  if (fd == nullptr) return Errno(ENOENT);
  for (size_t done = 0; done < data.size();) {
    ssize_t n = pwrite(fd->get(), data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) return Errno(errno);
    done += static_cast<size_t>(n);
  }
  Answer answer = Do(request, {{.kind = Kind::kWrite, .node = file, .size = offset + data.size()}, "", ""});
  if (!answer.ok()) return Errno(answer.error());
  return data.size();
}

int JournaledTree::Allocate(const Request& request, NodeId file, int mode, uint64_t offset, uint64_t length) {
  constexpr int kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if ((mode & ~kKnown) != 0) return EOPNOTSUPP;
  std::shared_ptr<UniqueFd> fd = DataOf(file);
  if (fd == nullptr) return ENOENT;
  if (fallocate(fd->get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) {
    // tmpfs knows no ZERO_RANGE.
    if (errno != EOPNOTSUPP || (mode & FALLOC_FL_ZERO_RANGE) == 0) return errno;
    if (fallocate(fd->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(length)) != 0) {
      return errno;
    }
  }
  const uint64_t end = (mode & FALLOC_FL_KEEP_SIZE) != 0 ? 0 : offset + length;
  return ErrorOf(Do(request, {{.kind = Kind::kWrite, .node = file, .size = end}, "", ""}));
}

ErrnoOr<uint64_t> JournaledTree::Seek(NodeId file, uint64_t offset, int whence) const {
  ErrnoOr<NodeAttributes> attributes = GetAttributes(file);
  if (!attributes.ok()) return Errno(attributes.error());
  if (offset >= attributes->size) return Errno(ENXIO);
  std::shared_ptr<UniqueFd> fd = DataOf(file);
  if (fd == nullptr) return Errno(ENOENT);
  off_t at = lseek(fd->get(), static_cast<off_t>(offset), whence);
  if (at < 0 && errno == ENXIO && whence == SEEK_HOLE) return offset;  // behind the data file's end
  if (at < 0) return Errno(errno);
  return std::min(static_cast<uint64_t>(at), attributes->size);
}

int JournaledTree::SetXattr(const Request& request, NodeId node, std::string_view name, std::string_view value,
                            int flags) {
  int error = ErrorOf(Do(request, {{.kind = Kind::kSetXattr, .flags = static_cast<uint32_t>(flags), .node = node},
                                   std::string(name),
                                   std::string(value)}));
  if (error != 0 || !name.starts_with(kUser)) return error;
  NodeId stream;
  {
    absl::MutexLock lock(&mutex_);
    stream = Find(node)->streams[std::string(name.substr(kUser.size()))];
  }
  std::shared_ptr<UniqueFd> fd = DataOf(stream);
  Check(ftruncate(fd->get(), 0) == 0 &&
            pwrite(fd->get(), value.data(), value.size(), 0) == static_cast<ssize_t>(value.size()),
        "stream");
  return 0;
}

int JournaledTree::RemoveXattr(const Request& request, NodeId node, std::string_view name) {
  return ErrorOf(Do(request, {{.kind = Kind::kRemoveXattr, .node = node}, std::string(name), ""}));
}

int JournaledTree::Open(NodeId node) {
  absl::MutexLock lock(&mutex_);
  Node* found = Find(node);
  if (found == nullptr) return ENOENT;
  ++found->opened;
  return 0;
}

void JournaledTree::Release(NodeId node) {
  absl::MutexLock lock(&mutex_);
  Node* found = Find(node);
  if (found == nullptr || found->opened == 0) return;  // opened with a process that died
  --found->opened;
  DestroyIfUnused(node);
}

int JournaledTree::Sync() { return !directory_ || syncfs(directory_.get()) == 0 ? 0 : errno; }

}  // namespace libmount
