// SPDX-License-Identifier: GPL-3.0-or-later
//
// PageBuffer: memory of whole pages that costs nothing until it is touched and can be given back while it is kept.
//
// Requests and replies of up to 1 MiB go through such buffers: at malloc's page+16 alignment the kernel's copy was up
// to six times slower. Huge pages did not pay, and would make each buffer resident as a whole at the first small read.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_FUSE_PAGE_BUFFER_H_
#define LIBMOUNT_FUSE_PAGE_BUFFER_H_

#include <sys/mman.h>

#include <cstddef>

#include "absl/types/span.h"

namespace libmount {

class PageBuffer {
 public:
  // `size` is a multiple of the page size.
  explicit PageBuffer(size_t size) : size_(size) {
    void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return;
    data_ = static_cast<char*>(mapped);
    madvise(data_, size_, MADV_NOHUGEPAGE);
  }
  ~PageBuffer() {
    if (data_ != nullptr) munmap(data_, size_);
  }
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  bool valid() const { return data_ != nullptr; }
  char* data() { return data_; }
  size_t size() const { return size_; }
  absl::Span<char> first(size_t size) { return absl::MakeSpan(data_, size); }

  // Gives the memory back; the content is lost (it reads as zeros).
  void Discard() { madvise(data_, size_, MADV_DONTNEED); }

 private:
  char* data_ = nullptr;
  size_t size_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_PAGE_BUFFER_H_
