// SPDX-License-Identifier: GPL-3.0-or-later
//
// What an image says of itself, as libvhdi reads it: type, size, identifiers, parent. (Not what it holds:
// block/README.md says why.) The foreign ones are in block_fixtures_test.cc.

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "absl/strings/str_format.h"
#include "tests/unit/block_builder.h"
#include "tests/unit/block_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(BlockLibvhdi, DisksMadeByQemu) {
  DiskDirectory directory;
  for (const auto& [name, options] :
       std::map<std::string, std::string>{{"fixed.vhd", "-f vpc -o subformat=fixed,force_size=on"},
                                          {"dynamic.vhd", "-f vpc -o subformat=dynamic,force_size=on"},
                                          {"fixed.vhdx", "-f vhdx -o subformat=fixed,block_state_zero=off"},
                                          {"dynamic.vhdx", "-f vhdx -o subformat=dynamic"},
                                          {"blocks.vhdx", "-f vhdx -o subformat=dynamic,block_size=1M"}}) {
    std::string output;
    ASSERT_EQ(RunCommand("qemu-img create -q " + options + " " + directory.Path(name) + " 9M", &output), 0) << output;
    CompareWithLibvhdi(directory.Path(name));
  }
}

// A chain of three, made by hand.
TEST(BlockLibvhdi, Chains) {
  DiskDirectory directory;
  VhdxPlan vhdx;
  vhdx.virtual_size = 6 * kMiB;
  VhdPlan vhd;
  vhd.virtual_size = 6 * kMiB;
  for (const std::string name : {"base", "middle", "top"}) {
    WriteWholeFile(directory.Path(name + ".vhdx"), BuildVhdx(vhdx));
    WriteWholeFile(directory.Path(name + ".vhd"), BuildVhd(vhd));
    CompareWithLibvhdi(directory.Path(name + ".vhdx"));
    CompareWithLibvhdi(directory.Path(name + ".vhd"));
    const std::string pair = absl::StrFormat("%02x", vhdx.data_write_byte);
    const std::string four = pair + pair;
    const std::string id = four + four + "-" + four + "-" + four + "-" + four + "-" + four + four + four;
    vhdx.has_parent = true;
    vhdx.parent = {"{" + id + "}", ".\\" + name + ".vhdx", "C:\\disks\\" + name + ".vhdx"};
    ++vhdx.data_write_byte;
    vhd.has_parent = true;
    vhd.parent = {vhd.unique_id, ".\\" + name + ".vhd", "C:\\disks\\" + name + ".vhd"};
    vhd.unique_id[0]++;
  }
}

}  // namespace
}  // namespace libmount
