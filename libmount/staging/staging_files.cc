// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/staging_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace libmount {
namespace {

constexpr mode_t kFileMode = 0600;
// Of its own, since a lock lives as long as any duplicate of the descriptor, and the directory's come from outside.
constexpr char kLockName[] = "lock";

class RealFile final : public StagingFile {
 public:
  explicit RealFile(UniqueFd fd) : fd_(std::move(fd)) {}

  ErrnoOr<size_t> Read(uint64_t offset, absl::Span<char> out) override {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = pread(fd_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Errno(errno);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

  int Write(uint64_t offset, absl::Span<const char> data) override {
    while (!data.empty()) {
      const ssize_t written = pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return errno;
      if (written == 0) return EIO;
      offset += static_cast<uint64_t>(written);
      data.remove_prefix(static_cast<size_t>(written));
    }
    return 0;
  }

  int Sync() override { return fdatasync(fd_.get()) == 0 ? 0 : errno; }
  int Truncate(uint64_t size) override { return ftruncate(fd_.get(), static_cast<off_t>(size)) == 0 ? 0 : errno; }
  int Reserve(uint64_t offset, uint64_t length) override { return Fallocate(0, offset, length); }
  int PunchHole(uint64_t offset, uint64_t length) override {
    return Fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
  }

  ErrnoOr<uint64_t> Size() override {
    struct stat st;
    if (fstat(fd_.get(), &st) != 0) return Errno(errno);
    return static_cast<uint64_t>(st.st_size);
  }

 private:
  int Fallocate(int mode, uint64_t offset, uint64_t length) {
    int result;
    do {
      result = fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length));
    } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
  }

  const UniqueFd fd_;
};

class RealFiles final : public StagingFiles {
 public:
  explicit RealFiles(UniqueFd directory) : directory_(std::move(directory)) {}

  ErrnoOr<std::unique_ptr<StagingFile>> Open(const std::string& name, bool create) override {
    UniqueFd fd = OpenFd(name, create);
    if (!fd.valid()) return Errno(errno);
    return std::unique_ptr<StagingFile>(std::make_unique<RealFile>(std::move(fd)));
  }

  int Rename(const std::string& from, const std::string& to) override {
    return renameat(directory_.get(), from.c_str(), directory_.get(), to.c_str()) == 0 ? 0 : errno;
  }

  int Remove(const std::string& name) override { return unlinkat(directory_.get(), name.c_str(), 0) == 0 ? 0 : errno; }

  int SyncDirectory() override { return fsync(directory_.get()) == 0 ? 0 : errno; }

  int Lock() override {
    UniqueFd fd = OpenFd(kLockName, /*create=*/true);
    if (!fd.valid()) return errno;
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return errno;
    lock_ = std::move(fd);
    return 0;
  }

  ErrnoOr<struct statvfs> Stats() override {
    struct statvfs stats;
    if (fstatvfs(directory_.get(), &stats) != 0) return Errno(errno);
    return stats;
  }

 private:
  UniqueFd OpenFd(const std::string& name, bool create) const {
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0);
    return UniqueFd(openat(directory_.get(), name.c_str(), flags, kFileMode));
  }

  const UniqueFd directory_;
  UniqueFd lock_;
};

}  // namespace

std::unique_ptr<StagingFiles> StagingFilesOn(UniqueFd directory) {
  return std::make_unique<RealFiles>(std::move(directory));
}

}  // namespace libmount
