// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/disk_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr uint64_t kMaxOffset = std::numeric_limits<off_t>::max();

}  // namespace

DiskFile::DiskFile(UniqueFd fd, std::string name, const struct stat& facts)
    : fd_(std::move(fd)),
      name_(std::move(name)),
      device_(facts.st_dev),
      inode_(facts.st_ino),
      size_(static_cast<uint64_t>(facts.st_size)),
      watch_(fd_.get(), facts) {}

absl::StatusOr<std::unique_ptr<DiskFile>> DiskFile::Open(UniqueFd fd, std::string name) {
  struct stat facts;
  if (fstat(fd.get(), &facts) != 0) {
    return MakeErrnoError(Reason::kBadImageFormat, errno, absl::StrFormat("%s cannot be examined", name));
  }
  if (!S_ISREG(facts.st_mode)) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s is not a regular file", name));
  }
  return std::unique_ptr<DiskFile>(new DiskFile(std::move(fd), std::move(name), facts));
}

int DiskFile::ReadRaw(uint64_t offset, absl::Span<char> out, size_t* done) const {
  *done = 0;
  while (*done < out.size()) {
    const ssize_t count = pread(fd_.get(), out.data() + *done, out.size() - *done, static_cast<off_t>(offset + *done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    if (count == 0) return 0;  // the end of the file
    *done += static_cast<size_t>(count);
  }
  return 0;
}

int DiskFile::Read(uint64_t offset, absl::Span<char> out) const {
  if (changed()) return EIO;
  if (offset > kMaxOffset || out.size() > kMaxOffset - offset) return EIO;
  const FilePatches* patches = this->patches();
  const uint64_t epoch = watch_.Epoch();
  size_t done;
  if (ReadRaw(offset, out, &done) != 0) return EIO;
  watch_.Note(epoch, offset, out.first(done));
  if (patches != nullptr) {
    if (done < out.size() && offset + out.size() <= patches->file_size()) {
      memset(out.data() + done, 0, out.size() - done);
      done = out.size();
    }
    patches->Apply(offset, out);
  }
  return watch_.Unchanged() && done == out.size() ? 0 : EIO;
}

absl::Status DiskFile::ReadPart(uint64_t offset, absl::Span<char> out, const char* what) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: the %s, %d bytes at offset %d, lies beyond the end",
                                                              name_, what, out.size(), offset));
  }
  if (Read(offset, out) == 0) return absl::OkStatus();
  if (changed()) return ChangedError();
  return MakeError(Reason::kUnspecified,
                   absl::StrFormat("%s: reading the %s, %d bytes at offset %d, failed; check the disk", name_, what,
                                   out.size(), offset));
}

absl::Status DiskFile::ChangedError() const {
  return MakeError(Reason::kImageChanged,
                   absl::StrFormat("%s was changed, truncated or replaced after it was opened; open it again", name_));
}

absl::Status DiskFile::CheckUnchanged() const { return watch_.Unchanged() ? absl::OkStatus() : ChangedError(); }

void DiskFile::SetPatches(std::unique_ptr<FilePatches> patches) {
  size_ = std::max(size_, patches->file_size());
  owned_patches_ = std::move(patches);
  patches_.store(owned_patches_.get(), std::memory_order_release);
}

}  // namespace libmount
