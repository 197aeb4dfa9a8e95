// SPDX-License-Identifier: GPL-3.0-or-later
#include "tests/unit/ntfs_test_util.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"

namespace libmount {

TestDirectory::TestDirectory() {
  char name[] = "/tmp/dismd-ntfs-XXXXXX";
  if (mkdtemp(name) == nullptr) abort();
  path_ = name;
}

TestDirectory::~TestDirectory() { std::filesystem::remove_all(path_); }

FileDevice::FileDevice(const std::string& path, bool writable, uint32_t sector_size)
    : fd_(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC)), sector_size_(sector_size) {
  struct stat status = {};
  if (!fd_.valid() || fstat(fd_.get(), &status) != 0) ADD_FAILURE() << "cannot open " << path;
  size_ = static_cast<uint64_t>(status.st_size);
}

int FileDevice::Read(uint64_t offset, absl::Span<char> out) const {
  if (offset > size_ || out.size() > size_ - offset) return EINVAL;
  while (!out.empty()) {
    const ssize_t got = pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got <= 0) return EIO;
    out.remove_prefix(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return 0;
}

int FileDevice::Write(uint64_t offset, absl::Span<const char> data) {
  if (offset > size_ || data.size() > size_ - offset) return EINVAL;
  ++writes_;
  if (int error = write_error_) return error;
  while (!data.empty()) {
    const ssize_t put = pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (put <= 0) return EIO;
    data.remove_prefix(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return 0;
}

void MakeVolume(const std::string& path, uint64_t size, uint32_t sector_size, uint32_t cluster_size,
                const std::string& more_options) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  RunCommand("PATH=$PATH:/usr/sbin:/sbin mkntfs -F -Q -q -s " + std::to_string(sector_size) + " -c " +
             std::to_string(cluster_size) + " -p 0 -H 0 -S 0 " + more_options + " '" + path + "' 2>&1");
}

VolumeFiller::VolumeFiller(const std::string& path) {
  ntfs_log_set_handler(ntfs_log_handler_null);
  volume_ = ntfs_mount(path.c_str(), NTFS_MNT_NONE);
  if (volume_ == nullptr) {
    ADD_FAILURE() << "the library does not mount " << path;
    abort();
  }
  ntfs_create_lru_caches(volume_);
  NVolSetCompression(volume_);
}

VolumeFiller::~VolumeFiller() { EXPECT_EQ(ntfs_umount(volume_, FALSE), 0); }

ntfs_inode* VolumeFiller::Open(const std::string& path) {
  ntfs_inode* inode = ntfs_pathname_to_inode(volume_, nullptr, path.c_str());
  EXPECT_NE(inode, nullptr) << path;
  return inode;
}

ntfs_inode* VolumeFiller::Make(const std::string& path, mode_t type) {
  const std::filesystem::path where(path);
  ntfs_inode* parent = Open(where.parent_path());
  std::optional<std::string> units = Wtf8ToUtf16Le(where.filename().string());
  ntfs_inode* inode = ntfs_create(parent, const_cpu_to_le32(0), reinterpret_cast<const ntfschar*>(units->data()),
                                  static_cast<u8>(units->size() / 2), type);
  EXPECT_NE(inode, nullptr) << path;
  EXPECT_EQ(ntfs_inode_close(parent), 0);
  return inode;
}

void VolumeFiller::MakeDirectory(const std::string& path) { EXPECT_EQ(ntfs_inode_close(Make(path, S_IFDIR)), 0); }

void VolumeFiller::MakeFile(const std::string& path, std::string_view content) {
  EXPECT_EQ(ntfs_inode_close(Make(path, S_IFREG)), 0);
  if (!content.empty()) WriteStream(path, "", content);
}

void VolumeFiller::MakeLink(const std::string& path, const std::string& new_path) {
  const std::filesystem::path where(new_path);
  ntfs_inode* inode = Open(path);
  ntfs_inode* parent = Open(where.parent_path());
  std::u16string name = Utf16(where.filename().string());
  EXPECT_EQ(ntfs_link(inode, parent, reinterpret_cast<const ntfschar*>(name.data()), static_cast<u8>(name.size())), 0);
  EXPECT_EQ(ntfs_inode_close(parent), 0);
  EXPECT_EQ(ntfs_inode_close(inode), 0);
}

void VolumeFiller::WriteStream(const std::string& path, const std::string& stream, std::string_view content,
                               uint64_t offset) {
  Change(path, [&](ntfs_inode* inode, ntfs_inode*) {
    std::u16string name = Utf16(stream);
    auto* units = reinterpret_cast<ntfschar*>(name.data());
    const auto count = static_cast<u32>(name.size());
    if (count > 0 && !ntfs_attr_exist(inode, AT_DATA, units, count)) {
      ASSERT_EQ(ntfs_attr_add(inode, AT_DATA, units, static_cast<u8>(count), nullptr, 0), 0);
    }
    ntfs_attr* attribute = ntfs_attr_open(inode, AT_DATA, count == 0 ? AT_UNNAMED : units, count);
    ASSERT_NE(attribute, nullptr);
    for (size_t done = 0; done < content.size();) {
      const s64 put = ntfs_attr_pwrite(attribute, static_cast<s64>(offset + done),
                                       static_cast<s64>(content.size() - done), content.data() + done);
      ASSERT_GT(put, 0);
      done += static_cast<size_t>(put);
    }
    ntfs_attr_pclose(attribute);
    ntfs_attr_close(attribute);
  });
}

void VolumeFiller::Resize(const std::string& path, uint64_t size) {
  Change(path, [&](ntfs_inode* inode, ntfs_inode*) {
    ntfs_attr* attribute = ntfs_attr_open(inode, AT_DATA, AT_UNNAMED, 0);
    ASSERT_NE(attribute, nullptr);
    EXPECT_EQ(ntfs_attr_truncate(attribute, static_cast<s64>(size)), 0);
    ntfs_attr_close(attribute);
  });
}

void VolumeFiller::Change(const std::string& path, const std::function<void(ntfs_inode*, ntfs_inode*)>& change) {
  ntfs_inode* inode = Open(path);
  const std::string parent_path = std::filesystem::path(path).parent_path();
  ntfs_inode* parent = path == "/" ? nullptr : Open(parent_path);
  change(inode, parent);
  if (parent != nullptr) {
    EXPECT_EQ(ntfs_inode_close(parent), 0);
  }
  EXPECT_EQ(ntfs_inode_close(inode), 0);
}

// The library closes both inodes.
void VolumeFiller::SetShortName(const std::string& path, const std::string& name) {
  ntfs_inode* inode = Open(path);
  ntfs_inode* parent = Open(std::filesystem::path(path).parent_path());
  EXPECT_EQ(ntfs_set_ntfs_dos_name(inode, parent, name.data(), name.size(), 0), 0) << strerror(errno);
}

void VolumeFiller::SetReparsePoint(const std::string& path, uint32_t tag, std::string_view data) {
  std::string point;
  AppendLe(tag, point);
  AppendLe(static_cast<uint16_t>(data.size()), point);
  AppendLe(uint16_t{0}, point);
  point += data;
  Change(path, [&](ntfs_inode* inode, ntfs_inode*) {
    EXPECT_EQ(ntfs_set_ntfs_reparse_data(inode, point.data(), point.size(), 0), 0) << strerror(errno);
  });
}

std::u16string Utf16(std::string_view ascii) { return {ascii.begin(), ascii.end()}; }

namespace {
std::string LinkData(std::string_view target, std::string_view flags) {
  const std::string name = *Wtf8ToUtf16Le(target);
  std::string data;
  AppendLe(uint16_t{0}, data);
  AppendLe(static_cast<uint16_t>(name.size()), data);
  AppendLe(static_cast<uint16_t>(name.size()), data);
  AppendLe(static_cast<uint16_t>(name.size()), data);
  return data + std::string(flags) + name + name;
}
}  // namespace

std::string SymlinkData(std::string_view target, bool relative) {
  return LinkData(target, std::string_view(relative ? "\1\0\0\0" : "\0\0\0\0", 4));
}

std::string JunctionData(std::string_view target) { return LinkData(target, {}); }

std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 generator(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(generator());
  return bytes;
}

std::string Sha1(std::string_view bytes) {
  uint8_t hash[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), hash);
  std::string text;
  for (uint8_t byte : hash) {
    char digits[3];
    snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text;
}

std::string RunCommand(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  std::string output;
  char buffer[65536];
  size_t got = 0;
  while (pipe != nullptr && (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0) output.append(buffer, got);
  const int status = pipe == nullptr ? -1 : pclose(pipe);
  EXPECT_EQ(status, 0) << command << "\n" << output.substr(0, 2000);
  return output;
}

NodeId Find(const FileTree& tree, const std::string& path) {
  NodeId node = kRootNode;
  for (const auto& component : std::filesystem::path(path).relative_path()) {
    ErrnoOr<LookupResult> found = tree.Lookup(node, component.string());
    if (!found.ok()) return 0;
    node = found->attributes.node;
  }
  return node;
}

std::string ReadAll(const FileTree& tree, NodeId node, size_t step) {
  std::string all;
  std::string buffer(step, '\0');
  while (true) {
    ErrnoOr<size_t> got = tree.Read(node, all.size(), absl::MakeSpan(buffer));
    if (!got.ok()) return "error " + std::to_string(got.error());
    all.append(buffer, 0, *got);
    if (*got < step) return all;
  }
}

std::vector<std::string> List(const FileTree& tree, NodeId directory) {
  std::vector<std::string> names;
  EXPECT_EQ(tree.ReadDirectory(directory, 0,
                               [&](const DirectoryEntry& entry) {
                                 names.emplace_back(entry.name);
                                 return true;
                               }),
            0);
  return names;
}

namespace {

constexpr size_t kMaxWalkDepth = 64;
constexpr uint64_t kMaxWalkRead = 64 << 20;

void WalkInto(const FileTree& tree, NodeId directory, const std::string& path, size_t depth,
              std::map<std::string, Seen>& out) {
  if (depth > kMaxWalkDepth) return;
  uint64_t cookie = 0;
  bool more = true;
  while (more) {
    more = false;
    std::vector<std::pair<std::string, NodeAttributes>> some;
    tree.ReadDirectory(directory, cookie, [&](const DirectoryEntry& entry) {
      some.emplace_back(std::string(entry.name), entry.attributes);
      cookie = entry.next_cookie;
      more = some.size() >= 7;  // several calls for most directories
      return !more;
    });
    for (const auto& [name, attributes] : some) {
      Seen seen{attributes, {}};
      const std::string full = path + "/" + name;
      if (S_ISREG(attributes.mode) && attributes.size <= kMaxWalkRead) seen.content = ReadAll(tree, attributes.node);
      if (S_ISLNK(attributes.mode)) {
        ErrnoOr<std::string> target = tree.ReadLink(attributes.node);
        seen.content = target.ok() ? *target : "error " + std::to_string(target.error());
      }
      const bool first = out.emplace(full, std::move(seen)).second;
      if (S_ISDIR(attributes.mode) && first) WalkInto(tree, attributes.node, full, depth + 1, out);
    }
  }
}

}  // namespace

std::map<std::string, Seen> Walk(const FileTree& tree) {
  std::map<std::string, Seen> all;
  WalkInto(tree, kRootNode, "", 0, all);
  return all;
}

}  // namespace libmount
