// SPDX-License-Identifier: GPL-3.0-or-later
#include "tests/unit/wim_format_test_util.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <wimlib.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/wim/image_metadata.h"
#include "libmount/wim/sha1.h"

namespace libmount {
namespace {

absl::StatusOr<UniqueFd> OpenForReading(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return absl::NotFoundError(path);
  return fd;
}

std::string DirectoryOf(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

timespec Time(const wimlib_timespec& time) {
  timespec result;
  result.tv_sec = time.tv_sec;
  result.tv_nsec = time.tv_nsec;
  return result;
}

bool operator==(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

// Windows time as in system.ntfs_times.
timespec FromTicks(uint64_t ticks) {
  timespec result;
  result.tv_sec = static_cast<int64_t>(ticks / 10'000'000) - 11'644'473'600;
  result.tv_nsec = static_cast<int64_t>(ticks % 10'000'000) * 100;
  return result;
}

bool IsZero(const uint8_t (&hash)[20]) {
  static constexpr uint8_t kZero[20] = {};
  return memcmp(hash, kZero, sizeof kZero) == 0;
}

// One walk through an image by wimlib, each entry compared with the tree.
class Comparison {
 public:
  Comparison(const FileTree& tree, bool contents) : tree_(tree), contents_(contents) {}

  void Compare(const wimlib_dir_entry& entry);
  size_t compared() const { return compared_; }

 private:
  void CompareAttributes(const wimlib_dir_entry& entry, const NodeAttributes& attributes);
  void CompareXattrs(const wimlib_dir_entry& entry, NodeId node);
  void CompareStreams(const wimlib_dir_entry& entry, const std::string& path, const NodeAttributes& attributes);
  void CompareData(const wimlib_resource_entry& resource, const std::string& data);
  std::string Xattr(NodeId node, const char* name);

  const FileTree& tree_;
  const bool contents_;
  size_t compared_ = 0;
  std::map<uint64_t, NodeId> groups_;
};

void Comparison::Compare(const wimlib_dir_entry& entry) {
  const std::string path = entry.full_path + 1;  // without the slash
  SCOPED_TRACE(path);
  ++compared_;
  const NodeId node = FindPath(tree_, path);
  ASSERT_NE(node, 0u);
  ErrnoOr<NodeAttributes> attributes = tree_.GetAttributes(node);
  ASSERT_TRUE(attributes.ok());
  EXPECT_EQ(attributes->node, node);
  CompareAttributes(entry, *attributes);
  CompareXattrs(entry, node);
  CompareStreams(entry, path, *attributes);
  if (entry.hard_link_group_id != 0) {
    EXPECT_EQ(groups_.try_emplace(entry.hard_link_group_id, node).first->second, node);
  }
}

void Comparison::CompareAttributes(const wimlib_dir_entry& entry, const NodeAttributes& attributes) {
  EXPECT_TRUE(Time(entry.last_access_time) == attributes.access_time);
  EXPECT_TRUE(Time(entry.last_write_time) == attributes.modification_time);
  const bool link =
      (entry.attributes & WIMLIB_FILE_ATTRIBUTE_REPARSE_POINT) &&
      (entry.reparse_tag == WIMLIB_REPARSE_TAG_SYMLINK || entry.reparse_tag == WIMLIB_REPARSE_TAG_MOUNT_POINT ||
       entry.reparse_tag == kReparseLxSymlink);
  const bool directory = !link && (entry.attributes & WIMLIB_FILE_ATTRIBUTE_DIRECTORY);
  EXPECT_EQ(S_ISDIR(attributes.mode), directory);
  EXPECT_EQ(S_ISLNK(attributes.mode), link);
  if (!directory) {
    EXPECT_EQ(attributes.link_count, entry.num_links);
  }
  if (entry.unix_mode != 0) {
    EXPECT_EQ(attributes.uid, entry.unix_uid);
    EXPECT_EQ(attributes.gid, entry.unix_gid);
    EXPECT_EQ(attributes.device, entry.unix_rdev);
    EXPECT_EQ(attributes.mode, link ? S_IFLNK | 0777 : entry.unix_mode);
  }
}

std::string Comparison::Xattr(NodeId node, const char* name) {
  ErrnoOr<std::string> value = tree_.GetXattr(node, name);
  if (value.ok()) return *std::move(value);
  EXPECT_EQ(value.error(), ENODATA) << name;
  return {};
}

void Comparison::CompareXattrs(const wimlib_dir_entry& entry, NodeId node) {
  const std::string attrib = Xattr(node, "system.ntfs_attrib");
  ASSERT_EQ(attrib.size(), 4u);
  EXPECT_EQ(LoadLe32(attrib.data()), entry.attributes == 0 ? WIMLIB_FILE_ATTRIBUTE_NORMAL : entry.attributes);
  const std::string times = Xattr(node, "system.ntfs_times");
  ASSERT_EQ(times.size(), 32u);
  EXPECT_TRUE(FromTicks(LoadLe64(times.data())) == Time(entry.creation_time));
  EXPECT_TRUE(FromTicks(LoadLe64(times.data() + 8)) == Time(entry.last_write_time));
  EXPECT_TRUE(FromTicks(LoadLe64(times.data() + 16)) == Time(entry.last_access_time));
  EXPECT_EQ(Xattr(node, "system.ntfs_crtime"), times.substr(0, 8));
  EXPECT_EQ(Xattr(node, "system.ntfs_acl"),
            entry.security_descriptor == nullptr
                ? std::string()
                : std::string(entry.security_descriptor, entry.security_descriptor_size));
  if (entry.num_links == 1) {
    EXPECT_EQ(Xattr(node, "system.ntfs_dos_name"), entry.dos_name == nullptr ? "" : entry.dos_name);
  }
  const std::string object_id = Xattr(node, "system.ntfs_object_id");
  std::string wanted_id(reinterpret_cast<const char*>(&entry.object_id), sizeof entry.object_id);
  if (wanted_id.find_first_not_of('\0') == wanted_id.npos) wanted_id.clear();
  EXPECT_EQ(object_id, wanted_id.substr(0, object_id.empty() ? wanted_id.size() : object_id.size()));
}

void Comparison::CompareData(const wimlib_resource_entry& resource, const std::string& data) {
  EXPECT_EQ(data.size(), resource.uncompressed_size);
  if (IsZero(resource.sha1_hash)) return;
  const Sha1Digest digest = Sha1::Of(data);
  EXPECT_EQ(memcmp(digest.data(), resource.sha1_hash, digest.size()), 0) << "the data has another SHA-1";
}

void Comparison::CompareStreams(const wimlib_dir_entry& entry, const std::string& path,
                                const NodeAttributes& attributes) {
  if (entry.attributes & WIMLIB_FILE_ATTRIBUTE_REPARSE_POINT) {
    const std::string reparse = Xattr(attributes.node, "system.ntfs_reparse_data");
    ASSERT_GE(reparse.size(), 8u);
    EXPECT_EQ(LoadLe32(reparse.data()), entry.reparse_tag);
    EXPECT_EQ(LoadLe16(reparse.data() + 4), reparse.size() - 8);
    CompareData(entry.streams[0].resource, reparse.substr(8));
  } else if (S_ISREG(attributes.mode)) {
    EXPECT_EQ(attributes.size, entry.streams[0].resource.uncompressed_size);
    if (contents_) CompareData(entry.streams[0].resource, ReadAll(tree_, attributes.node));
  }
  for (uint32_t i = 1; i <= entry.num_named_streams; ++i) {
    const std::string stream = entry.streams[i].stream_name;
    const NodeId node = FindPath(tree_, path + ":" + stream);
    ASSERT_NE(node, 0u) << stream;
    const std::string data = ReadAll(tree_, node);
    CompareData(entry.streams[i].resource, data);
    ErrnoOr<std::string> xattr = tree_.GetXattr(attributes.node, "user." + stream);
    if (data.size() <= 65536) {
      ASSERT_TRUE(xattr.ok()) << stream;
      EXPECT_EQ(*xattr, data);
    } else {
      EXPECT_EQ(xattr.error(), E2BIG);
    }
  }
}

size_t CountEntries(const FileTree& tree) {
  size_t count = 1;  // the root
  std::vector<NodeId> directories = {kRootNode};
  for (size_t i = 0; i < directories.size(); ++i) {
    int error = tree.ReadDirectory(directories[i], 0, [&](const DirectoryEntry& entry) {
      ++count;
      if (S_ISDIR(entry.attributes.mode)) directories.push_back(entry.attributes.node);
      return true;
    });
    EXPECT_EQ(error, 0);
  }
  return count;
}

}  // namespace

TempDirectory::TempDirectory() {
  const char* parent = getenv("TMPDIR");
  path_ = std::string(parent == nullptr ? "/tmp" : parent) + "/wim_format.XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) abort();
}

TempDirectory::~TempDirectory() { std::filesystem::remove_all(path_); }

void WriteFile(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  ASSERT_TRUE(file.good()) << path;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

void RecordingObserver::OnDamage(std::string_view path, std::string_view) {
  std::lock_guard lock(mutex_);
  damaged_.emplace_back(path);
}

void RecordingObserver::OnImageChanged(std::string_view) {
  std::lock_guard lock(mutex_);
  ++changes_;
}

std::vector<std::string> RecordingObserver::damaged() {
  std::lock_guard lock(mutex_);
  return damaged_;
}

int RecordingObserver::changes() {
  std::lock_guard lock(mutex_);
  return changes_;
}

absl::StatusOr<std::unique_ptr<WimFile>> OpenWimFile(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  const std::string directory = DirectoryOf(path);
  NullMonitor monitor;
  return WimFile::Open(
      *std::move(fd), path.substr(directory.size()),
      [&directory](std::string_view name) { return OpenForReading(directory + std::string(name)); }, monitor);
}

absl::StatusOr<std::unique_ptr<WimTree>> OpenWimTree(const std::string& path, uint32_t index,
                                                     const WimTreeOptions& options) {
  absl::StatusOr<std::unique_ptr<WimFile>> wim = OpenWimFile(path);
  if (!wim.ok()) return wim.status();
  NullMonitor monitor;
  return (*wim)->OpenTree(index, options, monitor);
}

void MakeWim(const std::string& source, const std::string& wim, const WimMaking& making) {
  WIMStruct* handle = nullptr;
  ASSERT_EQ(wimlib_create_new_wim(static_cast<wimlib_compression_type>(making.compression), &handle), 0);
  if (making.chunk_size != 0) {
    EXPECT_EQ(wimlib_set_output_chunk_size(handle, making.chunk_size), 0);
  }
  EXPECT_EQ(wimlib_add_image(handle, source.c_str(), "image", nullptr, making.add_flags), 0);
  EXPECT_EQ(wimlib_write(handle, wim.c_str(), WIMLIB_ALL_IMAGES, making.write_flags, 1), 0);
  wimlib_free(handle);
}

NodeId FindPath(const FileTree& tree, std::string_view path) {
  NodeId node = kRootNode;
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    ErrnoOr<LookupResult> found = tree.Lookup(node, path.substr(0, slash));
    if (!found.ok()) return 0;
    EXPECT_TRUE(found->exact) << path;
    node = found->attributes.node;
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return node;
}

std::string ReadAll(const FileTree& tree, NodeId node) {
  ErrnoOr<NodeAttributes> attributes = tree.GetAttributes(node);
  EXPECT_TRUE(attributes.ok());
  if (!attributes.ok()) return {};
  // Some more than the file has, to see that it ends where it should.
  std::string data(attributes->size + 100, '\0');
  ErrnoOr<size_t> size = tree.Read(node, 0, absl::MakeSpan(data));
  EXPECT_TRUE(size.ok()) << "errno " << size.error();
  data.resize(size.ok() ? *size : 0);
  return data;
}

size_t CompareWithWimlib(const std::string& path, uint32_t index, bool contents) {
  SCOPED_TRACE(path + ":" + std::to_string(index));
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(path, index);
  EXPECT_TRUE(tree.ok()) << tree.status();
  if (!tree.ok()) return 0;
  WIMStruct* wim = nullptr;
  EXPECT_EQ(wimlib_open_wim(path.c_str(), 0, &wim), 0);
  if (wim == nullptr) return 0;
  const size_t stem = path.rfind('.');
  const std::string glob = path.substr(0, stem) + "[0-9]*" + path.substr(stem);
  if (path.substr(stem) == ".swm") {
    const char* globs[] = {glob.c_str()};
    EXPECT_EQ(wimlib_reference_resource_files(wim, globs, 1, WIMLIB_REF_FLAG_GLOB_ENABLE, 0), 0);
  }
  Comparison comparison(**tree, contents);
  auto visit = [](const wimlib_dir_entry* entry, void* context) {
    static_cast<Comparison*>(context)->Compare(*entry);
    return 0;
  };
  EXPECT_EQ(wimlib_iterate_dir_tree(wim, static_cast<int>(index), WIMLIB_WIM_ROOT_PATH,
                                    WIMLIB_ITERATE_DIR_TREE_FLAG_RECURSIVE, visit, &comparison),
            0);
  wimlib_free(wim);
  EXPECT_EQ(CountEntries(**tree), comparison.compared());
  return comparison.compared();
}

}  // namespace libmount
