// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/new_blobs.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "libmount/base/reason.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/sha1.h"

namespace libmount {
namespace {

constexpr uint64_t kSmallSize = uint64_t{1} << 20;
constexpr size_t kHashPiece = size_t{1} << 20;

absl::StatusOr<BlobHash> HashOf(uint64_t size, const ResourceWriter::ReadData& read) {
  ChunkBuffer buffer(kHashPiece);
  if (buffer.empty()) return MakeError(Reason::kOutOfResources, "no memory for reading staged data");
  Sha1 sha1;
  for (uint64_t offset = 0; offset < size;) {
    absl::Span<char> piece = buffer.span().first(std::min<uint64_t>(kHashPiece, size - offset));
    if (absl::Status status = read(offset, piece); !status.ok()) return status;
    sha1.Update(piece);
    offset += piece.size();
  }
  return sha1.Finish();
}

}  // namespace

NewBlobs::NewBlobs(const BlobTable* blobs, ResourceWriter* writer, const ImageContents* contents)
    : old_blobs_(blobs), writer_(writer), contents_(contents) {
  sizes_.reserve(blobs->size());
  for (uint32_t i = 0; i < blobs->size(); ++i) sizes_.insert(blobs->blob_size(i));
}

bool NewBlobs::IsStored(const BlobHash& hash) const {
  const uint32_t old = old_blobs_->Find(hash);
  // One that cannot be read is stored anew, in its place in the table.
  return (old != kNoBlob && old_blobs_->readable(old)) || hashes_.contains(hash);
}

absl::StatusOr<BlobHash> NewBlobs::AddBlob(uint64_t size, ResourceWriter::ReadData read) {
  Blob& blob = blobs_.emplace_back();
  absl::StatusOr<Sha1Digest> hash = writer_->Add(size, std::move(read), &blob.place);
  if (!hash.ok()) return hash.status();
  blob.hash = *hash;
  hashes_.insert(*hash);
  sizes_.insert(size);
  return *hash;
}

absl::StatusOr<BlobHash> NewBlobs::StoreSmall(std::string data, const ResourceWriter::OnProgress& on_progress) {
  const BlobHash hash = Sha1::Of(data);
  if (IsStored(hash)) {
    if (absl::Status status = on_progress(data.size()); !status.ok()) return status;
    return hash;
  }
  auto shared = std::make_shared<const std::string>(std::move(data));
  return AddBlob(shared->size(), [shared](uint64_t offset, absl::Span<char> out) {
    memcpy(out.data(), shared->data() + offset, out.size());
    return absl::OkStatus();
  });
}

absl::StatusOr<BlobHash> NewBlobs::StoreData(uint64_t size, const ResourceWriter::ReadData& read,
                                             const ResourceWriter::OnProgress& on_progress) {
  if (size <= kSmallSize) {
    std::string data(size, '\0');
    if (absl::Status status = read(0, absl::MakeSpan(data)); !status.ok()) return status;
    return StoreSmall(std::move(data), on_progress);
  }
  if (sizes_.contains(size)) {
    absl::StatusOr<BlobHash> hash = HashOf(size, read);
    if (!hash.ok()) return hash;
    if (IsStored(*hash)) {
      if (absl::Status status = on_progress(size); !status.ok()) return status;
      return hash;
    }
  }
  return AddBlob(size, read);
}

absl::Status NewBlobs::Store(NodeId node, ImageContents::File& file, std::vector<StoredFile>& stored,
                             const ResourceWriter::OnProgress& on_progress) {
  FileRecord& record = file.record;
  const bool any_staged = std::find(file.staged.begin(), file.staged.end(), true) != file.staged.end();
  if (!any_staged && !file.staged_reparse) return absl::OkStatus();
  for (size_t i = 0; i < std::min(record.streams.size(), file.staged.size()); ++i) {
    StreamRecord& stream = record.streams[i];
    if (!file.staged[i]) continue;
    stream.hash = {};
    if (stream.size == 0) continue;
    auto read = [contents = contents_, node, i](uint64_t offset, absl::Span<char> out) {
      return contents->ReadStaged(node, i, offset, out);
    };
    absl::StatusOr<BlobHash> hash = StoreData(stream.size, read, on_progress);
    if (!hash.ok()) return hash.status();
    stream.hash = *hash;
  }
  if (file.staged_reparse) {
    record.reparse_hash = {};
    record.reparse_size = file.reparse_data.size();
    if (!file.reparse_data.empty()) {
      absl::StatusOr<BlobHash> hash = StoreSmall(file.reparse_data, on_progress);
      if (!hash.ok()) return hash.status();
      record.reparse_hash = *hash;
    }
  }
  StoredFile& result = stored.emplace_back();
  result.node = node;
  for (const StreamRecord& stream : record.streams) result.stream_hashes.push_back(stream.hash);
  result.reparse_hash = record.reparse_hash;
  return absl::OkStatus();
}

}  // namespace libmount
