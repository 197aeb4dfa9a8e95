// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/chunk_buffer.h"

#include <sys/mman.h>

#include <cstdlib>

namespace libmount {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMapFrom = size_t{256} << 10;

}  // namespace

ChunkBuffer::ChunkBuffer(size_t size) {
  if (size == 0) return;
  void* memory = nullptr;
  if (size >= kMapFrom) {
    memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
  } else if (posix_memalign(&memory, kPage, size) != 0) {
    return;
  }
  data_ = static_cast<char*>(memory);
  size_ = size;
}

ChunkBuffer::~ChunkBuffer() {
  if (data_ == nullptr) return;
  if (size_ >= kMapFrom) {
    munmap(data_, size_);
  } else {
    free(data_);
  }
}

}  // namespace libmount
