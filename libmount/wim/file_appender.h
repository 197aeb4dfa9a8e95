// SPDX-License-Identifier: GPL-3.0-or-later
//
// FileAppender: writes behind the end of a file, through a buffer.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_WIM_FILE_APPENDER_H_
#define LIBMOUNT_WIM_FILE_APPENDER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace libmount {

// kOutOfResources where there is no space (or the file may not grow), naming `name`.
absl::Status WriteAt(int fd, const std::string& name, uint64_t offset, absl::Span<const char> bytes);
absl::Status ReadAt(int fd, const std::string& name, uint64_t offset, absl::Span<char> out);

class FileAppender {
 public:
  // `fd` must outlive it.
  FileAppender(int fd, std::string name, uint64_t offset)
      : fd_(fd), name_(std::move(name)), begin_(offset), buffer_offset_(offset) {}

  const std::string& name() const { return name_; }
  // Where the next byte goes.
  uint64_t offset() const { return buffer_offset_ + buffer_.size(); }

  absl::Status Append(absl::Span<const char> bytes);
  // Replaces bytes that were appended. REQUIRES: they were.
  absl::Status Patch(uint64_t offset, absl::Span<const char> bytes);
  // Leaves out `size` bytes, to be patched or to stay zeros.
  absl::Status Skip(uint64_t size);
  // Goes back to `offset`: what was appended behind it is to be overwritten. REQUIRES: not before the first byte.
  void Rewind(uint64_t offset);
  // Hands everything to the kernel, and cuts off what is left behind the last byte by Rewind.
  absl::Status Flush();

 private:
  absl::Status FlushBuffer();

  const int fd_;
  const std::string name_;
  const uint64_t begin_;
  uint64_t buffer_offset_;    // where buffer_ goes
  uint64_t written_end_ = 0;  // the file's end as far as this has written it
  std::string buffer_;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_FILE_APPENDER_H_
