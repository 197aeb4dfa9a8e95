// SPDX-License-Identifier: GPL-3.0-or-later
#include "tests/unit/wim_commit_test_util.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <wimlib.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <regex>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/wim/image_metadata.h"
#include "libmount/wim/metadata_writer.h"
#include "libmount/wim/resource_reader.h"
#include "tests/unit/wim_format_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kSomeTime = 0x01d9'0000'1234'5678;

std::string_view LastPart(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string Hex(std::string_view bytes) { return absl::BytesToHexString({bytes.data(), bytes.size()}); }
std::string Hex(const BlobHash& hash) {
  return Hex(std::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

std::string DescribeFile(const ImageContents::File& file, std::string_view short_name, const std::string& first_path) {
  const FileRecord& record = file.record;
  std::string text =
      absl::StrCat("first ", first_path, " short ", Hex(short_name), " dir ", file.is_directory, " attributes ",
                   record.attributes, " times ", record.creation_time, " ", record.access_time, " ", record.write_time,
                   " security ", Hex(record.security_descriptor), " unknown ", record.unknown_field);
  if (record.attributes & kAttributeReparsePoint) {
    absl::StrAppend(&text, " reparse ", record.reparse_tag, " ", record.reparse_reserved, " ", record.reparse_flags,
                    " ", Hex(record.reparse_hash), " ", record.reparse_size);
  }
  // Where the tree gives UNIX data, it is in the tagged items once it is written.
  std::string tagged = record.unix_data ? WithUnixData(record.tagged_items, *record.unix_data) : record.tagged_items;
  absl::StrAppend(&text, " tagged ", Hex(tagged));
  for (const StreamRecord& stream : record.streams) {
    absl::StrAppend(&text, " stream ", stream.name, " ", stream.size, " ", Hex(stream.hash));
  }
  return text;
}

int Run(const std::string& command) { return system((command + " >/dev/null 2>&1").c_str()); }

void CheckReferences(const std::string& path) {
  WimSource source;
  NullMonitor monitor;
  ASSERT_TRUE(source.AddPart(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC)), path).ok());
  absl::StatusOr<WimHeader> header = ReadWimHeader(source, 1);
  ASSERT_TRUE(header.ok()) << header.status();
  std::string table(header->blob_table.size, '\0');
  ASSERT_TRUE(source.Read(1, header->blob_table.offset, absl::MakeSpan(table)).ok());
  absl::StatusOr<BlobTable> blobs = BlobTable::Load(source, {*header}, monitor);
  ASSERT_TRUE(blobs.ok()) << blobs.status();
  std::map<std::string, uint64_t> wanted;
  for (const BlobTable::Metadata& metadata : blobs->metadata()) {
    absl::StatusOr<ChunkBuffer> bytes = ReadWholeResource(source, metadata.location, kMaxMetadataSize, monitor);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    absl::StatusOr<ImageMetadata> image = ParseMetadata(bytes->span(), *blobs, path, monitor);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ(image->dropped_entries, 0u);
    for (const auto& [hash, count] : CountReferences(*image, *blobs)) wanted[Hex(hash)] += count;
  }
  std::set<std::string> seen;
  for (size_t at = 0; at + 50 <= table.size(); at += 50) {
    if (static_cast<uint8_t>(table[at + 7]) & kResourceMetadata) continue;
    const std::string hash = Hex(std::string_view(table).substr(at + 30, 20));
    EXPECT_TRUE(seen.insert(hash).second) << hash << " is listed twice";
    EXPECT_EQ(LoadLe32(table.data() + at + 26), wanted[hash]) << hash;
  }
}

void FillDirectory(const std::string& root) {
  std::filesystem::create_directories(root + "/dir/sub/empty");
  WriteFile(root + "/empty file", "");
  const size_t sizes[] = {1, 100, 4096, 32767, 32768, 32769, 100'000, 400'000};
  for (size_t size : sizes) WriteFile(root + "/dir/" + std::to_string(size), Words(size, static_cast<uint32_t>(size)));
  for (uint32_t i = 0; i < 30; ++i) WriteFile(root + "/dir/sub/small" + std::to_string(i), Words(300 + i, i));
  WriteFile(root + "/dir/same", Words(4096, 4096));
  WriteFile(root + "/noise", Noise(70'000, 1));
  ASSERT_EQ(link((root + "/dir/4096").c_str(), (root + "/dir/sub/hard link").c_str()), 0);
  ASSERT_EQ(symlink("../4096", (root + "/dir/sub/relative").c_str()), 0);
  ASSERT_EQ(symlink("/dir/sub", (root + "/dir/absolute").c_str()), 0);
}

// Of a relative symbolic link.
std::string LinkData(std::string_view target) {
  const std::string name = *Wtf8ToUtf16Le(target);
  const uint16_t size = static_cast<uint16_t>(name.size());
  std::string data;
  for (uint16_t number : {uint16_t{0}, size, size, size, uint16_t{1}, uint16_t{0}}) AppendLe(number, data);
  return data + name + name;
}

}  // namespace

EditedImage::EditedImage(const BaseImage& base) : last_(base.LastNode()) {
  std::vector<NodeId> pending = {kRootNode};
  while (!pending.empty()) {
    const NodeId id = pending.back();
    pending.pop_back();
    if (nodes_.count(id) > 0) continue;
    ErrnoOr<FileRecord> record = base.GetFileRecord(id);
    EXPECT_TRUE(record.ok());
    Node& node = nodes_[id];
    node.file.record = *std::move(record);
    node.file.staged.resize(node.file.record.streams.size());
    node.data.resize(node.file.record.streams.size());
    const int error = base.VisitEntries(id, [&](const BaseImage::Entry& entry) {
      directories_[id].push_back({std::string(entry.name), std::string(entry.short_name), entry.node});
      pending.push_back(entry.node);
      return true;
    });
    node.file.is_directory = error == 0;
    if (error == 0) directories_[id];
  }
}

void EditedImage::VisitEntries(NodeId directory, EntryVisitor visitor) const {
  for (const Name& name : directories_.at(directory)) visitor({name.name, name.short_name, name.node});
}

absl::Status EditedImage::ReadStaged(NodeId file, size_t stream, uint64_t offset, absl::Span<char> out) const {
  const std::string& data = nodes_.at(file).data.at(stream);
  EXPECT_LE(offset + out.size(), data.size());
  memcpy(out.data(), data.data() + offset, out.size());
  return absl::OkStatus();
}

uint64_t EditedImage::staged_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [id, node] : nodes_) {
    for (const std::string& data : node.data) bytes += data.size();
  }
  return bytes;
}

NodeId EditedImage::Find(std::string_view path) const {
  NodeId node = kRootNode;
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, slash);
    const std::vector<Name>& names = directories_.at(node);
    auto found = std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.name == part; });
    if (found == names.end()) {
      ADD_FAILURE() << path;
      return 0;
    }
    node = found->node;
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return node;
}

std::vector<EditedImage::Name>& EditedImage::DirectoryOf(std::string_view path) {
  const size_t slash = path.rfind('/');
  return directories_.at(Find(slash == path.npos ? std::string_view() : path.substr(0, slash)));
}

EditedImage::Name& EditedImage::NameOf(std::string_view path) {
  std::vector<Name>& names = DirectoryOf(path);
  return *std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.name == LastPart(path); });
}

NodeId EditedImage::NewNode(uint32_t attributes) {
  const NodeId id = ++last_;
  FileRecord& record = nodes_[id].file.record;
  record.attributes = attributes;
  record.creation_time = record.access_time = record.write_time = kSomeTime;
  record.security_descriptor = nodes_.at(kRootNode).file.record.security_descriptor;
  return id;
}

NodeId EditedImage::AddFile(std::string_view path, std::string data) {
  const NodeId id = NewNode(0x20);
  nodes_[id].file.record.streams.push_back({});
  nodes_[id].file.staged.push_back(false);
  nodes_[id].data.emplace_back();
  DirectoryOf(path).push_back({std::string(LastPart(path)), "", id});
  SetData(path, std::move(data));
  return id;
}

NodeId EditedImage::AddDirectory(std::string_view path) {
  const NodeId id = NewNode(kAttributeDirectory);
  nodes_[id].file.is_directory = true;
  directories_[id];
  DirectoryOf(path).push_back({std::string(LastPart(path)), "", id});
  return id;
}

void EditedImage::Link(std::string_view path, std::string_view new_path) {
  const NodeId node = Find(path);
  DirectoryOf(new_path).push_back({std::string(LastPart(new_path)), "", node});
}

void EditedImage::Remove(std::string_view path) {
  std::vector<Name>& names = DirectoryOf(path);
  names.erase(std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.name == LastPart(path); }));
}

void EditedImage::Rename(std::string_view path, std::string_view new_path) {
  Name name = NameOf(path);
  Remove(path);
  name.name = LastPart(new_path);
  DirectoryOf(new_path).push_back(std::move(name));
}

void EditedImage::SetData(std::string_view path, std::string data) {
  Node& node = nodes_.at(Find(path));
  node.file.record.streams.at(0).size = data.size();
  node.file.record.streams.at(0).hash = {};
  node.file.staged.at(0) = true;
  node.data.at(0) = std::move(data);
}

void EditedImage::SetStream(std::string_view path, std::string_view stream, std::string data) {
  Node& node = nodes_.at(Find(path));
  node.file.record.streams.push_back({std::string(stream), data.size(), {}});
  node.file.staged.push_back(true);
  node.data.push_back(std::move(data));
}

void EditedImage::SetReparse(std::string_view path, uint32_t tag, std::string data) {
  Node& node = nodes_.at(Find(path));
  node.file.record.attributes |= kAttributeReparsePoint;
  node.file.record.reparse_tag = tag;
  node.file.staged_reparse = true;
  node.file.reparse_data = std::move(data);
}

void EditedImage::SetShortName(std::string_view path, std::string_view short_name) {
  NameOf(path).short_name = short_name;
}

void EditedImage::Apply(const std::vector<StoredFile>& stored) {
  for (const StoredFile& done : stored) {
    File& file = nodes_.at(done.node).file;
    ASSERT_EQ(done.stream_hashes.size(), file.record.streams.size());
    for (size_t i = 0; i < done.stream_hashes.size(); ++i) file.record.streams[i].hash = done.stream_hashes[i];
    file.record.reparse_hash = done.reparse_hash;
    if (file.staged_reparse) file.record.reparse_size = file.reparse_data.size();
  }
}

std::map<std::string, std::string> Describe(const ImageContents& contents) {
  std::map<std::string, std::string> result;
  std::map<NodeId, std::string> first_paths;
  std::function<void(NodeId, const std::string&, std::string_view)> describe = [&](NodeId node, const std::string& path,
                                                                                   std::string_view short_name) {
    const ImageContents::File file = contents.GetFile(node);
    // A WIM cannot say that two names are of one reparse point.
    const bool linked = !(file.record.attributes & kAttributeReparsePoint);
    const std::string first = linked ? first_paths.try_emplace(node, path).first->second : path;
    result[path] = DescribeFile(file, short_name, first);
    if (!file.is_directory) return;
    std::vector<std::pair<std::string, std::pair<std::string, NodeId>>> entries;
    contents.VisitEntries(node, [&](const ImageContents::Entry& entry) {
      entries.push_back({std::string(entry.name), {std::string(entry.short_name), entry.node}});
    });
    // First paths must not depend on the order in the image.
    std::sort(entries.begin(), entries.end());
    for (const auto& [name, rest] : entries) describe(rest.second, path + "/" + name, rest.first);
  };
  describe(kRootNode, "", "");
  return result;
}

std::map<std::string, std::string> Describe(const std::string& wim, uint32_t index) {
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(wim, index);
  EXPECT_TRUE(tree.ok()) << tree.status();
  if (!tree.ok()) return {};
  return Describe(EditedImage(*(*tree)->base_image()));
}

void CheckWim(const std::string& path) {
  SCOPED_TRACE(path);
  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(path);
  ASSERT_TRUE(file.ok()) << file.status();
  NullMonitor monitor;
  absl::Status integrity = (*file)->CheckIntegrity(monitor);
  EXPECT_TRUE(integrity.ok()) << integrity;
  WIMStruct* wim = nullptr;
  ASSERT_EQ(wimlib_open_wim(path.c_str(), WIMLIB_OPEN_FLAG_CHECK_INTEGRITY, &wim), 0);
  EXPECT_EQ(wimlib_verify_wim(wim, 0), 0);
  wimlib_free(wim);
  EXPECT_EQ(Run("7zz t '" + path + "'"), 0);
  for (const ImageInfo& image : (*file)->images()) {
    CompareWithWimlib(path, image.index);
  }
  CheckReferences(path);
}

std::string StableXml(const std::string& path) {
  WIMStruct* wim = nullptr;
  EXPECT_EQ(wimlib_open_wim(path.c_str(), 0, &wim), 0);
  void* data = nullptr;
  size_t size = 0;
  EXPECT_EQ(wimlib_get_xml_data(wim, &data, &size), 0);
  std::string xml = Utf16LeToWtf8({static_cast<char*>(data), size});
  free(data);
  wimlib_free(wim);
  xml = std::regex_replace(xml, std::regex("<LASTMODIFICATIONTIME>.*?</LASTMODIFICATIONTIME>"), "");
  return std::regex_replace(xml, std::regex("(<WIM>|</IMAGE>)<TOTALBYTES>.*?</TOTALBYTES>"), "$1");
}

std::string MetadataOf(const std::string& path, uint32_t index) {
  WimSource source;
  NullMonitor monitor;
  EXPECT_TRUE(source.AddPart(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC)), path).ok());
  absl::StatusOr<WimHeader> header = ReadWimHeader(source, 1);
  EXPECT_TRUE(header.ok()) << header.status();
  if (!header.ok()) return {};
  absl::StatusOr<BlobTable> blobs = BlobTable::Load(source, {*header}, monitor);
  EXPECT_TRUE(blobs.ok()) << blobs.status();
  if (!blobs.ok() || index > blobs->metadata().size()) return {};
  absl::StatusOr<ChunkBuffer> bytes =
      ReadWholeResource(source, blobs->metadata()[index - 1].location, kMaxMetadataSize, monitor);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? std::string(bytes->data(), bytes->size()) : std::string();
}

void ExpectSameMetadata(const std::string& a, const std::string& b) {
  constexpr size_t kMostDifferences = 8;
  ASSERT_EQ(a.size(), b.size());
  size_t differences = 0;
  for (size_t i = 0; i < a.size(); ++i) differences += a[i] != b[i];
  EXPECT_LE(differences, kMostDifferences);
}

absl::StatusOr<WimCommitResult> CommitTo(const std::string& path, uint32_t index, const ImageContents& contents,
                                         const WimCommitOptions& options, OperationMonitor* monitor) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return absl::NotFoundError(path);
  NullMonitor nobody;
  return CommitImage(fd.get(), path, index, contents, options, monitor == nullptr ? nobody : *monitor);
}

// Three images of one directory, the second with some more.
void MakeThreeImages(const TempDirectory& directory, const std::string& wim, const WimMaking& making) {
  const std::string root = directory.Path("root");
  FillDirectory(root);
  MakeWim(root, wim, making);
  WIMStruct* handle = nullptr;
  ASSERT_EQ(wimlib_open_wim(wim.c_str(), WIMLIB_OPEN_FLAG_WRITE_ACCESS, &handle), 0);
  WriteFile(root + "/dir/only in second", Words(50'000, 77));
  ASSERT_EQ(wimlib_add_image(handle, root.c_str(), "second <&>", nullptr, making.add_flags), 0);
  ASSERT_EQ(wimlib_overwrite(handle, making.write_flags & WIMLIB_WRITE_FLAG_CHECK_INTEGRITY, 1), 0);
  std::filesystem::remove(root + "/dir/32768");
  ASSERT_EQ(wimlib_add_image(handle, root.c_str(), "third", nullptr, making.add_flags), 0);
  ASSERT_EQ(wimlib_set_image_property(handle, 2, "WINDOWS/ARCH", "9"), 0);
  ASSERT_EQ(wimlib_set_image_property(handle, 2, "UNKNOWN/THING", "kept"), 0);
  ASSERT_EQ(wimlib_overwrite(handle, making.write_flags & WIMLIB_WRITE_FLAG_CHECK_INTEGRITY, 1), 0);
  wimlib_free(handle);
}

EditedImage ImageOf(const std::string& wim, uint32_t index) {
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(wim, index);
  EXPECT_TRUE(tree.ok()) << tree.status();
  return EditedImage(*(*tree)->base_image());
}

// Some of everything that can be changed. `unix_data`: whether the image has it.
void Edit(EditedImage& image, bool unix_data) {
  image.AddFile("new", Words(123'456, 5));
  image.AddFile("new again", Words(123'456, 5));                 // the same content twice
  image.AddFile("copy of an old one", Words(100'000, 100'000));  // content that the file has
  image.AddFile("new noise", Noise(200'000, 6));
  image.AddFile("new and empty", "");
  image.AddFile("large", Words(3'000'000, 8));
  image.AddFile("large again", Words(3'000'000, 8));
  image.AddFile("large and different", Words(3'000'000, 9));
  image.AddDirectory("new dir");
  image.AddDirectory("new dir/inner");
  image.AddFile("new dir/inner/\xe6\x96\x87 \xed\xa0\xbd", Words(10, 1));  // an unpaired surrogate
  for (uint32_t i = 0; i < 200; ++i) image.AddFile("new dir/" + std::to_string(i), Words(100 + i, 1000 + i));
  image.Link("new", "new dir/linked");
  image.Link("dir/1", "dir/sub/one");
  image.SetData("dir/100", Words(5000, 44));
  image.SetData("dir/32769", "");
  image.Remove("dir/sub/small3");
  image.Remove("dir/sub/hard link");
  image.Remove("dir/sub/empty");
  image.Rename("dir/sub/small4", "moved");
  image.SetStream("dir/100", "stream", "a named stream");
  image.SetStream("dir/100", "large stream", Words(90'000, 55));
  image.SetStream("new dir", "of a directory", "data");
  image.AddFile("link", "");
  image.SetReparse("link", kReparseSymlink, LinkData("dir\\100"));
  image.SetShortName("new again", "NEWAGA~1");
  image.Record("dir/32767").attributes |= kAttributeReadOnly;
  image.Record("dir/32767").security_descriptor = std::string("\1\0\4\x80", 4) + std::string(16, '\0');
  image.Record("dir/32767").write_time += 7;
  image.Record("dir/sub/small5").tagged_items +=
      std::string("\x01\0\0\0\x10\0\0\0", 8) + std::string("0123456789abcdef");
  image.Record("dir/sub/small6").tagged_items += std::string("\x77\0\0\0\x08\0\0\0unknown!", 16);
  image.Record("dir/sub/small7").unknown_field = 0x1234;
  if (unix_data) image.Record("dir/sub/small8").unix_data = UnixFileData{12, 34, 0100640, 0};
}

std::string Words(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string data;
  data.reserve(size + 32);
  while (data.size() < size)
    absl::StrAppend(&data, random() % 10000, random() % 4 == 0 ? " and so on and so forth\n" : " ");
  data.resize(size);
  return data;
}

std::string Noise(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string data(size, '\0');
  for (char& byte : data) byte = static_cast<char>(random());
  return data;
}

}  // namespace libmount
