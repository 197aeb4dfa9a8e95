// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/file_appender.h"

#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr size_t kBufferSize = size_t{1} << 20;
constexpr char kZeros[4096] = {};

absl::Status WriteError(const std::string& name, int error, uint64_t offset) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG || error == ENOMEM;
  return MakeErrnoError(full ? Reason::kOutOfResources : Reason::kUnspecified, error,
                        absl::StrFormat("%s: writing at offset %d failed", name, offset));
}

}  // namespace

absl::Status WriteAt(int fd, const std::string& name, uint64_t offset, absl::Span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return WriteError(name, count < 0 ? errno : ENOSPC, offset);
    bytes.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status ReadAt(int fd, const std::string& name, uint64_t offset, absl::Span<char> out) {
  while (!out.empty()) {
    const ssize_t count = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) {
      return MakeError(Reason::kImageChanged, absl::StrFormat("%s became shorter while it was committed to", name));
    }
    if (count < 0) {
      return MakeErrnoError(Reason::kUnspecified, errno,
                            absl::StrFormat("%s: reading at offset %d failed; check the disk", name, offset));
    }
    out.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status FileAppender::Append(absl::Span<const char> bytes) {
  if (buffer_.size() + bytes.size() > kBufferSize) {
    if (absl::Status status = FlushBuffer(); !status.ok()) return status;
  }
  if (bytes.size() < kBufferSize) {
    buffer_.append(bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  if (absl::Status status = WriteAt(fd_, name_, buffer_offset_, bytes); !status.ok()) return status;
  buffer_offset_ += bytes.size();
  written_end_ = std::max(written_end_, buffer_offset_);
  return absl::OkStatus();
}

absl::Status FileAppender::Patch(uint64_t offset, absl::Span<const char> bytes) {
  assert(offset >= begin_ && offset + bytes.size() <= this->offset());
  const size_t written = offset < buffer_offset_ ? std::min<uint64_t>(bytes.size(), buffer_offset_ - offset) : 0;
  if (written > 0) {
    if (absl::Status status = WriteAt(fd_, name_, offset, bytes.first(written)); !status.ok()) return status;
  }
  if (written < bytes.size()) {
    memcpy(buffer_.data() + (offset + written - buffer_offset_), bytes.data() + written, bytes.size() - written);
  }
  return absl::OkStatus();
}

absl::Status FileAppender::Skip(uint64_t size) {
  while (size > 0) {
    const size_t piece = std::min<uint64_t>(size, sizeof kZeros);
    if (absl::Status status = Append({kZeros, piece}); !status.ok()) return status;
    size -= piece;
  }
  return absl::OkStatus();
}

void FileAppender::Rewind(uint64_t offset) {
  assert(offset >= begin_ && offset <= this->offset());
  if (offset >= buffer_offset_) {
    buffer_.resize(offset - buffer_offset_);
  } else {
    buffer_.clear();
    buffer_offset_ = offset;
  }
}

absl::Status FileAppender::FlushBuffer() {
  if (buffer_.empty()) return absl::OkStatus();
  if (absl::Status status = WriteAt(fd_, name_, buffer_offset_, buffer_); !status.ok()) return status;
  buffer_offset_ += buffer_.size();
  written_end_ = std::max(written_end_, buffer_offset_);
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status FileAppender::Flush() {
  if (absl::Status status = FlushBuffer(); !status.ok()) return status;
  if (written_end_ <= buffer_offset_) return absl::OkStatus();
  if (ftruncate(fd_, static_cast<off_t>(buffer_offset_)) != 0) return WriteError(name_, errno, buffer_offset_);
  written_end_ = buffer_offset_;
  return absl::OkStatus();
}

}  // namespace libmount
