// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagingFiles: how staging reaches its directory, and nothing else: tests put one in its place that runs out of space,
// or that loses what was not synced.
//
// Thread safety: all methods may be called from several threads at once.

#ifndef LIBMOUNT_STAGING_STAGING_FILES_H_
#define LIBMOUNT_STAGING_STAGING_FILES_H_

#include <sys/statvfs.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"
#include "libmount/base/errno_or.h"
#include "libmount/base/unique_fd.h"

namespace libmount {

// The disk is full, or what the user may have of it: there may be space that can be given back.
inline bool IsOutOfSpace(int error) { return error == ENOSPC || error == EDQUOT; }

class StagingFile {
 public:
  virtual ~StagingFile() = default;

  // Short only at the end of the file.
  virtual ErrnoOr<size_t> Read(uint64_t offset, absl::Span<char> out) = 0;
  // 0, or an errno: then any part of it may have been written.
  virtual int Write(uint64_t offset, absl::Span<const char> data) = 0;
  // fdatasync
  virtual int Sync() = 0;
  virtual int Truncate(uint64_t size) = 0;
  // Gives the range real space, as zeros where nothing was written. The file ends behind it then, or later: ext4
  // punches nothing out behind a file's end.
  virtual int Reserve(uint64_t offset, uint64_t length) = 0;
  // The range reads as zeros, and takes no space as far as it is whole blocks.
  virtual int PunchHole(uint64_t offset, uint64_t length) = 0;
  virtual ErrnoOr<uint64_t> Size() = 0;
};

class StagingFiles {
 public:
  virtual ~StagingFiles() = default;

  // Opens a file for reading and writing. ENOENT, unless `create`; with `create` what was there stays.
  virtual ErrnoOr<std::unique_ptr<StagingFile>> Open(const std::string& name, bool create) = 0;
  virtual int Rename(const std::string& from, const std::string& to) = 0;
  virtual int Remove(const std::string& name) = 0;
  // Makes what Open, Rename and Remove did outlive the machine.
  virtual int SyncDirectory() = 0;
  // Keeps other processes out for as long as this object lives. EWOULDBLOCK: one is there.
  virtual int Lock() = 0;
  virtual ErrnoOr<struct statvfs> Stats() = 0;
};

// The real one.
std::unique_ptr<StagingFiles> StagingFilesOn(UniqueFd directory);

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_STAGING_FILES_H_
