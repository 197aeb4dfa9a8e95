// SPDX-License-Identifier: GPL-3.0-or-later
//
// ChunkBuffer: uninitialised bytes that begin on a page.
//
// Large ones are mapped, so that freeing them gives the memory back at once; malloc would keep it, and place it 16
// bytes behind a page, where reads of 1 MiB were measured up to six times slower.

#ifndef LIBMOUNT_WIM_CHUNK_BUFFER_H_
#define LIBMOUNT_WIM_CHUNK_BUFFER_H_

#include <cstddef>
#include <utility>

#include "absl/types/span.h"

namespace libmount {

class ChunkBuffer {
 public:
  ChunkBuffer() = default;
  // Empty (size() == 0) when there is no memory.
  explicit ChunkBuffer(size_t size);
  ChunkBuffer(ChunkBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  ChunkBuffer& operator=(ChunkBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ChunkBuffer(const ChunkBuffer&) = delete;
  ChunkBuffer& operator=(const ChunkBuffer&) = delete;
  ~ChunkBuffer();

  char* data() { return data_; }
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  absl::Span<char> span() { return absl::MakeSpan(data_, size_); }
  absl::Span<const char> span() const { return {data_, size_}; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_CHUNK_BUFFER_H_
