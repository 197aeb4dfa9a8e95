// SPDX-License-Identifier: GPL-3.0-or-later
//
// A whole WIM: opened, its integrity checked, every image walked with all attributes, links and a little of each file.
// (The SHA-1 of the metadata keeps most changes out of the tree; wim_metadata_fuzzer is for those.)

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "libmount/base/log.h"
#include "libmount/wim/wim_file.h"

namespace libmount {
namespace {

constexpr size_t kMaxNodes = 1000;
constexpr size_t kReadSize = 4096;

void Visit(const FileTree& tree, const NodeAttributes& attributes) {
  if (auto names = tree.ListXattrs(attributes.node); names.ok()) {
    for (const std::string& name : *names) (void)tree.GetXattr(attributes.node, name);
  }
  if (S_ISLNK(attributes.mode)) (void)tree.ReadLink(attributes.node);
  char buffer[kReadSize];
  if (S_ISREG(attributes.mode)) (void)tree.Read(attributes.node, attributes.size / 2, absl::MakeSpan(buffer));
}

void Walk(const FileTree& tree) {
  std::vector<NodeId> directories = {kRootNode};
  size_t nodes = 0;
  for (size_t i = 0; i < directories.size(); ++i) {
    tree.ReadDirectory(directories[i], 0, [&](const DirectoryEntry& entry) {
      if (S_ISDIR(entry.attributes.mode)) directories.push_back(entry.attributes.node);
      Visit(tree, entry.attributes);
      return ++nodes < kMaxNodes;
    });
  }
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  libmount::InitLogging("fuzzer", libmount::Severity::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace libmount;  // NOLINT(google-build-using-namespace)
  UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  if (!fd || write(fd.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  NullMonitor monitor;
  auto no_sibling = [](std::string_view) -> absl::StatusOr<UniqueFd> { return absl::NotFoundError("none"); };
  auto wim = WimFile::Open(std::move(fd), "fuzz.wim", no_sibling, monitor);
  if (!wim.ok()) return 0;
  (void)(*wim)->CheckIntegrity(monitor);
  for (const ImageInfo& image : (*wim)->images()) {
    WimTreeOptions options;
    options.decoder_threads = 1;
    auto tree = (*wim)->OpenTree(image.index, options, monitor);
    if (tree.ok()) Walk(**tree);
  }
  return 0;
}
