// SPDX-License-Identifier: GPL-3.0-or-later
//
// An NTFS volume whose MFT and index records say anything: listed, looked up in and read. The input changes a volume
// that is made once: ([ u16 which record's sector ][ u16 byte ][ u8 size ][ bytes ]) ..
//
// libntfs-3g, which takes the records apart, is not instrumented: what it does wrong shows where it crashes, hangs or
// copies beyond its memory.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/log.h"
#include "libmount/ntfs/ntfs_tree.h"

// Of volumes that it does not mount, as in tests/lsan.supp.
extern "C" const char* __lsan_default_suppressions() { return "leak:libntfs-3g.so"; }

namespace libmount {
namespace {

constexpr size_t kVolumeSize = size_t{2} << 20;
constexpr size_t kSector = 512;
constexpr size_t kEditHeader = 5;
constexpr size_t kMaxNodes = 300;  // looked at; a damaged volume may list more

// A volume in memory, whose writes are as they come.
class MemoryVolume final : public WritableBlockDevice, public OperationGroups {
 public:
  explicit MemoryVolume(std::string bytes) : bytes_(std::move(bytes)) {}

  uint64_t size() const override { return bytes_.size(); }
  uint32_t sector_size() const override { return kSector; }
  int Read(uint64_t offset, absl::Span<char> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return EINVAL;
    std::copy_n(bytes_.data() + offset, out.size(), out.data());
    return 0;
  }
  int Write(uint64_t offset, absl::Span<const char> data) override {
    if (offset > bytes_.size() || data.size() > bytes_.size() - offset) return EINVAL;
    std::copy_n(data.data(), data.size(), bytes_.data() + offset);
    return 0;
  }
  int Sync() override { return 0; }
  void Begin(uint64_t) override {}
  int End(const Reply&) override { return 0; }
  void Abort() override { abort(); }
  std::optional<Reply> FindReply(uint64_t) const override { return std::nullopt; }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

template <typename T>
T Must(ErrnoOr<T> value) {
  if (!value.ok()) abort();
  return *std::move(value);
}

std::string MakeEmptyVolume() {
  std::string path = (std::getenv("TMPDIR") != nullptr ? std::getenv("TMPDIR") : "/tmp") + std::string("/ntfs.XXXXXX");
  const int fd = mkstemp(path.data());
  if (fd < 0 || ftruncate(fd, kVolumeSize) != 0) abort();
  close(fd);
  const std::string command = "/sbin/mkntfs -F -Q -q -s 512 -c 4096 -p 0 -H 0 -S 0 " + path + " >&2";
  if (system(command.c_str()) != 0) abort();
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  unlink(path.c_str());
  return bytes.str();
}

// Small and large files, a directory in many records, links, streams, what reparse points and attributes there are.
void Fill(MemoryVolume& volume) {
  auto tree = NtfsTree::OpenForWriting(&volume, &volume, false, {});
  if (!tree.ok()) abort();
  const Request request;
  auto make = [&](NodeId parent, const std::string& name, size_t size, uint64_t offset = 0) {
    const NodeId node = Must((*tree)->MakeNode(request, parent, name, S_IFREG | 0644, 0)).node;
    if (size > 0) Must((*tree)->Write(request, node, offset, std::string(size, 'c')));
    return node;
  };
  const NodeId many = Must((*tree)->MakeDirectory(request, kRootNode, "many", 0755)).node;
  for (int i = 0; i < 60; ++i) make(many, "a file with a rather long name " + std::to_string(i), i % 3 == 0 ? 10 : 0);
  const NodeId file = make(kRootNode, "file", 20'000);
  make(kRootNode, "sparse", 5000, 300'000);
  Must((*tree)->MakeLink(request, file, many, "link"));
  Must((*tree)->MakeSymlink(request, kRootNode, "symlink", "many/link"));
  for (const char* name : {"user.stream", "user.other"}) {
    if ((*tree)->SetXattr(request, file, name, std::string(3000, 's'), 0) != 0) abort();
  }
  const std::string compressed("\x20\x08\0\0", 4);
  const NodeId packed = make(kRootNode, "packed", 0);
  if ((*tree)->SetXattr(request, packed, "system.ntfs_attrib", compressed, 0) != 0) abort();
  Must((*tree)->Write(request, packed, 0, std::string(50'000, 'p')));
}

struct Seed {
  std::string bytes;
  std::vector<size_t> sectors;  // of records
};

const Seed& TheSeed() {
  static const Seed* const seed = [] {
    MemoryVolume volume(MakeEmptyVolume());
    Fill(volume);
    auto* made = new Seed{volume.bytes(), {}};
    for (size_t at = 0; at < made->bytes.size(); at += kSector) {
      const std::string_view magic = std::string_view(made->bytes).substr(at, 4);
      if (magic != "FILE" && magic != "INDX") continue;
      const size_t sectors = magic == "FILE" ? 2 : 8;
      for (size_t i = 0; i < sectors; ++i) made->sectors.push_back(at + i * kSector);
    }
    return made;
  }();
  return *seed;
}

void LookAt(const NtfsTree& tree, const NodeAttributes& attributes, std::deque<NodeAttributes>* found) {
  const NodeId node = attributes.node;
  if (S_ISDIR(attributes.mode)) {
    std::string last;
    tree.ReadDirectory(node, 0, [&](const DirectoryEntry& entry) {
      found->push_back(entry.attributes);
      last = entry.name;
      return found->size() < kMaxNodes;
    });
    if (!last.empty()) (void)tree.Lookup(node, last);
    (void)tree.Lookup(node, "FILE:STREAM");
    (void)tree.Parent(node);
  } else if (S_ISLNK(attributes.mode)) {
    (void)tree.ReadLink(node);
  } else {
    std::string out(40'000, '\0');
    ErrnoOr<size_t> got = tree.Read(node, 0, absl::MakeSpan(out));
    if (got.ok() && *got > out.size()) abort();
    (void)tree.Read(node, attributes.size / 2, absl::MakeSpan(out));
    (void)tree.Seek(node, attributes.size / 3, SEEK_DATA);
  }
  ErrnoOr<std::vector<std::string>> names = tree.ListXattrs(node);
  if (!names.ok()) return;
  for (const std::string& name : *names) (void)tree.GetXattr(node, name);
}

int RunOne(std::string_view input) {
  InitLogging("ntfs_volume_fuzzer", Severity::kError);
  const Seed& seed = TheSeed();
  std::string bytes = seed.bytes;
  while (input.size() > kEditHeader) {
    const size_t sector = seed.sectors[LoadLe16(input.data()) % seed.sectors.size()];
    const size_t at = sector + LoadLe16(input.data() + 2) % kSector;
    const std::string_view edit = input.substr(kEditHeader, static_cast<uint8_t>(input[4]));
    bytes.replace(at, std::min(edit.size(), bytes.size() - at), edit.substr(0, bytes.size() - at));
    input.remove_prefix(kEditHeader + edit.size());
  }
  const MemoryVolume volume(std::move(bytes));
  auto tree = NtfsTree::Open(&volume, {});
  if (!tree.ok()) return 0;
  (*tree)->FileSystemStats();
  (*tree)->label();
  ErrnoOr<NodeAttributes> root = (*tree)->GetAttributes(kRootNode);
  if (!root.ok()) return 0;
  std::deque<NodeAttributes> found = {*root};
  for (size_t i = 0; i < std::min(found.size(), kMaxNodes); ++i) LookAt(**tree, NodeAttributes(found[i]), &found);
  return 0;
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return libmount::RunOne({reinterpret_cast<const char*>(data), size});
}
