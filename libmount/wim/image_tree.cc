// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/image_tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/tree/file_mode.h"

namespace libmount {
namespace {

// The longest name the kernel asks for (FUSE_NAME_MAX); the names of an image are no longer than 765 bytes.
constexpr size_t kMaxLookupName = 1024;
constexpr uint64_t kBlockSize = 4096;
constexpr uint64_t kStatBlockSize = 512;

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return value / unit * unit + (value % unit ? unit : 0); }

// Entries that are looked at for what a reader may want next: many of them may be large, or lie in other chunks.
constexpr uint32_t kMaxSiblings = 1024;

// Compressed bytes of a file that the disk is told of at once.
constexpr uint64_t kMaxPrefetch = uint64_t{4} << 20;

// A budget that says that nobody reads just now.
constexpr size_t kIdleBudget = size_t{1} << 20;

// The part of a cache budget that is for decoding ahead. Solid resources are not, and need all of theirs.
size_t AheadBudget(const WimContents& wim, size_t budget) {
  return wim.blobs.has_solid_resources() ? 0 : BlobAhead::ShareOf(budget);
}

ResourceReader::Options ReaderOptions(const WimContents& wim, const WimTreeOptions& options) {
  ResourceReader::Options result;
  result.cache_budget = options.cache_budget - AheadBudget(wim, options.cache_budget);
  result.decoder_threads = options.decoder_threads;
  if (wim.blobs.has_solid_resources()) {
    result.visit_blobs = [&wim](uint32_t resource, uint64_t begin, uint64_t end, ResourceReader::BlobVisitor visitor) {
      wim.blobs.VisitSolidBlobs(resource, begin, end, visitor);
    };
  }
  return result;
}

}  // namespace

ImageTree::ImageTree(std::shared_ptr<const WimContents> wim, ImageMetadata image, const WimTreeOptions& options)
    : wim_(std::move(wim)),
      image_(std::move(image)),
      options_(options),
      link_sizes_(image_.extras.size()),
      base_(&image_, &wim_->blobs),
      blob_store_(&wim_->source, &wim_->blobs, options.observer,
                  [this](uint32_t blob, uint64_t offset, absl::Span<char> out) { return ReadBlob(blob, offset, out); }),
      reader_(&wim_->source, &wim_->blobs.resources(), ReaderOptions(*wim_, options)),
      verifier_(
          &reader_, wim_->blobs.size(),
          [this](uint32_t blob) {
            return BlobFacts{wim_->blobs.location(blob), wim_->blobs.hash(blob)};
          },
          [this](uint32_t blob, std::string_view what) { ReportDamage(blob, what); }),
      ahead_(&verifier_, AheadOptions()) {}

std::optional<ImageTree::Node> ImageTree::FindNode(NodeId id) const {
  const uint64_t index = (id & ((uint64_t{1} << kStreamShift) - 1)) - 1;
  if (index >= image_.inodes.size()) return std::nullopt;
  Node node{&image_.inodes[index], nullptr};
  const uint64_t stream = id >> kStreamShift;
  if (stream > 0) {
    const MetadataExtra* extra = image_.Extra(*node.inode);
    if (extra == nullptr || stream > extra->stream_count) return std::nullopt;
    node.stream = &image_.streams[extra->first_stream + stream - 1];
  }
  return node;
}

const MetadataDirectory* ImageTree::FindDirectory(NodeId id) const {
  std::optional<Node> node = FindNode(id);
  if (!node || node->stream != nullptr || !image_.IsDirectory(*node->inode)) return nullptr;
  return &image_.directories[node->inode->content];
}

uint32_t ImageTree::ModeOf(const MetadataInode& inode) const {
  const MetadataExtra* extra = image_.Extra(inode);
  if (extra == nullptr) return FileMode(inode.attributes, 0, std::nullopt);
  return FileMode(inode.attributes, extra->reparse_tag,
                  extra->has_unix_data ? std::optional<uint32_t>(extra->unix_data.mode) : std::nullopt);
}

NodeAttributes ImageTree::AttributesOf(const MetadataInode& inode) const {
  NodeAttributes attributes;
  attributes.node = IdOf(IndexOf(inode));
  attributes.mode = ModeOf(inode);
  attributes.link_count = inode.link_count;
  attributes.uid = options_.uid;
  attributes.gid = options_.gid;
  const MetadataExtra* extra = image_.Extra(inode);
  if (extra != nullptr && extra->has_unix_data) {
    attributes.uid = extra->unix_data.uid;
    attributes.gid = extra->unix_data.gid;
    if (S_ISCHR(attributes.mode) || S_ISBLK(attributes.mode)) attributes.device = extra->unix_data.device;
  }
  if (S_ISREG(attributes.mode)) {
    attributes.size = BlobSize(inode.content);
  } else if (S_ISLNK(attributes.mode)) {
    attributes.size = LinkSize(inode);
  }
  attributes.allocated = S_ISREG(attributes.mode) ? RoundUp(attributes.size, kStatBlockSize) : 0;
  attributes.access_time = ToTimespec(inode.access_time);
  attributes.modification_time = ToTimespec(inode.write_time);
  attributes.change_time = attributes.modification_time;
  return attributes;
}

NodeAttributes ImageTree::AttributesOf(const Node& node, NodeId id) const {
  NodeAttributes attributes = AttributesOf(*node.inode);
  if (node.stream == nullptr) return attributes;
  attributes.node = id;
  attributes.mode = S_IFREG | (attributes.mode & 0666);
  attributes.link_count = 1;
  attributes.device = 0;
  attributes.size = BlobSize(node.stream->blob);
  attributes.allocated = RoundUp(attributes.size, kStatBlockSize);
  return attributes;
}

ErrnoOr<NodeAttributes> ImageTree::GetAttributes(NodeId id) const {
  std::optional<Node> node = FindNode(id);
  if (!node) return Errno(ENOENT);
  return AttributesOf(*node, id);
}

ImageTree::FoundEntry ImageTree::FindEntry(const MetadataDirectory& directory, std::string_view name) const {
  if (uint32_t entry = image_.FindExact(directory, name); entry != kNone) return {entry, true};
  if (uint32_t entry = image_.FindFolded(directory, name); entry != kNone) return {entry, false};
  return {image_.FindShortName(directory, name), false};
}

ErrnoOr<LookupResult> ImageTree::Lookup(NodeId directory_id, std::string_view name) const {
  const MetadataDirectory* directory = FindDirectory(directory_id);
  if (directory == nullptr) return Errno(FindNode(directory_id) ? ENOTDIR : ENOENT);
  if (name.size() > kMaxLookupName) return Errno(ENAMETOOLONG);
  if (FoundEntry found = FindEntry(*directory, name); found.entry != kNone) {
    return LookupResult{AttributesOf(image_.inodes[image_.entries[found.entry].inode]), found.exact};
  }
  if (std::optional<LookupResult> stream = LookupStream(*directory, name)) return *stream;
  return Errno(ENOENT);
}

// "file:stream", with ":$DATA" behind it or not; "file::$DATA" is the file itself.
std::optional<LookupResult> ImageTree::LookupStream(const MetadataDirectory& directory, std::string_view name) const {
  constexpr std::string_view kDataType = ":$DATA";
  const size_t colon = name.find(':');
  if (colon == name.npos || colon == 0) return std::nullopt;
  FoundEntry found = FindEntry(directory, name.substr(0, colon));
  if (found.entry == kNone) return std::nullopt;
  const uint32_t inode_index = image_.entries[found.entry].inode;
  const MetadataInode& inode = image_.inodes[inode_index];

  std::string_view wanted = name.substr(colon + 1);
  const size_t type_at = wanted.rfind(':');
  const bool typed = type_at != wanted.npos;
  if (typed) {
    if (!EqualFolded(wanted.substr(type_at), kDataType)) return std::nullopt;
    wanted = wanted.substr(0, type_at);
    if (wanted.empty()) return LookupResult{AttributesOf(inode), false};
  }
  const MetadataExtra* extra = image_.Extra(inode);
  if (extra == nullptr) return std::nullopt;
  uint32_t match = kNone;
  bool exact = false;
  for (uint32_t i = 0; i < extra->stream_count && !exact; ++i) {
    std::string_view candidate = image_.Text(image_.streams[extra->first_stream + i].name);
    exact = candidate == wanted;
    if (exact || (match == kNone && EqualFolded(candidate, wanted))) match = i;
  }
  if (match == kNone) return std::nullopt;
  const NodeId id = IdOf(inode_index) | NodeId{match + 1} << kStreamShift;
  Node node{&inode, &image_.streams[extra->first_stream + match]};
  return LookupResult{AttributesOf(node, id), exact && found.exact && !typed};
}

ErrnoOr<NodeId> ImageTree::Parent(NodeId id) const {
  const MetadataDirectory* directory = FindDirectory(id);
  if (directory == nullptr) return Errno(FindNode(id) ? ENOTDIR : ENOENT);
  const MetadataEntry& entry = image_.entries[image_.inodes[directory->inode].first_entry];
  return IdOf(image_.directories[entry.directory].inode);
}

int ImageTree::ReadDirectory(NodeId id, uint64_t cookie, EntryVisitor visitor) const {
  const MetadataDirectory* directory = FindDirectory(id);
  if (directory == nullptr) return FindNode(id) ? ENOTDIR : ENOENT;
  if (cookie > directory->entry_count) return EINVAL;
  // A cookie is the number of entries before the place it stands for.
  for (uint64_t i = cookie; i < directory->entry_count; ++i) {
    const MetadataEntry& entry = image_.entries[directory->first_entry + i];
    const NodeAttributes attributes = AttributesOf(image_.inodes[entry.inode]);
    if (!visitor({image_.Name(entry), attributes, i + 1})) break;
  }
  return 0;
}

uint32_t ImageTree::BlobOf(const Node& node) const {
  return node.stream != nullptr ? node.stream->blob : node.inode->content;
}

uint64_t ImageTree::BlobSize(uint32_t blob) const {
  if (blob == kNoBlob) return 0;
  return blob < wim_->blobs.size() ? wim_->blobs.blob_size(blob) : kUnknownBlobSize;
}

ErrnoOr<size_t> ImageTree::Read(NodeId id, uint64_t offset, absl::Span<char> out) const {
  std::optional<Node> node = FindNode(id);
  if (!node) return Errno(ENOENT);
  if (node->stream == nullptr) {
    if (image_.IsDirectory(*node->inode)) return Errno(EISDIR);
    if (!S_ISREG(ModeOf(*node->inode))) return Errno(EINVAL);
  }
  const uint32_t blob = BlobOf(*node);
  if (blob == kNoBlob) return size_t{0};
  const uint64_t size = BlobSize(blob);
  const bool listed = blob < wim_->blobs.size();
  if (listed && offset >= size) return size_t{0};
  if (listed) out = out.first(std::min<uint64_t>(out.size(), size - offset));
  if (int error = ReadFile(id, blob, offset, out)) return Errno(error);
  return out.size();
}

bool ImageTree::IsTriable(uint32_t blob) const {
  if (blob < wim_->blobs.size() && wim_->blobs.readable(blob)) return true;
  {
    absl::MutexLock lock(&mutex_);
    if (!unreadable_reported_.insert(blob).second) return false;
  }
  ReportDamage(blob, blob >= wim_->blobs.size() ? "the image file does not hold its data"
                                                : "the place that the blob table gives is not in the image file");
  return false;
}

int ImageTree::ReadBlob(uint32_t blob, uint64_t offset, absl::Span<char> out) const {
  return IsTriable(blob) ? ErrnoOf(verifier_.Read(blob, offset, out)) : EIO;
}

int ImageTree::ReadFile(NodeId file, uint32_t blob, uint64_t offset, absl::Span<char> out) const {
  return IsTriable(blob) ? ErrnoOf(ahead_.Read({file, blob}, offset, out)) : EIO;
}

int ImageTree::ErrnoOf(const absl::Status& status) const {
  if (status.ok()) return 0;
  if (ReasonOf(status) == Reason::kImageChanged && options_.observer != nullptr &&
      !change_reported_.exchange(true, std::memory_order_relaxed)) {
    options_.observer->OnImageChanged(status.message().empty()
                                          ? std::string_view()
                                          : std::string_view(status.message().data(), status.message().size()));
  }
  return ReasonOf(status) == Reason::kOutOfResources ? ENOMEM : EIO;
}

void ImageTree::ReportDamage(uint32_t blob, std::string_view what) const {
  if (options_.observer != nullptr) options_.observer->OnDamage(PathOfBlob(blob), what);
}

std::string ImageTree::PathOfBlob(uint32_t blob) const {
  for (const MetadataInode& inode : image_.inodes) {
    if (!image_.IsDirectory(inode) && inode.content == blob) return image_.PathOf(inode);
    const MetadataExtra* extra = image_.Extra(inode);
    if (extra == nullptr) continue;
    if (extra->reparse_blob == blob) return image_.PathOf(inode);
    for (uint32_t i = 0; i < extra->stream_count; ++i) {
      const MetadataStream& stream = image_.streams[extra->first_stream + i];
      if (stream.blob == blob) return image_.PathOf(inode) + ":" + std::string(image_.Text(stream.name));
    }
  }
  return {};
}

void ImageTree::VisitReadAheadCandidates(NodeId id, uint64_t max_size, CandidateVisitor visitor) const {
  std::optional<Node> node = FindNode(id);
  if (!node || node->stream != nullptr || image_.IsDirectory(*node->inode)) return;
  const BlobTable& blobs = wim_->blobs;
  const uint32_t own_blob = node->inode->content;
  if (own_blob >= blobs.size()) return;
  const BlobLocation own = blobs.location(own_blob);
  const ResourceLocation& own_resource = blobs.resources()[own.resource];

  const uint32_t first = node->inode->first_entry;
  const MetadataDirectory& directory = image_.directories[image_.entries[first].directory];
  const uint32_t end = directory.first_entry + directory.entry_count;
  for (uint32_t i = first + 1; i < std::min(end, first + 1 + kMaxSiblings); ++i) {
    const MetadataInode& sibling = image_.inodes[image_.entries[i].inode];
    if (image_.IsDirectory(sibling) || image_.IsLink(sibling) || sibling.content >= blobs.size()) continue;
    const BlobLocation location = blobs.location(sibling.content);
    if (location.size > max_size || !blobs.readable(sibling.content) || !S_ISREG(ModeOf(sibling))) continue;
    // In a solid resource only what lies in the chunk that was decoded for `file` is cheap.
    if (blobs.resources()[location.resource].solid &&
        (location.resource != own.resource || own_resource.chunk_size == 0 ||
         (location.offset + location.size - 1) / own_resource.chunk_size != own.offset / own_resource.chunk_size)) {
      continue;
    }
    if (!visitor(IdOf(image_.entries[i].inode), location.size)) return;
  }
}

uint64_t ImageTree::TotalSize() const {
  absl::MutexLock lock(&mutex_);
  if (!total_size_.has_value()) {
    total_size_ = 0;
    for (const MetadataInode& inode : image_.inodes) {
      if (!image_.IsDirectory(inode)) *total_size_ += BlobSize(inode.content);
    }
  }
  return *total_size_;
}

struct statvfs ImageTree::FileSystemStats() const {
  struct statvfs stats = {};
  stats.f_bsize = kBlockSize;
  stats.f_frsize = kBlockSize;
  stats.f_blocks = RoundUp(TotalSize(), kBlockSize) / kBlockSize;
  stats.f_files = image_.inodes.size();
  stats.f_flag = ST_RDONLY | ST_NOSUID;
  stats.f_namemax = MaxWtf8Size(kMaxNameUnits);
  return stats;
}

BlobAhead::Options ImageTree::AheadOptions() {
  BlobAhead::Options options;
  options.cache_budget = wim_->blobs.has_solid_resources() ? 0 : options_.cache_budget;
  options.threads = options_.decoder_threads;
  options.shape_of = [this](uint32_t blob) { return ShapeOf(blob); };
  options.next_file = [this](uint64_t file) { return NextFile(file); };
  options.prefetch = [this](uint32_t blob) {
    const ResourceLocation& resource = wim_->blobs.resources()[wim_->blobs.location(blob).resource];
    wim_->source.WillNeed(resource.part, resource.offset, std::min(resource.size_in_file, kMaxPrefetch));
  };
  return options;
}

BlobAhead::Shape ImageTree::ShapeOf(uint32_t blob) const {
  const BlobLocation location = wim_->blobs.location(blob);
  const ResourceLocation& resource = wim_->blobs.resources()[location.resource];
  const bool whole_chunks = resource.compression != Compression::kNone && !resource.solid;
  return {location.size, whole_chunks ? resource.chunk_size : 0};
}

std::optional<BlobAhead::File> ImageTree::NextFile(NodeId id) const {
  auto suffix = [](std::string_view name) {
    const size_t dot = name.rfind('.');
    return dot == name.npos ? std::string_view() : name.substr(dot);
  };
  std::optional<Node> node = FindNode(id);
  if (!node || node->stream != nullptr) return std::nullopt;
  const uint32_t first = node->inode->first_entry;
  const std::string_view wanted = suffix(image_.Name(image_.entries[first]));
  const MetadataDirectory& directory = image_.directories[image_.entries[first].directory];
  const uint32_t end = std::min(directory.first_entry + directory.entry_count, first + 1 + kMaxSiblings);
  for (uint32_t i = first + 1; i < end; ++i) {
    const MetadataInode& sibling = image_.inodes[image_.entries[i].inode];
    if (image_.IsDirectory(sibling) || image_.IsLink(sibling) || sibling.content >= wim_->blobs.size()) continue;
    if (BlobSize(sibling.content) <= BlobAhead::kMinFile || !wim_->blobs.readable(sibling.content)) continue;
    if (!EqualFolded(suffix(image_.Name(image_.entries[i])), wanted)) continue;
    return BlobAhead::File{IdOf(image_.entries[i].inode), sibling.content};
  }
  return std::nullopt;
}

void ImageTree::SetCacheBudget(size_t bytes) {
  const size_t ahead = AheadBudget(*wim_, bytes);
  ahead_.SetCacheBudget(ahead == 0 ? 0 : bytes);
  reader_.SetCacheBudget(bytes - ahead);
  if (bytes > kIdleBudget) return;
  verifier_.Trim();
  blob_store_.Trim();
}

WimTree::Stats ImageTree::GetStats() const {
  const ResourceReader::Stats reader = reader_.GetStats();
  Stats stats;
  stats.cache_bytes = reader.cache_bytes + ahead_.GetStats().bytes;
  stats.chunks_decoded = reader.chunks_decoded;
  stats.bytes_decoded = reader.bytes_decoded;
  stats.cache_hits = reader.cache_hits;
  stats.damaged_blobs = verifier_.GetStats().damaged_blobs;
  absl::MutexLock lock(&mutex_);
  stats.damaged_blobs += unreadable_reported_.size();
  return stats;
}

}  // namespace libmount
