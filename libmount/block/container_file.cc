// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/container_file.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace libmount {
namespace {

class FdContainerFile final : public ContainerFile {
 public:
  explicit FdContainerFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int Write(uint64_t offset, absl::Span<const char> data) override {
    while (!data.empty()) {
      const ssize_t count = pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return count < 0 ? errno : ENOSPC;
      data.remove_prefix(static_cast<size_t>(count));
      offset += static_cast<uint64_t>(count);
    }
    return 0;
  }
  int Resize(uint64_t size) override { return ftruncate(fd_.get(), static_cast<off_t>(size)) == 0 ? 0 : errno; }
  int Sync() override { return fdatasync(fd_.get()) == 0 ? 0 : errno; }
  int descriptor() const override { return fd_.get(); }

 private:
  const UniqueFd fd_;
};

}  // namespace

std::unique_ptr<ContainerFile> MakeContainerFile(UniqueFd fd) {
  return std::make_unique<FdContainerFile>(std::move(fd));
}

}  // namespace libmount
