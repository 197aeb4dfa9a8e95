// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/blob_table_writer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "libmount/base/little_endian.h"

namespace libmount {
namespace {

constexpr size_t kEntrySize = 50;
constexpr size_t kPartOffset = 24;
constexpr size_t kReferenceCountOffset = 26;
constexpr size_t kHashOffset = 30;

Sha1Digest HashAt(const char* entry) {
  Sha1Digest hash;
  memcpy(hash.data(), entry + kHashOffset, hash.size());
  return hash;
}

}  // namespace

std::string EncodeResourceHeader(const ResourceHeader& resource) {
  std::string bytes;
  AppendLe(resource.size_in_file | uint64_t{resource.flags} << 56, bytes);
  AppendLe(resource.offset, bytes);
  AppendLe(resource.size, bytes);
  return bytes;
}

BlobTableWriter::BlobTableWriter(std::string table, uint32_t image_count) : table_(std::move(table)) {
  table_.resize(table_.size() / kEntrySize * kEntrySize);
  entries_.reserve(table_.size() / kEntrySize);
  for (size_t at = 0; at < table_.size(); at += kEntrySize) {
    const char* entry = table_.data() + at;
    const ResourceHeader resource = ParseResourceHeader(entry);
    const Sha1Digest hash = HashAt(entry);
    if (hash == Sha1Digest{} || LoadLe16(entry + kPartOffset) != 1) continue;
    if (!(resource.flags & kResourceMetadata)) {
      entries_.try_emplace(hash, at);
    } else if (LoadLe32(entry + kReferenceCountOffset) != 0 && resource.size != 0 && images_.size() < image_count) {
      images_.push_back(at);
    }
  }
}

void BlobTableWriter::AppendEntry(const ResourceHeader& resource, uint32_t count, const Sha1Digest& hash) {
  table_ += EncodeResourceHeader(resource);
  AppendLe(uint16_t{1}, table_);
  AppendLe(count, table_);
  table_.append(reinterpret_cast<const char*>(hash.data()), hash.size());
}

void BlobTableWriter::SetBlob(const ResourceHeader& resource, const Sha1Digest& hash) {
  auto [place, inserted] = entries_.try_emplace(hash, table_.size());
  if (inserted) {
    AppendEntry(resource, 0, hash);
  } else {
    table_.replace(place->second, kResourceHeaderSize, EncodeResourceHeader(resource));
  }
}

void BlobTableWriter::AddReferences(const Sha1Digest& hash, int64_t change) {
  auto found = entries_.find(hash);
  if (found == entries_.end()) return;
  char* at = table_.data() + found->second + kReferenceCountOffset;
  const int64_t count = std::clamp<int64_t>(LoadLe32(at) + change, 0, std::numeric_limits<uint32_t>::max());
  const uint32_t stored = static_cast<uint32_t>(count);
  memcpy(at, &stored, sizeof stored);
}

uint32_t BlobTableWriter::references(const Sha1Digest& hash) const {
  auto found = entries_.find(hash);
  return found == entries_.end() ? 0 : LoadLe32(table_.data() + found->second + kReferenceCountOffset);
}

void BlobTableWriter::SetMetadata(uint32_t index, const ResourceHeader& resource, const Sha1Digest& hash) {
  const size_t at = images_[index - 1];
  table_.replace(at, kResourceHeaderSize, EncodeResourceHeader(resource));
  memcpy(table_.data() + at + kHashOffset, hash.data(), hash.size());
}

void BlobTableWriter::AppendMetadata(const ResourceHeader& resource, const Sha1Digest& hash) {
  images_.push_back(table_.size());
  AppendEntry(resource, 1, hash);
}

}  // namespace libmount
