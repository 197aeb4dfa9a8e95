// SPDX-License-Identifier: GPL-3.0-or-later
//
// ParseMetadata. Two passes over each directory's list: the first takes the names and drops what cannot be shown, the
// second makes an inode of each entry that remains. Then the blobs are looked up, and names of one hard-link group are
// given one inode.

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/wim/blob_resolver.h"
#include "libmount/wim/hard_links.h"
#include "libmount/wim/image_metadata.h"

namespace libmount {
namespace {

// A dentry's fixed part.
constexpr size_t kDentrySize = 102;
constexpr size_t kAttributesAt = 0x08;
constexpr size_t kSecurityIdAt = 0x0c;
constexpr size_t kSubdirectoryAt = 0x10;
constexpr size_t kCreationTimeAt = 0x28;
constexpr size_t kAccessTimeAt = 0x30;
constexpr size_t kWriteTimeAt = 0x38;
constexpr size_t kHashAt = 0x40;
constexpr size_t kUnknownFieldAt = 0x54;
constexpr size_t kReparseTagAt = 0x58;
constexpr size_t kReparseReservedAt = 0x5c;
constexpr size_t kReparseFlagsAt = 0x5e;
constexpr size_t kHardLinkGroupAt = 0x58;
constexpr size_t kStreamCountAt = 0x60;
constexpr size_t kShortNameSizeAt = 0x62;
constexpr size_t kNameSizeAt = 0x64;

// A stream entry's fixed part.
constexpr size_t kStreamSize = 38;
constexpr size_t kStreamHashAt = 0x10;
constexpr size_t kStreamNameSizeAt = 0x24;

constexpr size_t kEndOfDirectory = 8;
constexpr size_t kUnixDataSize = 16;
constexpr int kMaxWarnings = 10;  // then only counted: a hostile image must not fill the log
constexpr size_t kCancelInterval = 1024;

constexpr uint64_t Align8(uint64_t value) { return (value + 7) & ~uint64_t{7}; }

Sha1Digest LoadHash(const char* at) {
  Sha1Digest hash;
  memcpy(hash.data(), at, hash.size());
  return hash;
}

// A dentry whose lengths have been checked.
struct Dentry {
  const char* at = nullptr;
  uint64_t offset = 0;
  uint64_t size = 0;            // without the stream entries; a multiple of 8, except at the resource's end
  std::string_view name;        // UTF-16LE
  std::string_view short_name;  // UTF-16LE

  uint32_t attributes() const { return LoadLe32(at + kAttributesAt); }
  uint64_t subdirectory() const { return LoadLe64(at + kSubdirectoryAt); }
  uint16_t stream_count() const { return LoadLe16(at + kStreamCountAt); }
};

class Parser {
 public:
  Parser(absl::Span<const char> resource, const BlobTable& blobs, const std::string& file, OperationMonitor& monitor)
      : resource_(resource), blobs_(blobs), file_(file), monitor_(monitor) {}

  absl::StatusOr<ImageMetadata> Parse();

 private:
  // A directory whose list has not been read yet.
  struct Pending {
    uint32_t directory;  // index into directories
    uint64_t offset;
    uint32_t depth;
  };

  absl::Status ParseSecurity(uint64_t& root_offset);
  absl::Status ParseRoot(uint64_t offset);
  absl::Status ParseDirectory(const Pending& pending);
  // First pass: appends an entry for each dentry that can be shown, and its offset to dentry_offsets_.
  absl::Status ReadNames(const Pending& pending);
  // Sorts the entries from `first` on, and drops all but the first of each name.
  void SortAndDropDuplicates(uint32_t first);
  // Second pass, for one entry.
  absl::Status AddInode(uint32_t entry, uint64_t offset, uint32_t depth);

  absl::StatusOr<Dentry> ReadDentry(uint64_t offset) const;
  // The offset behind the dentry's stream entries.
  absl::StatusOr<uint64_t> SkipStreams(const Dentry& dentry) const;
  void ReadStreams(const Dentry& dentry, MetadataInode& inode, MetadataExtra& extra);
  std::string_view TaggedItemsOf(const Dentry& dentry) const;
  // Whether it names a list that is not empty.
  bool HasChildren(const Dentry& dentry) const;
  absl::Status Consume(uint64_t bytes);

  // What stands for a blob until ResolveBlobs: where its hash lies.
  uint32_t HashPlace(const char* hash) const { return static_cast<uint32_t>(hash - resource_.data()); }
  TextRange AddText(std::string_view bytes);
  void IndexShortNames();
  void Warn(uint32_t directory, std::string_view what);
  absl::Status Bad(std::string_view what, uint64_t offset) const;

  const absl::Span<const char> resource_;
  const BlobTable& blobs_;
  const std::string& file_;
  OperationMonitor& monitor_;

  ImageMetadata image_;
  std::vector<Pending> pending_;          // a stack: the next directory is its last
  std::vector<Pending> found_;            // subdirectories of the directory at hand
  std::vector<uint64_t> dentry_offsets_;  // of the entries of the directory at hand
  std::vector<HardLink> hard_links_;
  uint64_t consumed_ = 0;  // bytes of dentries and stream entries read
  size_t dentries_ = 0;
  int warnings_ = 0;
};

absl::StatusOr<ImageMetadata> Parser::Parse() {
  // Memory that is not touched costs nothing, growing step by step does.
  constexpr size_t kUsualBytesPerEntry = 150;
  const size_t expected = resource_.size() / kUsualBytesPerEntry + 1;
  image_.entries.reserve(expected);
  image_.sorted.reserve(expected);
  image_.inodes.reserve(expected);
  hard_links_.reserve(expected);
  image_.text.reserve(resource_.size() / 5);
  uint64_t root_offset = 0;
  if (absl::Status status = ParseSecurity(root_offset); !status.ok()) return status;
  if (absl::Status status = ParseRoot(root_offset); !status.ok()) return status;
  while (!pending_.empty()) {
    Pending next = pending_.back();
    pending_.pop_back();
    if (absl::Status status = ParseDirectory(next); !status.ok()) return status;
  }
  ResolveBlobs(resource_, blobs_, image_);
  for (HardLink& link : hard_links_) link.blob = image_.inodes[link.inode].content;
  LinkHardLinks(std::move(hard_links_), image_);
  IndexShortNames();
  if (warnings_ > kMaxWarnings) {
    Log(Severity::kWarning, absl::StrFormat("%s: %d more entries are left out", file_, warnings_ - kMaxWarnings));
  }
  // Not shrunk to fit: what was reserved and not used has no memory, and a copy would take as much again for a while.
  return std::move(image_);
}

absl::Status Parser::Bad(std::string_view what, uint64_t offset) const {
  return MakeError(Reason::kBadImageFormat,
                   absl::StrFormat("%s: the image's directory tree is damaged: %s (offset %d of its metadata).", file_,
                                   what, offset));
}

// [ u32 total size ][ u32 n ][ n sizes, u64 ][ descriptor 0 ][ descriptor 1 ] ...
absl::Status Parser::ParseSecurity(uint64_t& root_offset) {
  constexpr uint64_t kFixedSize = 8;
  if (resource_.size() < kFixedSize) return Bad("it is shorter than its own header", 0);
  const uint64_t total = std::max<uint64_t>(kFixedSize, LoadLe32(resource_.data()));
  const uint64_t count = LoadLe32(resource_.data() + 4);
  if (total > resource_.size() || count > (total - kFixedSize) / sizeof(uint64_t)) {
    return Bad("its security descriptors do not fit", 0);
  }
  uint64_t offset = kFixedSize + count * sizeof(uint64_t);
  image_.security.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t size = LoadLe64(resource_.data() + kFixedSize + i * sizeof(uint64_t));
    if (size > total - offset) return Bad("a security descriptor does not fit", offset);
    image_.security.push_back(AddText({resource_.data() + offset, size}));
    offset += size;
  }
  root_offset = Align8(total);
  return absl::OkStatus();
}

absl::Status Parser::ParseRoot(uint64_t offset) {
  image_.entries.emplace_back();
  image_.sorted.push_back(0);
  absl::StatusOr<Dentry> dentry = ReadDentry(offset);
  if (!dentry.ok()) return dentry.status();
  if (dentry->size == 0) {  // an image of nothing
    image_.inodes.emplace_back();
    image_.inodes[0].attributes = kAttributeDirectory;
    image_.inodes[0].link_count = 2;
    image_.inodes[0].content = 0;
    image_.directories.push_back({0, 1, 0});
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> end = SkipStreams(*dentry);
  if (!end.ok()) return end.status();
  if (absl::Status status = Consume(*end - offset); !status.ok()) return status;
  if (absl::Status status = AddInode(0, offset, 0); !status.ok()) return status;
  if (!image_.IsDirectory(image_.inodes[0])) return Bad("the root is not a directory", offset);
  std::swap(pending_, found_);
  return absl::OkStatus();
}

absl::Status Parser::ParseDirectory(const Pending& pending) {
  if (pending.depth > kMaxDirectoryDepth) return Bad("its directories form a loop, or lie too deep", pending.offset);
  const uint32_t first = static_cast<uint32_t>(image_.entries.size());
  dentry_offsets_.clear();
  if (absl::Status status = ReadNames(pending); !status.ok()) return status;
  SortAndDropDuplicates(first);
  const uint32_t count = static_cast<uint32_t>(image_.entries.size()) - first;
  image_.directories[pending.directory].first_entry = first;
  image_.directories[pending.directory].entry_count = count;
  found_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    if (absl::Status status = AddInode(first + i, dentry_offsets_[i], pending.depth); !status.ok()) return status;
  }
  pending_.insert(pending_.end(), found_.rbegin(), found_.rend());
  return absl::OkStatus();
}

absl::Status Parser::ReadNames(const Pending& pending) {
  for (uint64_t offset = pending.offset;;) {
    absl::StatusOr<Dentry> dentry = ReadDentry(offset);
    if (!dentry.ok()) return dentry.status();
    if (dentry->size == 0) return absl::OkStatus();
    absl::StatusOr<uint64_t> end = SkipStreams(*dentry);
    if (!end.ok()) return end.status();
    if (absl::Status status = Consume(*end - offset); !status.ok()) return status;

    MetadataEntry entry;
    entry.directory = pending.directory;
    entry.name_offset = static_cast<uint32_t>(image_.text.size());
    AppendUtf16Le(dentry->name, image_.text);
    entry.name_size = static_cast<uint16_t>(std::min<size_t>(image_.text.size() - entry.name_offset, 0xffff));
    std::string_view name = image_.Name(entry);
    if (dentry->name.size() > 2 * kMaxNameUnits) {
      Warn(pending.directory, "a name of more than 255 characters");
      image_.text.resize(entry.name_offset);
    } else if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
               name.find('\0') != name.npos) {
      Warn(pending.directory, absl::StrFormat("the name \"%s\", which no file can have", name));
      image_.text.resize(entry.name_offset);
    } else {
      if (dentry->short_name.size() <= 2 * kMaxNameUnits) {
        AppendUtf16Le(dentry->short_name, image_.text);
      } else {
        ++image_.dropped_entries;
      }
      entry.short_name_size = static_cast<uint16_t>(image_.text.size() - entry.name_offset - entry.name_size);
      image_.entries.push_back(entry);
      dentry_offsets_.push_back(offset);
    }
    offset = *end;
  }
}

void Parser::SortAndDropDuplicates(uint32_t first) {
  const uint32_t end = static_cast<uint32_t>(image_.entries.size());
  // In order already, as most writers leave them: each name behind the one before, so that none is there twice.
  auto not_behind = [this](const MetadataEntry& a, const MetadataEntry& b) {
    return CompareFolded(image_.Name(a), image_.Name(b)) >= 0;
  };
  const auto entries = image_.entries.begin() + first;
  const bool in_order = std::adjacent_find(entries, image_.entries.end(), not_behind) == image_.entries.end();
  std::vector<uint32_t>& sorted = image_.sorted;
  sorted.resize(end);
  auto begin = sorted.begin() + first;
  std::iota(begin, sorted.end(), first);
  if (in_order) return;

  auto compare = [this](uint32_t a, uint32_t b) {
    std::string_view name_a = image_.Name(image_.entries[a]);
    std::string_view name_b = image_.Name(image_.entries[b]);
    int order = CompareFolded(name_a, name_b);
    if (order == 0) order = name_a.compare(name_b);
    return order != 0 ? order < 0 : a < b;
  };
  auto same_name = [this](uint32_t a, uint32_t b) {
    return image_.Name(image_.entries[a]) == image_.Name(image_.entries[b]);
  };
  std::sort(begin, sorted.end(), compare);
  if (std::adjacent_find(begin, sorted.end(), same_name) == sorted.end()) return;

  std::vector<bool> dropped(end - first);
  for (uint32_t i = first + 1; i < end; ++i) {
    if (!same_name(sorted[i - 1], sorted[i])) continue;
    dropped[sorted[i] - first] = true;
    const MetadataEntry& entry = image_.entries[sorted[i]];
    Warn(entry.directory, absl::StrFormat("another \"%s\"", image_.Name(entry)));
  }
  uint32_t kept = first;
  for (uint32_t i = first; i < end; ++i) {
    if (dropped[i - first]) continue;
    dentry_offsets_[kept - first] = dentry_offsets_[i - first];
    image_.entries[kept++] = image_.entries[i];
  }
  image_.entries.resize(kept);
  sorted.resize(first);
  SortAndDropDuplicates(first);  // no duplicates any more: sorts only
}

absl::Status Parser::AddInode(uint32_t entry, uint64_t offset, uint32_t depth) {
  if (dentries_++ % kCancelInterval == 0) {
    if (absl::Status status = CheckCancelled(monitor_); !status.ok()) return status;
    monitor_.Report({Phase::kReadingMetadata, consumed_, resource_.size()});
  }
  absl::StatusOr<Dentry> dentry = ReadDentry(offset);
  if (!dentry.ok()) return dentry.status();
  const char* at = dentry->at;
  const uint32_t index = static_cast<uint32_t>(image_.inodes.size());
  image_.entries[entry].inode = index;

  MetadataInode inode;
  inode.creation_time = LoadLe64(at + kCreationTimeAt);
  inode.access_time = LoadLe64(at + kAccessTimeAt);
  inode.write_time = LoadLe64(at + kWriteTimeAt);
  inode.attributes = dentry->attributes();
  inode.first_entry = entry;
  inode.link_count = 1;
  const uint32_t security = LoadLe32(at + kSecurityIdAt);
  if (security < image_.security.size() && image_.security[security].size > 0) inode.security = security;

  MetadataExtra extra;
  const bool reparse = inode.attributes & kAttributeReparsePoint;
  if (reparse) {
    extra.reparse_tag = LoadLe32(at + kReparseTagAt);
    extra.reparse_reserved = LoadLe16(at + kReparseReservedAt);
    extra.reparse_flags = LoadLe16(at + kReparseFlagsAt);
  }
  extra.unknown_field = LoadLe32(at + kUnknownFieldAt);
  ReadStreams(*dentry, inode, extra);
  std::string_view tagged_items = TaggedItemsOf(*dentry);
  if (!tagged_items.empty()) {
    extra.tagged_items = AddText(tagged_items);
    std::string_view unix_data = FindTaggedItem(tagged_items, kTagUnixData, kUnixDataSize);
    extra.has_unix_data = !unix_data.empty();
    if (extra.has_unix_data) {
      extra.unix_data = {LoadLe32(unix_data.data()), LoadLe32(unix_data.data() + 4), LoadLe32(unix_data.data() + 8),
                         LoadLe32(unix_data.data() + 12)};
    }
  }
  if (reparse || extra.stream_count > 0 || !tagged_items.empty() || extra.unknown_field != 0) {
    inode.extra = static_cast<uint32_t>(image_.extras.size());
    image_.extras.push_back(extra);
  }
  if (image_.IsDirectory(inode)) {
    const uint32_t directory = static_cast<uint32_t>(image_.directories.size());
    if (inode.content != kNoBlob) ++image_.dropped_entries;
    inode.content = directory;
    inode.link_count = 2;
    image_.directories.push_back({index, entry + 1, 0});
    if (dentry->subdirectory() != 0) found_.push_back({directory, dentry->subdirectory(), depth + 1});
    if (entry != 0) ++image_.inodes[image_.directories[image_.entries[entry].directory].inode].link_count;
  } else if (!reparse && LoadLe64(at + kHardLinkGroupAt) != 0 && !(inode.attributes & kAttributeDirectory)) {
    hard_links_.push_back({LoadLe64(at + kHardLinkGroupAt), kNoBlob, index});  // the blob is not known yet
  }
  if (!image_.IsDirectory(inode) && HasChildren(*dentry)) ++image_.dropped_entries;
  image_.inodes.push_back(inode);
  return absl::OkStatus();
}

absl::StatusOr<Dentry> Parser::ReadDentry(uint64_t offset) const {
  const uint64_t limit = resource_.size();
  if (offset > limit || limit - offset < kEndOfDirectory) return Bad("a directory's list does not end", offset);
  Dentry dentry;
  dentry.at = resource_.data() + offset;
  dentry.offset = offset;
  const uint64_t length = LoadLe64(dentry.at);
  if (length <= kEndOfDirectory) return dentry;  // the end of the list: size 0
  if (length < kDentrySize || length > limit - offset) return Bad("an entry's length is impossible", offset);
  dentry.size = std::min(Align8(length), limit - offset);

  const uint64_t name_size = LoadLe16(dentry.at + kNameSizeAt);
  const uint64_t short_name_size = LoadLe16(dentry.at + kShortNameSizeAt);
  // Each name is followed by a zero of two bytes, if there is a name.
  const uint64_t name_space = name_size == 0 ? 0 : name_size + 2;
  const uint64_t short_name_space = short_name_size == 0 ? 0 : short_name_size + 2;
  if ((name_size | short_name_size) % 2 != 0 || kDentrySize + name_space + short_name_space > dentry.size) {
    return Bad("an entry's name does not fit", offset);
  }
  dentry.name = {dentry.at + kDentrySize, name_size};
  dentry.short_name = {dentry.at + kDentrySize + name_space, short_name_size};
  return dentry;
}

absl::StatusOr<uint64_t> Parser::SkipStreams(const Dentry& dentry) const {
  uint64_t offset = dentry.offset + dentry.size;
  for (uint16_t left = dentry.stream_count(); left > 0; --left) {
    const uint64_t available = resource_.size() - offset;
    if (available < kStreamSize) return Bad("a stream does not fit", offset);
    const uint64_t length = LoadLe64(resource_.data() + offset);
    const uint64_t name_size = LoadLe16(resource_.data() + offset + kStreamNameSizeAt);
    if (length < kStreamSize || length > available || name_size % 2 != 0 ||
        kStreamSize + name_size > std::min(Align8(length), available)) {
      return Bad("a stream's length is impossible", offset);
    }
    offset += std::min(Align8(length), available);
  }
  return offset;
}

// What an unnamed stream is follows only from its place: of a reparse point, the first is the reparse data and the next
// the file's data; of other files the first is the data. The one in the dentry itself counts if it has a hash (newer
// writers leave it empty where there are stream entries). An encrypted file has a single stream, which holds everything
// that Windows' raw encrypted form does.
void Parser::ReadStreams(const Dentry& dentry, MetadataInode& inode, MetadataExtra& extra) {
  const bool encrypted = inode.attributes & kAttributeEncrypted;
  bool reparse_wanted = (inode.attributes & kAttributeReparsePoint) && !encrypted;
  bool data_wanted = true;
  auto add_unnamed = [&](uint32_t blob) {
    if (reparse_wanted) {
      reparse_wanted = false;
      extra.reparse_blob = blob;
    } else if (data_wanted) {
      data_wanted = false;
      inode.content = blob;
    } else if (blob != kNoBlob) {
      ++image_.dropped_entries;
    }
  };
  if (const char* hash = dentry.at + kHashAt; !IsZero(LoadHash(hash))) add_unnamed(HashPlace(hash));

  extra.first_stream = static_cast<uint32_t>(image_.streams.size());
  uint64_t offset = dentry.offset + dentry.size;
  for (uint16_t left = dentry.stream_count(); left > 0; --left) {
    const char* at = resource_.data() + offset;
    const uint32_t blob = IsZero(LoadHash(at + kStreamHashAt)) ? kNoBlob : HashPlace(at + kStreamHashAt);
    const size_t name_size = LoadLe16(at + kStreamNameSizeAt);
    if (name_size == 0) {
      if (!encrypted || blob != kNoBlob) add_unnamed(blob);
    } else if (!encrypted) {
      MetadataStream stream;
      stream.name.offset = static_cast<uint32_t>(image_.text.size());
      AppendUtf16Le({at + kStreamSize, name_size}, image_.text);
      stream.name.size = static_cast<uint32_t>(image_.text.size() - stream.name.offset);
      stream.blob = blob;
      image_.streams.push_back(stream);
      ++extra.stream_count;
    } else {
      ++image_.dropped_entries;
    }
    offset += std::min<uint64_t>(Align8(LoadLe64(at)), resource_.size() - offset);
  }
}

std::string_view Parser::TaggedItemsOf(const Dentry& dentry) const {
  uint64_t begin = dentry.offset + kDentrySize;
  if (!dentry.name.empty()) begin += dentry.name.size() + 2;
  if (!dentry.short_name.empty()) begin += dentry.short_name.size() + 2;
  begin = Align8(begin);
  const uint64_t end = dentry.offset + dentry.size;
  return begin < end ? std::string_view(resource_.data() + begin, end - begin) : std::string_view();
}

bool Parser::HasChildren(const Dentry& dentry) const {
  const uint64_t offset = dentry.subdirectory();
  if (offset == 0 || offset > resource_.size() || resource_.size() - offset < kEndOfDirectory) return false;
  return LoadLe64(resource_.data() + offset) > kEndOfDirectory;
}

// Lists that do not overlap cannot hold more bytes than there are. So this ends loops, and also trees in which many
// directories share one list (which could otherwise double with each level).
absl::Status Parser::Consume(uint64_t bytes) {
  consumed_ += bytes;
  return consumed_ <= resource_.size() ? absl::OkStatus() : Bad("its directories overlap or form a loop", 0);
}

TextRange Parser::AddText(std::string_view bytes) {
  TextRange range{static_cast<uint32_t>(image_.text.size()), static_cast<uint32_t>(bytes.size())};
  image_.text += bytes;
  return range;
}

void Parser::IndexShortNames() {
  for (uint32_t i = 0; i < image_.entries.size(); ++i) {
    if (image_.entries[i].short_name_size > 0) image_.short_names.push_back(i);
  }
  image_.short_names.shrink_to_fit();
  std::sort(image_.short_names.begin(), image_.short_names.end(), [this](uint32_t a, uint32_t b) {
    const MetadataEntry& entry_a = image_.entries[a];
    const MetadataEntry& entry_b = image_.entries[b];
    if (entry_a.directory != entry_b.directory) return entry_a.directory < entry_b.directory;
    int order = CompareFolded(image_.ShortName(entry_a), image_.ShortName(entry_b));
    return order != 0 ? order < 0 : a < b;
  });
}

void Parser::Warn(uint32_t directory, std::string_view what) {
  ++image_.dropped_entries;
  if (++warnings_ > kMaxWarnings) return;
  const MetadataInode& inode = image_.inodes[image_.directories[directory].inode];
  Log(Severity::kWarning, absl::StrFormat("%s: an entry in /%s is left out: %s", file_, image_.PathOf(inode), what));
}

}  // namespace

absl::StatusOr<ImageMetadata> ParseMetadata(absl::Span<const char> resource, const BlobTable& blobs,
                                            const std::string& file, OperationMonitor& monitor) {
  return Parser(resource, blobs, file, monitor).Parse();
}

}  // namespace libmount
