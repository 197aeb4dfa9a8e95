// SPDX-License-Identifier: GPL-3.0-or-later
//
// A VHDX's log that says anything, in a file of 3 MiB whose second is the log. The input's pieces are the log;
// checksums are made right, and so are the identifiers of what claims to be an entry, unless the first byte is odd.

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
constexpr uint64_t kLogSector = 4096;

// Puts the input's pieces into the log, in units of 512 bytes from its start.
UniqueFd MakeFile(std::string_view input, const VhdxHeader& header, bool fix) {
  UniqueFd log = MakePiecedFile(input);
  std::string bytes(kVhdxUnit, '\0');
  if (pread(log.get(), bytes.data(), bytes.size(), 0) < 0) abort();
  for (uint64_t at = 0; fix && at < bytes.size(); at += kLogSector) {
    if (bytes.compare(at, 4, "loge") == 0) bytes.replace(at + 32, sizeof(Guid), header.log_guid.data(), sizeof(Guid));
  }
  UniqueFd file(memfd_create("disk", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), kFileSize) != 0) abort();
  if (pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(header.log_offset)) < 0) abort();
  if (fix) ChecksumFixer(file.get()).FixLog(header.log_offset, header.log_size);
  return file;
}

void CheckPatches(const FilePatches& patches) {
  if (patches.file_size() < kFileSize) abort();
  uint64_t behind = 0;
  patches.ForEach([&](uint64_t offset, uint64_t size, const char*) {
    if (size == 0 || offset < behind || offset > patches.file_size() || size > patches.file_size() - offset) abort();
    behind = offset + size;
    return 0;
  });
  std::string whole(kFileSize, 'f');
  patches.Apply(0, absl::MakeSpan(whole));
  std::string piece(5000, 'f');
  for (uint64_t at = 1000; at < whole.size() - piece.size(); at += 500000) {
    piece.assign(piece.size(), 'f');
    patches.Apply(at, absl::MakeSpan(piece));
    if (whole.compare(at, piece.size(), piece) != 0) abort();
  }
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
