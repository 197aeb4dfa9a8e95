// SPDX-License-Identifier: GPL-3.0-or-later
#include "tests/unit/block_test_util.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <vector>

#include "libmount/base/reason.h"

namespace libmount {
namespace {

// The lines of vhdiinfo, "Disk type" -> "Fixed" and so on. Fails the test where it cannot read the file.
std::map<std::string, std::string> AskLibvhdi(const std::string& path) {
  std::string output;
  EXPECT_EQ(RunCommand("vhdiinfo '" + path + "'", &output), 0) << output;
  std::map<std::string, std::string> facts;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(": ");
    if (line.empty() || line[0] != '\t' || colon == line.npos) continue;
    const size_t name_end = line.find_last_not_of("\t ", colon - 1);
    facts[line.substr(1, name_end)] = line.substr(colon + 2);
  }
  return facts;
}

// "4.0 MiB (4194304 bytes)"
uint64_t BytesOf(const std::string& text) {
  const size_t open = text.find('(');
  return strtoull(text.c_str() + (open == text.npos ? 0 : open + 1), nullptr, 10);
}

}  // namespace

DiskDirectory::DiskDirectory() : path_((std::filesystem::temp_directory_path() / "block_test.XXXXXX").string()) {
  if (mkdtemp(path_.data()) == nullptr) abort();
}

DiskDirectory::~DiskDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

int RunCommand(const std::string& command, std::string* output) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "re");
  if (pipe == nullptr) return -1;
  std::string said;
  char buffer[4096];
  for (size_t count = 0; (count = fread(buffer, 1, sizeof buffer, pipe)) > 0;) said.append(buffer, count);
  const int status = pclose(pipe);
  if (output != nullptr) *output = said;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, bool writable) {
  UniqueFd fd(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
  if (!fd) return MakeErrnoError(errno == ENOENT ? Reason::kImageNotFound : Reason::kAccessDenied, errno, path);
  return fd;
}

std::string ReadWholeFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

void WriteWholeFile(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.flush().good()) << path;
}

absl::StatusOr<std::unique_ptr<DiskImage>> OpenDisk(const std::string& path, bool may_be_raw) {
  absl::StatusOr<UniqueFd> fd = OpenFile(path);
  if (!fd.ok()) return fd.status();
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  NullMonitor monitor;
  return OpenDiskImage(
      *std::move(fd), std::filesystem::path(path).filename().string(),
      [&](std::string_view name) { return OpenFile((directory / name).string()); }, monitor, may_be_raw);
}

std::string HashOf(const BlockDevice& device) {
  // Pieces that end within sectors and blocks.
  constexpr size_t kPieces[] = {size_t{3} << 20, 4096, 511, 1 << 20, 12345};
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  std::vector<char> buffer(kPieces[0]);
  uint64_t offset = 0;
  for (size_t i = 0; offset < device.size(); ++i) {
    const uint64_t size = std::min<uint64_t>(kPieces[i % std::size(kPieces)], device.size() - offset);
    if (int error = device.Read(offset, absl::MakeSpan(buffer.data(), size)); error != 0) {
      return "errno " + std::to_string(error) + " at " + std::to_string(offset);
    }
    EVP_DigestUpdate(context.get(), buffer.data(), size);
    offset += size;
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(context.get(), digest, &size);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    char hex[3];
    snprintf(hex, sizeof hex, "%02x", digest[i]);
    text += hex;
  }
  return text;
}

void CompareWithLibvhdi(const std::string& path) {
  SCOPED_TRACE(path);
  std::map<std::string, std::string> facts = AskLibvhdi(path);
  absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(path);
  ASSERT_TRUE(disk.ok()) << disk.status();
  const DiskFileInfo& info = (*disk)->chain()[0];
  const bool vhdx = info.format == DiskFormat::kVhdx;
  EXPECT_EQ(facts["Format"], vhdx ? "VHDX (version 2)" : "VHD (version 1)");
  const std::map<DiskType, std::string> kTypes = {
      {DiskType::kFixed, "Fixed"}, {DiskType::kDynamic, "Dynamic"}, {DiskType::kDifferencing, "Differential"}};
  EXPECT_EQ(facts["Disk type"], kTypes.at(info.type));
  EXPECT_EQ(BytesOf(facts["Media size"]), info.virtual_size);
  EXPECT_EQ(BytesOf(facts["Bytes per sector"]), info.sector_size);
  // Of a VHDX libvhdi tells what its children hold on to.
  EXPECT_EQ(facts["Identifier"], vhdx ? info.data_write_identifier : info.identifier);
  EXPECT_EQ(facts["Parent identifier"], info.parent_identifier);
  bool named = facts["Parent filename"].empty();
  for (const ParentLocator& locator : info.parent_locators) named |= locator.value == facts["Parent filename"];
  EXPECT_TRUE(named) << facts["Parent filename"];
}

std::string Contents(const BlockDevice& device) {
  std::string bytes(device.size(), '\0');
  EXPECT_EQ(device.Read(0, absl::MakeSpan(bytes)), 0);
  return bytes;
}

void MakeRawDisk(const std::string& path, uint64_t size, uint32_t seed) {
  constexpr uint64_t kCluster = 64 << 10;
  std::mt19937_64 random(seed);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  std::string cluster(kCluster, '\0');
  for (uint64_t offset = 0; offset < size; offset += kCluster) {
    // Runs of clusters, so that whole blocks stay empty, too.
    if (offset / kCluster / 24 % 3 == 1 || random() % 4 == 0) continue;
    for (size_t i = 0; i < cluster.size(); i += sizeof(uint64_t)) {
      const uint64_t word = random();
      memcpy(cluster.data() + i, &word, sizeof word);
    }
    out.seekp(static_cast<std::streamoff>(offset));
    out.write(cluster.data(), static_cast<std::streamsize>(std::min(kCluster, size - offset)));
  }
  out.close();
  std::filesystem::resize_file(path, size);
}

}  // namespace libmount
