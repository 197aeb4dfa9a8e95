// SPDX-License-Identifier: GPL-3.0-or-later
//
// Replays a log of an overlay whose records say anything at all: each piece of the input is one record's edits, with a
// right checksum around it. What comes out is written to, synced, dumped and replayed again.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/log.h"
#include "libmount/block/overlay.h"
#include "libmount/staging/edit_log.h"
#include "libmount/staging/edits.h"
#include "tests/unit/overlay_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kDiskSize = 40 * OverlayDevice::kClusterSize + 512;
constexpr uint64_t kMaxFileSize = uint64_t{1} << 20;

void FillLog(std::shared_ptr<MemoryDisk> disk, std::string_view input) {
  MemoryFiles files(disk);
  std::string identity = "overlay";
  AppendLe(kDiskSize, identity);
  auto log = EditLog::Open(&files, identity, [](const EditLog::Record&) { return absl::OkStatus(); });
  if (!log.ok()) abort();
  // A first record that is right, so that the others are looked at. version, group, not pending, no identity
  EditWriter state;
  state.Number(1).Number(1).Number(0).Number(0).Text("");
  (*log)->Append({0, 0, 0, state.bytes()});
  while (!input.empty()) {
    const size_t size = std::min<size_t>(static_cast<uint8_t>(input.front()), input.size() - 1);
    (*log)->Append({static_cast<uint8_t>(input.front()), 0, 0, input.substr(1, size)});
    input.remove_prefix(size + 1);
  }
  disk->Content("data") = std::string(20 * OverlayDevice::kClusterSize, 'd');
}

int RunOne(const uint8_t* data, size_t size) {
  InitLogging("overlay_log_fuzzer", Severity::kError);
  auto disk = std::make_shared<MemoryDisk>();
  disk->LimitFiles(kMaxFileSize);
  FillLog(disk, std::string_view(reinterpret_cast<const char*>(data), size));
  const MemoryDevice base(std::string(kDiskSize, 'b'));
  OverlayOptions options;
  options.resumed = true;
  std::string content;
  for (int round = 0; round < 2; ++round) {
    auto device = TryOpenOverlay(disk, base, options);
    if (!device.ok()) return 0;
    if (round == 1 && Content(**device) != content) abort();  // what was taken once stays so
    (*device)->Begin(9);
    (*device)->Write(5000, "across the end of a cluster" + std::string(4000, 'x'));
    // A log may say that the data go on to the end of what a file can be: then there is no space.
    if ((*device)->End({1, 2}) != 0) return 0;
    if ((*device)->Sync() != 0) abort();
    auto snapshot = (*device)->TakeSnapshot();
    if (!snapshot.ok()) abort();
    std::string bytes;
    for (const OverlayDevice::Run& run : (*snapshot)->runs()) {
      bytes.resize(run.length);
      if ((*snapshot)->Read(run, 0, absl::MakeSpan(bytes)) != 0) abort();
    }
    (*device)->AbandonCommit();
    content = Content(**device);
  }
  return 0;
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return libmount::RunOne(data, size); }
