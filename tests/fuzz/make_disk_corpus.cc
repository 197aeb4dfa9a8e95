// SPDX-License-Identifier: GPL-3.0-or-later
//
// Writes the inputs of the disks' fuzzers into corpus/: make_disk_corpus tests/fuzz/corpus. Not run by tests; what it
// writes is committed.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "tests/fuzz/disk_pieces.h"
#include "tests/unit/block_builder.h"

namespace libmount {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// The sectors of a part of a file that are not zeros, those that follow each other as one piece.
std::string Pieces(char options, std::string_view file) {
  std::string input(1, options);
  auto sector = [&](uint64_t at) {
    const std::string_view bytes = file.substr(at, kPieceUnit);
    return bytes.substr(0, bytes.find_last_not_of('\0') + 1);
  };
  for (uint64_t at = 0; at < file.size();) {
    const uint64_t start = at;
    std::string piece(sector(at));
    at += kPieceUnit;
    while (!piece.empty() && piece.size() < 32 << 10 && at < file.size() && !sector(at).empty()) {
      piece.resize(at - start);
      piece += sector(at);
      at += kPieceUnit;
    }
    if (piece.empty()) continue;
    AppendLe(static_cast<uint32_t>(start / kPieceUnit), input);
    AppendLe(static_cast<uint16_t>(piece.size()), input);
    input += piece;
  }
  return input;
}

BuiltParent Parent(const std::string& linkage) {
  return {linkage, ".\\parents\\parent.vhdx", "C:\\disks\\parent.vhdx"};
}

VhdxPlan PlanOfVhdx(uint32_t sector_size = 512) {
  VhdxPlan plan;
  plan.virtual_size = 4 * kMiB + 4096;
  plan.sector_size = sector_size;
  plan.blocks[0].data = "the first block";
  plan.blocks[1].data = "the next one beside it";
  plan.raw_entries[2] = 2;  // zeros
  return plan;
}

VhdPlan PlanOfVhd() {
  VhdPlan plan;
  plan.virtual_size = 4 * kMiB;
  plan.block_size = 512 << 10;
  plan.blocks[0].data = "the first block";
  plan.blocks[3].data = "a later one";
  return plan;
}

std::string ChildVhdx() {
  VhdxPlan plan = PlanOfVhdx();
  plan.has_parent = true;
  plan.parent = Parent("{64646464-6464-6464-6464-646464646464}");  // as its own: a parent that is a copy fits
  plan.blocks[1].present = std::vector<bool>(2048, false);
  plan.blocks[1].present[0] = true;
  return BuildVhdx(plan);
}

std::string ChildVhd() {
  VhdPlan plan = PlanOfVhd();
  plan.has_parent = true;
  plan.parent = Parent(plan.unique_id);
  plan.blocks[3].present = std::vector<bool>(1024, false);
  plan.blocks[3].present[1] = true;
  return BuildVhd(plan);
}

std::string FixedVhd() {
  const std::string dynamic = BuildVhd(PlanOfVhd());
  std::string footer = dynamic.substr(dynamic.size() - kVhdFooterSize);
  footer[63] = 2;  // the fuzzer makes the checksum right
  std::string file = "a fixed disk";
  file.resize(4 * kMiB);
  return file + footer;
}

// A BAT entry and a piece of data that only the log has; two entries, the second of which ends round the ring's end.
std::string WaitingVhdx() {
  std::string file = BuildVhdx(PlanOfVhdx());
  std::string bat = file.substr(kBuiltBat, 4096);
  bat[8] = 0;
  AddLog(file, {{7, 1 << 19, 1 << 19, {{kBuiltBat, bat}, {4 * kMiB, "", 8192}}, 0},
                {8, (1 << 19) + 8192, 1 << 19, {{4 * kMiB + 4096, std::string(4096, 'n')}}, 0}});
  return file;
}

void Write(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
  printf("%7zu %s\n", bytes.size(), path.c_str());
}

void WriteAll(const std::filesystem::path& corpus) {
  const std::filesystem::path disk = corpus / "disk_image_fuzzer";
  Write(disk / "vhdx", Pieces(0, BuildVhdx(PlanOfVhdx())));
  Write(disk / "vhdx-4096", Pieces(0, BuildVhdx(PlanOfVhdx(4096))));
  Write(disk / "vhdx-child", Pieces(8, ChildVhdx()));
  Write(disk / "vhdx-loop", Pieces(2, ChildVhdx()));
  Write(disk / "vhdx-waiting", Pieces(0, WaitingVhdx()));
  Write(disk / "vhd", Pieces(0, BuildVhd(PlanOfVhd())));
  Write(disk / "vhd-child", Pieces(0, ChildVhd()));
  Write(disk / "vhd-fixed", Pieces(0, FixedVhd()));
  Write(disk / "raw", Pieces(4, "a raw disk" + std::string(2000, '\0')));

  const std::string waiting = WaitingVhdx();
  Write(corpus / "vhdx_log_fuzzer/two-entries", Pieces(0, std::string_view(waiting).substr(kBuiltLog, kMiB)));

  const std::filesystem::path parents = corpus / "parent_locator_fuzzer";
  const std::string child = ChildVhdx();
  // Behind the five items that stand before it.
  const size_t locator_at = child.find(std::string_view("\xb7\xef\x4a\xb0\x9e\xd1\x81\x4a", 8), kBuiltMetadata);
  Write(parents / "vhdx", std::string(1, '\0') + child.substr(locator_at, 400));
  std::string header = ChildVhd().substr(512, 1024);
  const std::string name = *Wtf8ToUtf16Le("parent.vhd");
  for (size_t i = 0; i < name.size(); ++i) header[64 + i] = name[i ^ 1];  // big endian
  Write(parents / "vhd", "\x01" + header);
  Write(parents / "paths",
        "\x02\x06.\\parents\\..\\parent.vhdx\n\x07"
        "C:\\disks\\parent.vhdx\n"
        "\x08\\\\?\\Volume{1}\\a\\b\n\x06..\\up.vhd");
}

}  // namespace
}  // namespace libmount

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  libmount::WriteAll(argv[1]);
}
