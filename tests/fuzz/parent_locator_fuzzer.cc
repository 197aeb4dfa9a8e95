// SPDX-License-Identifier: GPL-3.0-or-later
//
// Where a differencing disk says that its parent is: a VHDX's parent locator (first byte 0), a VHD's header (1; its
// checksum is made right), or paths alone, separated by lines (else); and the places that are looked at for it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_split.h"
#include "libmount/block/big_endian.h"
#include "libmount/block/parent_paths.h"
#include "libmount/block/vhd_format.h"
#include "libmount/block/vhdx_format.h"

namespace libmount {
namespace {

constexpr size_t kChecksumAt = 36;

std::vector<ParentLocator> OfVhdx(std::string_view bytes) {
  std::vector<ParentLocator> locators;
  auto pairs = ParseVhdxParentLocator(bytes);
  if (!pairs.ok()) return locators;
  for (const VhdxParentPair& pair : *pairs) locators.push_back({pair.key, pair.value});
  return locators;
}

std::vector<ParentLocator> OfVhd(std::string_view bytes) {
  std::string header(bytes.substr(0, kVhdDynamicHeaderSize));
  header.resize(kVhdDynamicHeaderSize);
  StoreBe32(0, &header[kChecksumAt]);
  uint32_t sum = 0;
  for (char byte : header) sum += static_cast<uint8_t>(byte);
  StoreBe32(~sum, &header[kChecksumAt]);
  auto parsed = ParseVhdDynamicHeader(header);
  std::vector<ParentLocator> locators;
  if (!parsed.ok()) return locators;
  locators.push_back({"name", parsed->parent_name});
  for (const VhdLocatorEntry& entry : parsed->locators) locators.push_back({entry.platform, parsed->parent_name});
  return locators;
}

std::vector<ParentLocator> OfLines(std::string_view bytes) {
  constexpr const char* kKinds[] = {"relative_path", "absolute_win32_path", "volume_path", "W2ru", "W2ku", "name"};
  std::vector<ParentLocator> locators;
  const std::vector<std::string> lines = absl::StrSplit(std::string(bytes), '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    const auto kind = static_cast<uint8_t>(line.front()) % std::size(kKinds);
    locators.push_back({kKinds[kind], line.substr(1)});
  }
  return locators;
}

void CheckPath(std::string_view path) {
  if (path.empty() || path.find('\0') != path.npos || path.ends_with('/')) abort();
  while (!path.empty()) {
    const std::string_view part = path.substr(0, path.find('/'));
    if (part.empty() || part == "." || part == "..") abort();
    path.remove_prefix(std::min(part.size() + 1, path.size()));
  }
}

int RunOne(std::string_view input) {
  if (input.empty()) return 0;
  const char kind = input.front();
  input.remove_prefix(1);
  const std::vector<ParentLocator> locators = kind == 0 ? OfVhdx(input) : kind == 1 ? OfVhd(input) : OfLines(input);
  const std::string first = locators.empty() ? "" : locators.front().value;
  for (const std::string& child : {std::string("child.vhdx"), std::string("a/b/child.vhdx"), first}) {
    const std::vector<std::string> paths = ParentPaths(locators, child);
    if (paths.size() > kMaxParentPaths) abort();
    for (const std::string& path : paths) CheckPath(path);
  }
  return 0;
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return libmount::RunOne({reinterpret_cast<const char*>(data), size});
}
