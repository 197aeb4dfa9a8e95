// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/blob_resolver.h"

#include <cstring>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "libmount/base/small_thread.h"

namespace libmount {
namespace {

// Below that many files a second thread costs more than it saves.
constexpr size_t kWorthAThread = 8192;
// Look-ups begun before the one at hand: enough for memory to answer.
constexpr size_t kAhead = 8;

// The SHA-1 of nothing: some writers put it where others put zeros.
constexpr Sha1Digest kEmptyHash = {0xda, 0x39, 0xa3, 0xee, 0x5e, 0x6b, 0x4b, 0x0d, 0x32, 0x55,
                                   0xbf, 0xef, 0x95, 0x60, 0x18, 0x90, 0xaf, 0xd8, 0x07, 0x09};

class Resolver {
 public:
  Resolver(absl::Span<const char> resource, const BlobTable& blobs, ImageMetadata& image)
      : resource_(resource), blobs_(blobs), image_(image) {}

  void Run() {
    const size_t count = image_.inodes.size();
    const size_t middle = count < kWorthAThread ? count : count / 2;
    SmallThread helper;
    std::vector<uint32_t*> missing, missing_behind;
    if (middle < count && !helper.Start("dismd-resolve", [&] { ResolveInodes(middle, count, missing_behind); }).ok()) {
      ResolveInodes(middle, count, missing_behind);
    }
    ResolveInodes(0, middle, missing);
    helper.Join();
    for (MetadataExtra& extra : image_.extras) Resolve(extra.reparse_blob, missing_behind);
    for (MetadataStream& stream : image_.streams) Resolve(stream.blob, missing_behind);
    NumberMissing(missing);
    NumberMissing(missing_behind);
  }

 private:
  Sha1Digest HashAt(uint32_t offset) const {
    Sha1Digest hash;
    memcpy(hash.data(), resource_.data() + offset, hash.size());
    return hash;
  }

  // For a hint it does not matter that a directory's number is no offset, as long as it lies within the resource.
  template <typename Hint>
  void GiveHint(size_t inode, size_t end, Hint hint) const {
    if (inode >= end) return;
    const uint64_t offset = image_.inodes[inode].content;
    if (offset + sizeof(Sha1Digest) <= resource_.size()) hint(HashAt(static_cast<uint32_t>(offset)));
  }

  void ResolveInodes(size_t begin, size_t end, std::vector<uint32_t*>& missing) {
    for (size_t i = begin; i < end; ++i) {
      GiveHint(i + 2 * kAhead, end, [this](const Sha1Digest& hash) { blobs_.PrefetchBucket(hash); });
      GiveHint(i + kAhead, end, [this](const Sha1Digest& hash) { blobs_.PrefetchHashes(hash); });
      MetadataInode& inode = image_.inodes[i];
      if (!image_.IsDirectory(inode)) Resolve(inode.content, missing);
    }
  }

  // Leaves the offset where no table lists the hash.
  void Resolve(uint32_t& blob, std::vector<uint32_t*>& missing) const {
    if (blob == kNoBlob) return;
    const Sha1Digest hash = HashAt(blob);
    const uint32_t found = blobs_.Find(hash);
    if (found != kNoBlob || hash == kEmptyHash) {
      blob = found;
    } else {
      missing.push_back(&blob);
    }
  }

  void NumberMissing(const std::vector<uint32_t*>& missing) {
    for (uint32_t* blob : missing) {
      const Sha1Digest hash = HashAt(*blob);
      auto [place, inserted] = numbers_.try_emplace(hash, static_cast<uint32_t>(image_.missing_blobs.size()));
      if (inserted) image_.missing_blobs.push_back(hash);
      *blob = ImageMetadata::kFirstMissingBlob + place->second;
    }
  }

  const absl::Span<const char> resource_;
  const BlobTable& blobs_;
  ImageMetadata& image_;
  absl::flat_hash_map<Sha1Digest, uint32_t> numbers_;  // of missing blobs
};

}  // namespace

void ResolveBlobs(absl::Span<const char> resource, const BlobTable& blobs, ImageMetadata& image) {
  Resolver(resource, blobs, image).Run();
}

}  // namespace libmount
