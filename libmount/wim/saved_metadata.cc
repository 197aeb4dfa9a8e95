// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/saved_metadata.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/image_metadata.h"
#include "libmount/wim/sha1.h"

namespace libmount {
namespace {

constexpr std::string_view kMagic = "DISMDMD1";
constexpr size_t kHashAt = 8;
constexpr size_t kHeaderSize = 32;

absl::Status Damaged(std::string_view what) {
  return MakeError(Reason::kBadImageFormat,
                   "the saved directory tree of the mounted image cannot be used: " + std::string(what));
}

absl::Status WriteAll(int fd, absl::Span<const char> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      return MakeErrnoError(Reason::kOutOfResources, errno, "saving the directory tree of the image failed");
    bytes.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

bool ReadAll(int fd, absl::Span<char> out, uint64_t offset) {
  while (!out.empty()) {
    const ssize_t count = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    out.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return true;
}

}  // namespace

absl::Status WriteSavedMetadata(absl::Span<const char> resource, int fd) {
  const Sha1Digest hash = Sha1::Of(resource);
  std::string header(kMagic);
  header.append(reinterpret_cast<const char*>(hash.data()), hash.size());
  AppendLe(uint32_t{0}, header);
  if (absl::Status status = WriteAll(fd, header, 0); !status.ok()) return status;
  if (absl::Status status = WriteAll(fd, resource, header.size()); !status.ok()) return status;
  if (fsync(fd) != 0) {
    return MakeErrnoError(Reason::kOutOfResources, errno, "saving the directory tree of the image failed");
  }
  return absl::OkStatus();
}

absl::StatusOr<ChunkBuffer> ReadSavedMetadata(int fd) {
  struct stat facts;
  if (fstat(fd, &facts) != 0) return Damaged(strerror(errno));
  const uint64_t file_size = static_cast<uint64_t>(facts.st_size);
  if (file_size <= kHeaderSize || file_size - kHeaderSize > kMaxMetadataSize) return Damaged("it has a wrong size");
  char header[kHeaderSize];
  if (!ReadAll(fd, absl::MakeSpan(header), 0)) return Damaged("it cannot be read");
  if (std::string_view(header, kMagic.size()) != kMagic) return Damaged("it is something else");
  ChunkBuffer bytes(file_size - kHeaderSize);
  if (bytes.empty()) return MakeError(Reason::kOutOfResources, "no memory for the image's directory tree");
  if (!ReadAll(fd, bytes.span(), kHeaderSize)) return Damaged("it cannot be read");
  const Sha1Digest hash = Sha1::Of(bytes.span());
  if (memcmp(hash.data(), header + kHashAt, hash.size()) != 0) return Damaged("its SHA-1 is another");
  return bytes;
}

}  // namespace libmount
