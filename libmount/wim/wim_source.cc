// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/wim_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

absl::Status ChangedError(const std::string& name) {
  return MakeError(Reason::kImageChanged,
                   absl::StrFormat("%s was changed, truncated or replaced after it was opened; open it again", name));
}

}  // namespace

absl::Status WimSource::AddPart(UniqueFd fd, std::string name) {
  struct stat facts;
  if (fstat(fd.get(), &facts) != 0) {
    return MakeErrnoError(Reason::kBadImageFormat, errno, absl::StrFormat("%s cannot be examined", name));
  }
  if (!S_ISREG(facts.st_mode)) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s is not a regular file", name));
  }
  Part part;
  part.fd = std::move(fd);
  part.name = std::move(name);
  part.size = static_cast<uint64_t>(facts.st_size);
  part.watch = std::make_unique<FileWatch>(part.fd.get(), facts);
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

absl::Status WimSource::Read(uint16_t part_number, uint64_t offset, absl::Span<char> out) const {
  const Part& part = parts_[part_number - 1];
  if (changed()) return ChangedError(part.name);
  if (offset > part.size || out.size() > part.size - offset) {
    return MakeError(
        Reason::kBadImageFormat,
        absl::StrFormat("%s: %d bytes at offset %d lie beyond the end of the file", part.name, out.size(), offset));
  }
  const uint64_t epoch = part.watch->Epoch();
  size_t done = 0;
  int read_error = 0;
  while (done < out.size()) {
    ssize_t count = pread(part.fd.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      // 0: the file is shorter than it was. An error comes after the comparison too: a replaced file explains more.
      read_error = count < 0 ? errno : 0;
      break;
    }
    done += static_cast<size_t>(count);
  }
  part.watch->Note(epoch, offset, out.first(done));
  absl::Status unchanged = CheckUnchanged(part);
  if (!unchanged.ok()) return unchanged;
  if (done == out.size()) return absl::OkStatus();
  if (read_error == 0) {
    changed_.store(true, std::memory_order_relaxed);
    return ChangedError(part.name);
  }
  return MakeErrnoError(
      Reason::kUnspecified, read_error,
      absl::StrFormat("%s: reading %d bytes at offset %d failed; check the disk", part.name, out.size(), offset));
}

void WimSource::WillNeed(uint16_t part_number, uint64_t offset, uint64_t size) const {
  (void)posix_fadvise(parts_[part_number - 1].fd.get(), static_cast<off_t>(offset), static_cast<off_t>(size),
                      POSIX_FADV_WILLNEED);
}

absl::Status WimSource::CheckUnchanged(const Part& part) const {
  if (part.watch->Unchanged()) return absl::OkStatus();
  changed_.store(true, std::memory_order_relaxed);
  return ChangedError(part.name);
}

absl::Status WimSource::CheckUnchanged() const {
  if (changed()) return ChangedError(parts_.front().name);
  for (const Part& part : parts_) {
    if (absl::Status status = CheckUnchanged(part); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void WimSource::SuspendWatch() const {
  for (const Part& part : parts_) part.watch->Suspend();
}

void WimSource::RenewWatch() const {
  for (const Part& part : parts_) part.watch->Renew();
}

}  // namespace libmount
