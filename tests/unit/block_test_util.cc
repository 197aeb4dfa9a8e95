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
#include <random>
#include <sstream>
#include <vector>

#include "libmount/base/reason.h"

namespace libmount {

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
