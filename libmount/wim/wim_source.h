// SPDX-License-Identifier: GPL-3.0-or-later
//
// WimSource: the file or files of a WIM, read with pread, watched for changes made by others.
//
// A commit of our own (of this mount, or of another one of the same file) only appends, and so leaves in place what
// was read here. It is announced: SuspendWatch before its first write, RenewWatch after its last.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef LIBMOUNT_WIM_WIM_SOURCE_H_
#define LIBMOUNT_WIM_WIM_SOURCE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libmount/base/file_watch.h"
#include "libmount/base/unique_fd.h"

namespace libmount {

class WimSource {
 public:
  WimSource() = default;
  WimSource(const WimSource&) = delete;
  WimSource& operator=(const WimSource&) = delete;

  // Adds the next part (the first call: part 1). kBadImageFormat: not a regular file.
  absl::Status AddPart(UniqueFd fd, std::string name);

  uint16_t part_count() const { return static_cast<uint16_t>(parts_.size()); }
  // REQUIRES: 1 <= part <= part_count().
  uint64_t part_size(uint16_t part) const { return parts_[part - 1].size; }
  const std::string& part_name(uint16_t part) const { return parts_[part - 1].name; }
  int part_fd(uint16_t part) const { return parts_[part - 1].fd.get(); }

  // Fills `out` from `offset` of a part. After the read the file is compared with what it was at AddPart
  // (base/file_watch.h): kImageChanged when others changed it (or it is now shorter), and from then on for every read.
  absl::Status Read(uint16_t part, uint64_t offset, absl::Span<char> out) const;

  // Between these two, reads do not look whether the file was changed. Calls may nest. RenewWatch takes the file as it
  // is then for what it should be.
  void SuspendWatch() const;
  void RenewWatch() const;

  // Looks now; as Read does after each read.
  absl::Status CheckUnchanged() const;
  // Lets the system read from the disk ahead of Read.
  void WillNeed(uint16_t part, uint64_t offset, uint64_t size) const;

  // True once a read has found the file (one of the parts) changed.
  bool changed() const { return changed_.load(std::memory_order_relaxed); }

 private:
  struct Part {
    UniqueFd fd;
    std::string name;
    uint64_t size = 0;  // when it was added: what is read lies within
    std::unique_ptr<FileWatch> watch;
  };

  absl::Status CheckUnchanged(const Part& part) const;

  std::vector<Part> parts_;
  mutable std::atomic<bool> changed_ = false;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_SOURCE_H_
