// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/blob_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/resource_reader.h"

namespace libmount {
namespace {

constexpr size_t kEntrySize = 50;
constexpr size_t kPartOffset = 24;
constexpr size_t kReferenceCountOffset = 26;
constexpr size_t kHashOffset = 30;
constexpr uint64_t kSolidResourceMagic = uint64_t{1} << 32;
constexpr size_t kSolidHeaderSize = 16;
// Smaller chunks no decoder takes, and a read of a mebibyte would have a million of them; larger ones neither.
constexpr uint32_t kMinSolidChunkSize = 1 << 12;
constexpr uint32_t kMaxSolidChunkSize = 1 << 30;

// Far above what exists (an install.wim of several Windows editions has 150,000 blobs), far below what hurts.
constexpr uint64_t kMaxEntries = 16 << 20;
// A table is stored as it is by every known writer. Compressed it could not be much smaller, for its hashes; what
// claims to be, only wants memory.
constexpr uint64_t kMaxTableRatio = 4;
constexpr uint32_t kMaxImages = 1 << 16;

absl::Status BadTable(const std::string& file, std::string_view what) {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: the blob table is damaged: %s.", file, what));
}

Sha1Digest LoadHash(const char* at) {
  Sha1Digest hash;
  memcpy(hash.data(), at, hash.size());
  return hash;
}

// One entry, decoded.
struct Entry {
  explicit Entry(const char* at)
      : resource(ParseResourceHeader(at)),
        part(LoadLe16(at + kPartOffset)),
        reference_count(LoadLe32(at + kReferenceCountOffset)),
        hash(LoadHash(at + kHashOffset)) {}

  bool is_solid() const { return resource.flags & kResourceSolid; }
  bool is_solid_resource() const { return is_solid() && resource.size == kSolidResourceMagic; }
  bool is_metadata() const { return resource.flags & kResourceMetadata; }

  ResourceHeader resource;
  uint16_t part;
  uint32_t reference_count;
  Sha1Digest hash;
};

uint64_t FirstBits(const Sha1Digest& hash) {
  uint64_t bits;
  memcpy(&bits, hash.data(), sizeof bits);
  return __builtin_bswap64(bits);
}

// How many first bits make a bucket hold a few of `count` hashes, which are evenly spread (unless made to be not).
int BucketBits(size_t count) {
  constexpr size_t kHashesPerBucket = 4;
  return std::max(1, static_cast<int>(std::bit_width(count / kHashesPerBucket)));
}

// A hash's first eight bytes, and which it is: touches each hash once, not at every comparison.
struct SortKey {
  uint64_t bits;
  uint32_t index;
};

// The order that sorts hashes, and leaves only the first of equal ones. `hash_at(index)` gives those of `keys`.
template <typename HashAt>
std::vector<uint32_t> SortedDistinct(const std::vector<SortKey>& keys, HashAt hash_at) {
  // Into buckets first, then each by itself, which is cheaper than sorting all at once.
  const int shift = 64 - BucketBits(keys.size());
  std::vector<uint32_t> ends((size_t{1} << (64 - shift)) + 1);
  for (const SortKey& key : keys) ++ends[(key.bits >> shift) + 1];
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  std::vector<SortKey> sorted(keys.size());
  for (const SortKey& key : keys) sorted[ends[key.bits >> shift]++] = key;  // what was a begin becomes an end
  auto compare = [&hash_at](const SortKey& a, const SortKey& b) {
    if (a.bits != b.bits) return a.bits < b.bits;
    const Sha1Digest hash_a = hash_at(a.index), hash_b = hash_at(b.index);
    if (hash_a != hash_b) return hash_a < hash_b;
    return a.index < b.index;
  };
  uint32_t begin = 0;
  for (uint32_t end : ends) {
    if (end - begin > 1) std::sort(sorted.begin() + begin, sorted.begin() + end, compare);
    begin = end;
  }
  std::vector<uint32_t> order;
  order.reserve(sorted.size());
  uint64_t last_bits = 0;
  for (const SortKey& key : sorted) {
    const bool equal = !order.empty() && last_bits == key.bits && hash_at(order.back()) == hash_at(key.index);
    if (!equal) order.push_back(key.index);
    last_bits = key.bits;
  }
  return order;
}

template <typename T>
std::vector<T> Permuted(const std::vector<T>& values, const std::vector<uint32_t>& order) {
  std::vector<T> result;
  result.reserve(order.size());
  for (uint32_t i : order) result.push_back(values[i]);
  return result;
}

}  // namespace

// Gathers the entries of all parts, then checks those of blobs and sorts them into the table.
class BlobTable::Loader {
 public:
  Loader(const WimSource& source, const std::vector<WimHeader>& headers) : source_(source), headers_(headers) {}

  absl::Status LoadPart(uint16_t part, OperationMonitor& monitor);
  void Finish(BlobTable& table);
  std::vector<Metadata> TakeMetadata() { return std::move(metadata_); }
  bool has_solid_resources() const { return !solid_resources_.empty(); }

 private:
  // A solid resource of the run at hand, and where it starts when the run's resources are laid end to end.
  struct RunResource {
    uint32_t resource;  // in solid_resources_
    uint64_t start;
    uint64_t size;
  };

  const WimHeader& header() const { return headers_[part_ - 1]; }
  const std::string& file() const { return source_.part_name(part_); }

  absl::Status AddEntries(absl::Span<const char> table, OperationMonitor& monitor);
  // Reads the headers of the solid resources named by the run that starts at entry `first`.
  absl::Status StartRun(absl::Span<const char> table, size_t first);
  absl::StatusOr<ResourceLocation> LocateSolid(const ResourceHeader& resource);
  void AddSolidBlob(const Entry& entry);
  void AddPlainBlob(const Entry& entry, const char* at, size_t number);
  const char* PlainEntry(uint32_t index) const { return plain_entries_ + size_t{index} * kEntrySize; }
  ResourceLocation LocatePlain(const char* at) const;
  absl::Status AddMetadata(const Entry& entry);

  const WimSource& source_;
  const std::vector<WimHeader>& headers_;
  uint16_t part_ = 1;
  std::vector<RunResource> run_;

  // Plain blobs stay as they are in the table: of a single part, in that itself; of a split set, which repeats entries
  // of other parts, in a copy of those that count.
  ChunkBuffer whole_table_;
  std::string copied_entries_;
  const char* plain_entries_ = nullptr;
  std::vector<SortKey> plain_keys_;
  std::vector<Sha1Digest> solid_hashes_;
  std::vector<BlobLocation> solid_blobs_;  // their `resource` counts from 0 in solid_resources_
  std::vector<ResourceLocation> solid_resources_;
  std::vector<Metadata> metadata_;
};

absl::Status BlobTable::Loader::LoadPart(uint16_t part, OperationMonitor& monitor) {
  part_ = part;
  const ResourceHeader& table = header().blob_table;
  if (table.empty()) return absl::OkStatus();
  absl::StatusOr<ResourceLocation> location = LocateResource(table, header(), source_, part, "blob table");
  if (!location.ok()) return location.status();
  const uint64_t most = std::min(kMaxEntries * kEntrySize, location->size_in_file * kMaxTableRatio);
  absl::StatusOr<ChunkBuffer> bytes = ReadWholeResource(source_, *location, most, monitor);
  if (!bytes.ok()) return bytes.status();
  absl::Status added = AddEntries(bytes->span(), monitor);
  if (headers_.size() == 1) whole_table_ = *std::move(bytes);
  plain_entries_ = headers_.size() == 1 ? whole_table_.data() : copied_entries_.data();
  return added;
}

absl::Status BlobTable::Loader::AddEntries(absl::Span<const char> table, OperationMonitor& monitor) {
  const size_t count = table.size() / kEntrySize;
  if (count > kMaxEntries - plain_keys_.size() - solid_hashes_.size()) {
    return BadTable(file(), absl::StrFormat("it has more than %d entries", kMaxEntries));
  }
  if (headers_.size() == 1 && !header().solid_version) plain_keys_.reserve(count);
  bool in_run = false;
  for (size_t i = 0; i < count; ++i) {
    if (i % 4096 == 0) {
      if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
    }
    const char* at = table.data() + i * kEntrySize;
    Entry entry(at);
    if (!header().solid_version) entry.resource.flags &= ~kResourceSolid;
    if (entry.is_solid() && !in_run) {
      if (absl::Status status = StartRun(table, i); !status.ok()) return status;
    }
    in_run = entry.is_solid();
    // Each part lists what lies in it. An entry for another part is a copy of that part's own.
    if (entry.is_solid_resource() || IsZero(entry.hash) || entry.part != header().part) continue;
    if (entry.is_metadata()) {
      if (absl::Status status = AddMetadata(entry); !status.ok()) return status;
    } else if (entry.is_solid()) {
      AddSolidBlob(entry);
    } else {
      AddPlainBlob(entry, at, i);
    }
  }
  return absl::OkStatus();
}

absl::Status BlobTable::Loader::StartRun(absl::Span<const char> table, size_t first) {
  run_.clear();
  uint64_t start = 0;
  for (size_t i = first; i < table.size() / kEntrySize; ++i) {
    Entry entry(table.data() + i * kEntrySize);
    if (!entry.is_solid()) break;
    if (!entry.is_solid_resource()) continue;
    absl::StatusOr<ResourceLocation> location = LocateSolid(entry.resource);
    if (!location.ok()) return location.status();
    if (location->size > std::numeric_limits<uint64_t>::max() - start) {
      return BadTable(file(), "its solid resources are larger than any file");
    }
    run_.push_back({static_cast<uint32_t>(solid_resources_.size()), start, location->size});
    solid_resources_.push_back(*location);
    start += location->size;
  }
  return absl::OkStatus();
}

absl::StatusOr<ResourceLocation> BlobTable::Loader::LocateSolid(const ResourceHeader& resource) {
  const uint64_t file_size = source_.part_size(part_);
  if (resource.size_in_file < kSolidHeaderSize || resource.offset > file_size ||
      resource.size_in_file > file_size - resource.offset) {
    return BadTable(file(),
                    absl::StrFormat("the solid resource at offset %d does not lie within the file", resource.offset));
  }
  char solid_header[kSolidHeaderSize];
  absl::Status status = source_.Read(part_, resource.offset, absl::MakeSpan(solid_header));
  if (!status.ok()) return status;
  ResourceLocation location;
  location.offset = resource.offset;
  location.size_in_file = resource.size_in_file;
  location.size = LoadLe64(solid_header);
  location.chunk_size = LoadLe32(solid_header + 8);
  location.part = part_;
  location.solid = true;
  location.pipable = header().pipable;
  const uint32_t compression = LoadLe32(solid_header + 12);
  if (compression == 0 || compression > static_cast<uint32_t>(Compression::kLzms) ||
      !std::has_single_bit(location.chunk_size) || location.chunk_size < kMinSolidChunkSize ||
      location.chunk_size > kMaxSolidChunkSize) {
    return BadTable(file(), absl::StrFormat("the solid resource at offset %d has an unknown format", resource.offset));
  }
  location.compression = static_cast<Compression>(compression);
  const uint64_t chunks = location.size / location.chunk_size + (location.size % location.chunk_size != 0);
  if (chunks > (location.size_in_file - kSolidHeaderSize) / sizeof(uint32_t)) {
    return BadTable(file(), absl::StrFormat("the solid resource at offset %d is too small for what it claims to hold",
                                            resource.offset));
  }
  return location;
}

void BlobTable::Loader::AddSolidBlob(const Entry& entry) {
  const uint64_t offset = entry.resource.offset;
  const uint64_t size = entry.resource.size_in_file;  // in a solid run this is the blob's size
  if (size == 0) return;
  auto next = std::upper_bound(run_.begin(), run_.end(), offset,
                               [](uint64_t value, const RunResource& resource) { return value < resource.start; });
  BlobLocation blob;
  blob.size = size;
  bool found = false;
  if (next != run_.begin()) {
    const RunResource& home = *std::prev(next);
    blob.resource = home.resource;
    blob.offset = offset - home.start;
    found = blob.offset <= home.size && size <= home.size - blob.offset;
  }
  if (!found) {
    // Nowhere: a resource of its own that cannot be read.
    blob.resource = static_cast<uint32_t>(solid_resources_.size());
    blob.offset = 0;
    ResourceLocation nowhere;
    nowhere.part = 0;
    nowhere.size = size;
    solid_resources_.push_back(nowhere);
  }
  solid_hashes_.push_back(entry.hash);
  solid_blobs_.push_back(blob);
}

void BlobTable::Loader::AddPlainBlob(const Entry& entry, const char* at, size_t number) {
  if (entry.resource.size == 0) return;
  if (headers_.size() > 1) {
    number = copied_entries_.size() / kEntrySize;
    copied_entries_.append(at, kEntrySize);
  }
  plain_keys_.push_back({FirstBits(entry.hash), static_cast<uint32_t>(number)});
}

ResourceLocation BlobTable::Loader::LocatePlain(const char* at) const {
  const Entry entry(at);
  absl::StatusOr<ResourceLocation> location =
      LocateResource(entry.resource, headers_[entry.part - 1], source_, entry.part, "blob");
  if (location.ok()) return *location;
  // One bad entry must not make all the others unreachable.
  ResourceLocation nowhere;
  nowhere.part = 0;
  nowhere.size = entry.resource.size;
  return nowhere;
}

absl::Status BlobTable::Loader::AddMetadata(const Entry& entry) {
  if (entry.reference_count == 0 || entry.resource.size == 0 || part_ != 1) return absl::OkStatus();
  if (metadata_.size() >= header().image_count || metadata_.size() >= kMaxImages) return absl::OkStatus();
  if (entry.is_solid()) return BadTable(file(), "an image's metadata lies in a solid resource");
  absl::StatusOr<ResourceLocation> location =
      LocateResource(entry.resource, header(), source_, part_, "metadata of an image");
  if (!location.ok()) return location.status();
  metadata_.push_back({*location, entry.hash});
  return absl::OkStatus();
}

void BlobTable::Loader::Finish(BlobTable& table) {
  std::vector<SortKey> solid_keys;
  solid_keys.reserve(solid_hashes_.size());
  for (uint32_t i = 0; i < solid_hashes_.size(); ++i) solid_keys.push_back({FirstBits(solid_hashes_[i]), i});
  auto plain_hash = [this](uint32_t index) { return LoadHash(PlainEntry(index) + kHashOffset); };
  auto solid_hash = [this](uint32_t index) { return solid_hashes_[index]; };
  const std::vector<uint32_t> plain_order = SortedDistinct(plain_keys_, plain_hash);
  const std::vector<uint32_t> solid_order = SortedDistinct(solid_keys, solid_hash);
  table.plain_count_ = static_cast<uint32_t>(plain_order.size());

  table.hashes_.reserve(plain_order.size() + solid_order.size());
  table.resources_.reserve(plain_order.size() + solid_resources_.size());
  for (uint32_t i : plain_order) {
    table.hashes_.push_back(plain_hash(i));
    table.resources_.push_back(LocatePlain(PlainEntry(i)));
  }
  for (uint32_t i : solid_order) table.hashes_.push_back(solid_hash(i));
  table.resources_.insert(table.resources_.end(), solid_resources_.begin(), solid_resources_.end());
  table.solid_blobs_ = Permuted(solid_blobs_, solid_order);
  for (BlobLocation& blob : table.solid_blobs_) blob.resource += table.plain_count_;
  table.OrderSolidBlobs();
  table.IndexHashes(0, plain_order.size(), table.plain_buckets_);
  table.IndexHashes(plain_order.size(), table.hashes_.size(), table.solid_buckets_);
}

BlobTable::BlobTable() = default;
BlobTable::~BlobTable() = default;
BlobTable::BlobTable(BlobTable&&) noexcept = default;
BlobTable& BlobTable::operator=(BlobTable&&) noexcept = default;

void BlobTable::OrderSolidBlobs() {
  solid_order_.resize(solid_blobs_.size());
  std::iota(solid_order_.begin(), solid_order_.end(), 0);
  std::sort(solid_order_.begin(), solid_order_.end(), [this](uint32_t a, uint32_t b) {
    return std::pair(solid_blobs_[a].resource, solid_blobs_[a].offset) <
           std::pair(solid_blobs_[b].resource, solid_blobs_[b].offset);
  });
}

void BlobTable::VisitSolidBlobs(uint32_t resource, uint64_t begin, uint64_t end,
                                absl::FunctionRef<void(uint64_t offset, uint64_t size)> visitor) const {
  auto place = std::lower_bound(solid_order_.begin(), solid_order_.end(), std::pair(resource, begin),
                                [this](uint32_t index, const std::pair<uint32_t, uint64_t>& key) {
                                  const BlobLocation& blob = solid_blobs_[index];
                                  return std::pair(blob.resource, blob.offset) < key;
                                });
  for (; place != solid_order_.end(); ++place) {
    const BlobLocation& blob = solid_blobs_[*place];
    if (blob.resource != resource || blob.offset >= end) return;
    visitor(blob.offset, blob.size);
  }
}

absl::StatusOr<BlobTable> BlobTable::Read(const WimSource& source, const std::vector<WimHeader>& headers,
                                          OperationMonitor& monitor) {
  BlobTable table;
  table.loader_ = std::make_unique<Loader>(source, headers);
  for (uint16_t part = 1; part <= headers.size(); ++part) {
    if (absl::Status status = table.loader_->LoadPart(part, monitor); !status.ok()) return status;
  }
  table.has_solid_resources_ = table.loader_->has_solid_resources();
  table.metadata_ = table.loader_->TakeMetadata();
  return table;
}

absl::StatusOr<BlobTable> BlobTable::Load(const WimSource& source, const std::vector<WimHeader>& headers,
                                          OperationMonitor& monitor) {
  absl::StatusOr<BlobTable> table = Read(source, headers, monitor);
  if (table.ok()) table->Index();
  return table;
}

void BlobTable::Index() {
  loader_->Finish(*this);
  loader_.reset();
}

void BlobTable::IndexHashes(size_t first, size_t last, Buckets& buckets) const {
  const int bits = BucketBits(last - first);
  buckets.shift = 64 - bits;
  buckets.starts.resize((size_t{1} << bits) + 1);
  size_t bucket = 0;
  for (size_t i = first; i < last; ++i) {
    while (bucket <= FirstBits(hashes_[i]) >> buckets.shift) buckets.starts[bucket++] = static_cast<uint32_t>(i);
  }
  while (bucket < buckets.starts.size()) buckets.starts[bucket++] = static_cast<uint32_t>(last);
}

const uint32_t* BlobTable::BucketOf(const Buckets& buckets, const Sha1Digest& hash) {
  return buckets.starts.empty() ? nullptr : &buckets.starts[FirstBits(hash) >> buckets.shift];
}

void BlobTable::PrefetchBucket(const Sha1Digest& hash) const {
  if (const uint32_t* bucket = BucketOf(plain_buckets_, hash)) __builtin_prefetch(bucket);
}

void BlobTable::PrefetchHashes(const Sha1Digest& hash) const {
  const uint32_t* bucket = BucketOf(plain_buckets_, hash);
  if (bucket == nullptr) return;
  __builtin_prefetch(hashes_.data() + bucket[0]);
  __builtin_prefetch(hashes_.data() + bucket[1]);
}

uint32_t BlobTable::FindIn(const Buckets& buckets, const Sha1Digest& hash) const {
  const uint32_t* bucket = BucketOf(buckets, hash);
  if (bucket == nullptr) return kNoBlob;
  // A hostile table may put all its hashes into one bucket, so this is a binary search all the same.
  auto begin = hashes_.begin() + bucket[0];
  auto end = hashes_.begin() + bucket[1];
  auto found = std::lower_bound(begin, end, hash, [](const Sha1Digest& a, const Sha1Digest& b) {
    const uint64_t bits_a = FirstBits(a), bits_b = FirstBits(b);
    return bits_a != bits_b ? bits_a < bits_b : a < b;
  });
  return found != end && *found == hash ? static_cast<uint32_t>(found - hashes_.begin()) : kNoBlob;
}

uint32_t BlobTable::Find(const Sha1Digest& hash) const {
  const uint32_t index = FindIn(plain_buckets_, hash);
  return index != kNoBlob ? index : FindIn(solid_buckets_, hash);
}

BlobLocation BlobTable::location(uint32_t index) const {
  if (index >= plain_count_) return solid_blobs_[index - plain_count_];
  return {index, 0, resources_[index].size};
}

}  // namespace libmount
