// SPDX-License-Identifier: GPL-3.0-or-later
//
// A VHDX's log that says anything, in a file of 3 MiB whose second is the log. The input's pieces are the log;
// checksums are made right, and so are the identifiers of what claims to be an entry, unless the first byte is odd.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/block/vhdx_log.h"
#include "tests/fuzz/disk_pieces.h"

namespace libmount {
namespace {

constexpr uint64_t kFileSize = 3 * kVhdxUnit;
constexpr uint64_t kWindow = 10000;  // more than a patch

UniqueFd MakeFile(std::string_view input, const VhdxHeader& header, bool fix) {
  UniqueFd file = MakePiecedFile(input, header.log_offset, header.log_size);
  if (ftruncate(file.get(), kFileSize) != 0) abort();
  if (fix) ChecksumFixer(file.get()).FixLog(header.log_offset, header.log_size, &header.log_guid);
  return file;
}

void CheckPatches(const FilePatches& patches) {
  if (patches.file_size() < kFileSize) abort();
  uint64_t behind = 0;
  patches.ForEach([&](uint64_t offset, uint64_t size, const char* bytes) {
    if (size == 0 || offset < behind || offset > patches.file_size() || size > patches.file_size() - offset) abort();
    behind = offset + size;
    // What is read from a little before it on has it in its place.
    const uint64_t start = offset - std::min<uint64_t>(offset, 100);
    std::string window(kWindow, 'f');
    patches.Apply(start, absl::MakeSpan(window));
    const std::string_view seen = std::string_view(window).substr(offset - start, size);
    if (seen != (bytes == nullptr ? std::string(seen.size(), '\0') : std::string(bytes, seen.size()))) abort();
    return 0;
  });
}

int RunOne(std::string_view input) {
  InitLogging("vhdx_log_fuzzer", Severity::kError);
  if (input.empty()) return 0;
  VhdxHeader header;
  header.log_guid.fill('l');
  header.log_size = kVhdxUnit;
  header.log_offset = kVhdxUnit;
  auto file = DiskFile::Open(MakeFile(input.substr(1), header, input.front() % 2 == 0), "disk");
  if (!file.ok()) abort();
  auto patches = ReplayVhdxLog(**file, header);
  if (patches.ok()) {
    CheckPatches(**patches);
  } else if (ReasonOf(patches.status()) != Reason::kBadImageFormat) {
    abort();
  }
  return 0;
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return libmount::RunOne({reinterpret_cast<const char*>(data), size});
}
