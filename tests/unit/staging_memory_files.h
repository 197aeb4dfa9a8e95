// SPDX-License-Identifier: GPL-3.0-or-later
//
// MemoryFiles: a StagingFiles in memory that can run out of space or fail at the Nth call, and that knows what a power
// loss would leave: of what was not synced, any page may be there and any may not.

#ifndef TESTS_UNIT_STAGING_MEMORY_FILES_H_
#define TESTS_UNIT_STAGING_MEMORY_FILES_H_

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "libmount/staging/staging_files.h"

namespace libmount {

// The disk: outlives the StagingFiles that use it.
class MemoryDisk {
 public:
  struct File {
    std::string now;
    std::string synced;
    std::set<uint64_t> blocks;  // that take space; kept where that is limited
  };

  // What may be there after the power was lost.
  std::shared_ptr<MemoryDisk> LosePower(std::mt19937& random) const {
    constexpr size_t kPage = 4096;
    auto disk = std::make_shared<MemoryDisk>();
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, file] : synced_names_) {
      auto left = std::make_shared<File>();
      left->now = file->synced;
      left->now.resize(random() % 2 ? file->now.size() : file->synced.size());
      for (size_t at = 0; at < left->now.size(); at += kPage) {
        if (random() % 2 == 0 || at >= file->now.size()) continue;
        const size_t size = std::min({kPage, left->now.size() - at, file->now.size() - at});
        left->now.replace(at, size, file->now, at, size);
      }
      left->synced = left->now;
      disk->Put(name, std::move(left));
    }
    return disk;
  }
  // What is there after the process was killed.
  std::shared_ptr<MemoryDisk> Copy() const {
    auto disk = std::make_shared<MemoryDisk>();
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, file] : names_) disk->Put(name, std::make_shared<File>(*file));
    return disk;
  }

  // The next `calls` calls that write succeed, and those behind them fail with `error`, having done half of it.
  void FailAfter(int calls, int error) {
    absl::MutexLock lock(&mutex_);
    calls_left_ = calls;
    error_ = error;
  }
  void Heal() { FailAfter(0, 0); }
  // Larger files are refused with EFBIG.
  void LimitFiles(uint64_t size) {
    absl::MutexLock lock(&mutex_);
    max_file_size_ = size;
  }
  // As a disk of so many blocks. REQUIRES: there are no files yet.
  void LimitSpace(size_t blocks) {
    absl::MutexLock lock(&mutex_);
    blocks_left_ = blocks;
  }
  std::string& Content(const std::string& name) {
    absl::MutexLock lock(&mutex_);
    auto& file = names_[name];
    if (file == nullptr) file = synced_names_[name] = std::make_shared<File>();
    return file->now;
  }

 private:
  friend class MemoryFile;
  friend class MemoryFiles;

  // A file that is there, and stays.
  void Put(const std::string& name, std::shared_ptr<File> file) {
    absl::MutexLock lock(&mutex_);
    names_[name] = synced_names_[name] = std::move(file);
  }

  // 0, or the errno to fail with.
  int Count() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (error_ == 0 || calls_left_-- > 0) return 0;
    return error_;
  }

  // 0, or ENOSPC: as far as there was space, the file has it then.
  int TakeSpace(File& file, uint64_t offset, uint64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!blocks_left_.has_value()) return 0;
    for (uint64_t block = offset / kBlock; block * kBlock < offset + length; ++block) {
      if (file.blocks.contains(block)) continue;
      if (*blocks_left_ == 0) return ENOSPC;
      file.blocks.insert(block);
      --*blocks_left_;
    }
    return 0;
  }
  void FreeSpace(File& file, uint64_t offset, uint64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!blocks_left_.has_value()) return;
    const auto begin = file.blocks.lower_bound((offset + kBlock - 1) / kBlock);
    const auto end = file.blocks.lower_bound((offset + length) / kBlock);
    if (offset / kBlock >= (offset + length) / kBlock) return;
    *blocks_left_ += static_cast<size_t>(std::distance(begin, end));
    file.blocks.erase(begin, end);
  }

  static constexpr uint64_t kBlock = 4096;

  mutable absl::Mutex mutex_;
  std::optional<size_t> blocks_left_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<File>> names_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<File>> synced_names_ ABSL_GUARDED_BY(mutex_);
  int calls_left_ ABSL_GUARDED_BY(mutex_) = 0;
  int error_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t max_file_size_ ABSL_GUARDED_BY(mutex_) = UINT64_MAX;
};

class MemoryFile final : public StagingFile {
 public:
  MemoryFile(std::shared_ptr<MemoryDisk> disk, std::shared_ptr<MemoryDisk::File> file)
      : disk_(std::move(disk)), file_(std::move(file)) {}

  ErrnoOr<size_t> Read(uint64_t offset, absl::Span<char> out) override {
    absl::MutexLock lock(&disk_->mutex_);
    if (offset >= file_->now.size()) return size_t{0};
    const size_t size = std::min<uint64_t>(out.size(), file_->now.size() - offset);
    file_->now.copy(out.data(), size, offset);
    return size;
  }
  int Write(uint64_t offset, absl::Span<const char> data) override {
    absl::MutexLock lock(&disk_->mutex_);
    if (offset + data.size() > disk_->max_file_size_) return EFBIG;
    int error = disk_->Count();
    if (error == 0) error = disk_->TakeSpace(*file_, offset, data.size());
    if (error != 0) data = data.first(data.size() / 2);
    if (file_->now.size() < offset + data.size()) file_->now.resize(offset + data.size());
    file_->now.replace(offset, data.size(), data.data(), data.size());
    return error;
  }
  int Sync() override {
    absl::MutexLock lock(&disk_->mutex_);
    if (int error = disk_->Count()) return error;
    file_->synced = file_->now;
    return 0;
  }
  int Truncate(uint64_t size) override {
    absl::MutexLock lock(&disk_->mutex_);
    if (int error = disk_->Count()) return error;
    file_->now.resize(size);
    return 0;
  }
  int Reserve(uint64_t offset, uint64_t length) override {
    absl::MutexLock lock(&disk_->mutex_);
    if (int error = disk_->Count()) return error;
    if (int error = disk_->TakeSpace(*file_, offset, length)) return error;
    if (file_->now.size() < offset + length) file_->now.resize(offset + length);
    return 0;
  }
  int PunchHole(uint64_t offset, uint64_t length) override {
    absl::MutexLock lock(&disk_->mutex_);
    if (int error = disk_->Count()) return error;
    disk_->FreeSpace(*file_, offset, length);
    for (std::string* bytes : {&file_->now, &file_->synced}) {
      if (offset < bytes->size()) std::fill_n(bytes->begin() + offset, std::min(length, bytes->size() - offset), '\0');
    }
    return 0;
  }
  ErrnoOr<uint64_t> Size() override {
    absl::MutexLock lock(&disk_->mutex_);
    return uint64_t{file_->now.size()};
  }

 private:
  const std::shared_ptr<MemoryDisk> disk_;
  const std::shared_ptr<MemoryDisk::File> file_;
};

class MemoryFiles final : public StagingFiles {
 public:
  explicit MemoryFiles(std::shared_ptr<MemoryDisk> disk) : disk_(std::move(disk)) {}

  ErrnoOr<std::unique_ptr<StagingFile>> Open(const std::string& name, bool create) override {
    absl::MutexLock lock(&disk_->mutex_);
    auto found = disk_->names_.find(name);
    if (found == disk_->names_.end()) {
      if (!create) return Errno(ENOENT);
      if (int error = disk_->Count()) return Errno(error);
      found = disk_->names_.emplace(name, std::make_shared<MemoryDisk::File>()).first;
    }
    return std::unique_ptr<StagingFile>(std::make_unique<MemoryFile>(disk_, found->second));
  }
  int Rename(const std::string& from, const std::string& to) override {
    absl::MutexLock lock(&disk_->mutex_);
    if (int error = disk_->Count()) return error;
    disk_->names_[to] = disk_->names_[from];
    disk_->names_.erase(from);
    return 0;
  }
  int Remove(const std::string& name) override {
    absl::MutexLock lock(&disk_->mutex_);
    return disk_->names_.erase(name) == 1 ? 0 : ENOENT;
  }
  int SyncDirectory() override {
    absl::MutexLock lock(&disk_->mutex_);
    if (int error = disk_->Count()) return error;
    disk_->synced_names_ = disk_->names_;
    return 0;
  }
  int Lock() override { return 0; }
  ErrnoOr<struct statvfs> Stats() override { return Errno(ENOSYS); }

 private:
  const std::shared_ptr<MemoryDisk> disk_;
};

}  // namespace libmount

#endif  // TESTS_UNIT_STAGING_MEMORY_FILES_H_
