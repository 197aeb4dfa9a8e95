// SPDX-License-Identifier: GPL-3.0-or-later
//
// A whole file, of the format that it says to have: headers, BAT, bitmaps, a log that waits, parents; and reads of the
// disk in it. The first byte: checksums are left as they are (1), parents are the file itself (2) or a copy of it, a
// file that is neither may be raw (4), the image lies in a directory (8).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/block/disk_image.h"
#include "tests/fuzz/disk_pieces.h"

namespace libmount {
namespace {

constexpr uint64_t kReadSize = 20000;  // more than a sector, and of an odd size
constexpr int kReads = 16;

UniqueFd Copy(int fd) {
  UniqueFd copy(memfd_create("parent", MFD_CLOEXEC));
  if (!copy || ftruncate(copy.get(), static_cast<off_t>(FileSize(fd))) != 0) abort();
  // Only what is there: the files are mostly holes.
  for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
    const off_t end = lseek(fd, at, SEEK_HOLE);
    std::string bytes(static_cast<size_t>(end - at), '\0');
    if (pread(fd, bytes.data(), bytes.size(), at) < 0 || pwrite(copy.get(), bytes.data(), bytes.size(), at) < 0)
      abort();
    at = end;
  }
  return copy;
}

// What the broker relies on.
void CheckPath(std::string_view path) {
  if (path.empty() || path.find('\0') != path.npos || path.ends_with('/')) abort();
  while (!path.empty()) {
    const std::string_view part = path.substr(0, path.find('/'));
    if (part.empty() || part == "." || part == "..") abort();
    path.remove_prefix(std::min(part.size() + 1, path.size()));
  }
}

// One read, and the same in two pieces: where blocks are put together, and where not.
void ReadTwice(const BlockDevice& disk, uint64_t offset, uint64_t size) {
  std::string whole(size, 'w');
  std::string pieces(size, 'p');
  const int error = disk.Read(offset, absl::MakeSpan(whole));
  const uint64_t first = size / 3;
  const int first_error = disk.Read(offset, absl::MakeSpan(pieces).first(first));
  const int second_error = disk.Read(offset + first, absl::MakeSpan(pieces).subspan(first));
  if ((error == 0) != (first_error == 0 && second_error == 0)) abort();
  if (error == 0 && whole != pieces) abort();
}

void ReadSome(const BlockDevice& disk) {
  const uint64_t size = std::min(disk.size(), kReadSize);
  if (size == 0) abort();  // an empty disk is refused
  for (int i = 0; i <= kReads; ++i) ReadTwice(disk, (disk.size() - size) / kReads * static_cast<uint64_t>(i), size);
  ReadTwice(disk, disk.size() - size, size);
  char byte = 0;
  if (disk.Read(disk.size(), absl::MakeSpan(&byte, 1)) == 0) abort();
}

int RunOne(std::string_view input) {
  InitLogging("disk_image_fuzzer", Severity::kError);
  if (input.empty()) return 0;
  const auto options = static_cast<uint8_t>(input.front());
  UniqueFd fd = MakePiecedFile(input.substr(1));
  if ((options & 1) == 0) ChecksumFixer(fd.get()).FixAll();
  UniqueFd own(dup(fd.get()));
  auto open_parent = [&](std::string_view path) -> absl::StatusOr<UniqueFd> {
    CheckPath(path);
    if (path.size() % 5 == 0) return MakeError(Reason::kImageNotFound, "not there");
    return (options & 2) != 0 ? UniqueFd(dup(own.get())) : Copy(own.get());
  };
  NullMonitor monitor;
  auto image =
      OpenDiskImage(std::move(fd), (options & 8) != 0 ? "a/b/disk" : "disk", open_parent, monitor, (options & 4) != 0);
  if (!image.ok()) {
    if (ReasonOf(image.status()) == Reason::kUnspecified) abort();  // a client would be told nothing
    return 0;
  }
  if ((*image)->chain().empty() || (*image)->chain().size() > kMaxDiskChain) abort();
  ReadSome((*image)->device());
  if (!(*image)->CheckUnchanged().ok()) abort();
  return 0;
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return libmount::RunOne({reinterpret_cast<const char*>(data), size});
}
