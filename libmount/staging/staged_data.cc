// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: data. Written to the arena first, then made the file's by a record of the log; what is staged already is
// written over in place, unless a snapshot has it.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libmount/staging/staged_tree_impl.h"

namespace libmount {

std::vector<Segment> SegmentsOf(const Stream& stream, uint64_t offset, uint64_t length) {
  std::vector<Segment> segments;
  stream.extents.Visit(offset, length, [&](uint64_t at, uint64_t size, const Extent* extent, uint64_t skip) {
    if (extent != nullptr) {
      const auto source = extent->is_data() ? Segment::Source::kArena : Segment::Source::kZero;
      segments.push_back({source, at, size, extent->is_data() ? extent->arena + skip : 0, extent->epoch});
      return;
    }
    const uint64_t of_blob = at < stream.blob_used ? std::min(size, stream.blob_used - at) : 0;
    if (of_blob > 0) segments.push_back({Segment::Source::kBlob, at, of_blob, at, 0});
    if (of_blob < size) segments.push_back({Segment::Source::kZero, at + of_blob, size - of_blob, 0, 0});
  });
  return segments;
}

ErrnoOr<size_t> StagedTreeImpl::ReadStream(const Stream& stream, uint64_t offset, absl::Span<char> out,
                                           std::vector<Segment>& blob_parts) const {
  if (offset >= stream.size) return size_t{0};
  out = out.first(std::min<uint64_t>(out.size(), stream.size - offset));
  for (const Segment& segment : SegmentsOf(stream, offset, out.size())) {
    absl::Span<char> part = out.subspan(segment.offset - offset, segment.length);
    switch (segment.source) {
      case Segment::Source::kZero: memset(part.data(), 0, part.size()); break;
      case Segment::Source::kBlob: blob_parts.push_back(segment); break;
      case Segment::Source::kArena:
        if (int error = arena_->Read(segment.at, part)) return Errno(error);
        break;
    }
  }
  return out.size();
}

int StagedTreeImpl::ReadBlobParts(const BlobHash& hash, const std::vector<Segment>& parts, uint64_t offset,
                                  absl::Span<char> out) const {
  for (const Segment& part : parts) {
    if (int error = blobs_->ReadBlob(hash, part.at, out.subspan(part.offset - offset, part.length))) return error;
  }
  return 0;
}

ErrnoOr<size_t> StagedTreeImpl::Read(NodeId id, uint64_t offset, absl::Span<char> out) const {
  std::vector<Segment> blob_parts;
  BlobHash hash = {};
  size_t size = 0;
  bool of_base = false;
  {
    // Held while the arena is read: what is freed meanwhile may be punched.
    absl::ReaderMutexLock lock(&mutex_);
    ErrnoOr<Target> target = Find(id);
    if (!target.ok()) return Errno(target.error());
    of_base = target->node == nullptr;
    if (!of_base) {
      const uint32_t mode = target->node->mode();
      if (target->stream_id == 0 && !S_ISREG(mode)) return Errno(S_ISDIR(mode) ? EISDIR : EINVAL);
      if (target->stream == nullptr) return size_t{0};
      ErrnoOr<size_t> got = ReadStream(*target->stream, offset, out, blob_parts);
      if (!got.ok()) return got;
      size = *got;
      hash = target->stream->hash;
    }
  }
  // Blobs never change: decoding them keeps nobody waiting.
  if (of_base) return base_tree_->Read(id, offset, out);
  if (int error = ReadBlobParts(hash, blob_parts, offset, out)) return Errno(error);
  return size;
}

int StagedTreeImpl::StageData(const Target& target, uint64_t offset, absl::Span<const char> data, EditWriter& edits) {
  static const Stream kNoStream;
  const Stream& stream = target.stream != nullptr ? *target.stream : kNoStream;
  const NodeId owner = target.stream_id != 0 ? target.stream_id : target.file;
  const uint64_t end = offset + data.size();
  const uint64_t writable_epoch = catalog_.writable_epoch();
  uint64_t at = offset;
  while (at < end) {
    // As far as one extent goes that may be written to; else as far as there is none.
    uint64_t stop = end;
    uint64_t in_place = Extent::kZeros;
    bool first = true;
    bool ended = false;
    stream.extents.Visit(at, end - at, [&](uint64_t part, uint64_t length, const Extent* extent, uint64_t skip) {
      if (ended) return;
      const bool writable = extent != nullptr && extent->is_data() && extent->epoch >= writable_epoch;
      if (first && writable) {
        in_place = extent->arena + skip;
        stop = part + length;
        ended = true;
      } else if (!first && writable) {
        stop = part;
        ended = true;
      }
      first = false;
    });
    const absl::Span<const char> piece = data.subspan(at - offset, stop - at);
    if (in_place != Extent::kZeros) {
      if (int error = arena_->Write(in_place, piece)) return error;
      at = stop;
      continue;
    }
    uint64_t follows = stream.extents.ArenaEndBefore(at);
    uint64_t written = 0;
    while (written < piece.size()) {
      const ArenaRange range = arena_->Allocate(owner, follows, piece.size() - written, stream.size);
      if (range.length == 0) return ENOSPC;
      if (int error = arena_->Write(range.offset, piece.subspan(written, range.length))) return error;
      edits.Op(Edit::kData).Number(target.file).Number(target.stream_id);
      edits.Number(at + written).Number(range.length).Number(range.offset);
      written += range.length;
      follows = range.offset + range.length;
    }
    at = stop;
  }
  return 0;
}

ErrnoOr<size_t> StagedTreeImpl::WriteOnce(const Request& request, NodeId id, uint64_t offset,
                                          absl::Span<const char> data) {
  absl::MutexLock file_lock(FileLock(id));
  EditWriter edits;
  {
    // Readers go on meanwhile; a snapshot waits, so that what is written over is not in it.
    absl::ReaderMutexLock lock(&mutex_);
    if (const Catalog::Outcome* done = Repeated(request, Operation::kWrite)) return static_cast<size_t>(done->result);
    ErrnoOr<Target> target = Find(id);
    if (!target.ok()) return Errno(target.error());
    if (target->stream_id == 0) {
      ErrnoOr<NodeAttributes> attributes = AttributesLocked(id);
      if (!attributes.ok()) return Errno(attributes.error());
      if (!S_ISREG(attributes->mode)) return Errno(S_ISDIR(attributes->mode) ? EISDIR : EINVAL);
    }
    if (int error = StageData(*target, offset, data, edits)) return Errno(error);
  }
  absl::MutexLock lock(&mutex_);
  ErrnoOr<Target> target = FindData(id);
  if (!target.ok()) return Errno(target.error());
  const uint64_t now = WindowsNow();
  edits.Op(Edit::kMeta).Number(target->file).Number(kMetaWriteTime | kMetaChangeTime).Number(now).Number(now);
  if (int error = Commit(request.id, Operation::kWrite, data.size(), edits)) return Errno(error);
  return data.size();
}

ErrnoOr<size_t> StagedTreeImpl::Write(const Request& request, NodeId id, uint64_t offset, absl::Span<const char> data) {
  if (data.empty()) return size_t{0};
  if (offset > kMaxFileSize || data.size() > kMaxFileSize - offset) return Errno(EFBIG);
  ErrnoOr<size_t> written = WriteOnce(request, id, offset, data);
  if (written.ok() || !IsOutOfSpace(written.error())) return written;
  // There may be space that only waits for a sync, or is reserved.
  arena_->GiveBackAllAhead();
  ReclaimSpace(/*now=*/true);
  return WriteOnce(request, id, offset, data);
}

// Gives the holes of the range real space, so that writing there later cannot fail for want of it.
int StagedTreeImpl::AllocateHoles(const Target& target, uint64_t offset, uint64_t end, EditWriter& edits) {
  const Stream& stream = *target.stream;
  const NodeId owner = target.stream_id != 0 ? target.stream_id : target.file;
  for (const Segment& hole : SegmentsOf(stream, offset, end - offset)) {
    if (hole.source != Segment::Source::kZero) continue;
    uint64_t done = 0;
    uint64_t follows = Extent::kZeros;
    while (done < hole.length) {
      const ArenaRange range = arena_->Allocate(owner, follows, hole.length - done, 0);
      if (range.length == 0) return ENOSPC;
      if (int error = arena_->Reserve(range.offset, range.length)) {
        arena_->Punch({WholeBlocks(range)});
        return error;
      }
      edits.Op(Edit::kData).Number(target.file).Number(target.stream_id);
      edits.Number(hole.offset + done).Number(range.length).Number(range.offset);
      done += range.length;
      follows = range.offset + range.length;
    }
  }
  return 0;
}

int StagedTreeImpl::Allocate(const Request& request, NodeId id, int mode, uint64_t offset, uint64_t length) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const bool keeps_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  const bool zeroes = mode == kPunch || (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  if (!zeroes && (mode & ~FALLOC_FL_KEEP_SIZE) != 0) return EOPNOTSUPP;
  if (length == 0) return EINVAL;
  if (offset > kMaxFileSize || length > kMaxFileSize - offset) return EFBIG;
  {
    absl::MutexLock file_lock(FileLock(id));
    absl::MutexLock lock(&mutex_);
    if (Repeated(request, Operation::kAllocate) != nullptr) return 0;
    ErrnoOr<Target> target = FindData(id);
    if (!target.ok()) return target.error();
    const uint64_t size = target->stream->size;
    const uint64_t end = keeps_size ? std::min(size, offset + length) : offset + length;
    EditWriter edits;
    if (zeroes && offset < std::min(size, end)) {
      edits.Op(Edit::kZero).Number(target->file).Number(target->stream_id);
      edits.Number(offset).Number(std::min(size, end) - offset);
    }
    if (!zeroes && offset < end) {
      if (int error = AllocateHoles(*target, offset, end, edits)) return error;
    }
    if (end > size) edits.Op(Edit::kSize).Number(target->file).Number(target->stream_id).Number(end);
    const uint64_t now = WindowsNow();
    edits.Op(Edit::kMeta).Number(target->file).Number(kMetaWriteTime | kMetaChangeTime).Number(now).Number(now);
    if (int error = Commit(request.id, Operation::kAllocate, 0, edits)) return error;
  }
  if (zeroes) ReclaimSpace(/*now=*/false);
  return 0;
}

ErrnoOr<uint64_t> StagedTreeImpl::Seek(NodeId id, uint64_t offset, int whence) const {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return Errno(EINVAL);
  absl::ReaderMutexLock lock(&mutex_);
  ErrnoOr<Target> target = Find(id);
  if (!target.ok()) return Errno(target.error());
  ErrnoOr<NodeAttributes> attributes = AttributesLocked(id);
  if (!attributes.ok()) return Errno(attributes.error());
  if (!S_ISREG(attributes->mode)) return Errno(S_ISDIR(attributes->mode) ? EISDIR : EINVAL);
  if (offset >= attributes->size) return Errno(ENXIO);
  if (target->stream == nullptr) return whence == SEEK_DATA ? offset : attributes->size;
  for (const Segment& segment : SegmentsOf(*target->stream, offset, attributes->size - offset)) {
    if ((segment.source == Segment::Source::kZero) == (whence == SEEK_HOLE)) return segment.offset;
  }
  if (whence == SEEK_DATA) return Errno(ENXIO);
  return attributes->size;
}

}  // namespace libmount
