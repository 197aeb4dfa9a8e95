// SPDX-License-Identifier: Apache-2.0
//
// ResultBlock: builds what a function returns, an array with everything it points to, as one allocation.
//
//   | array of structures | languages, customized info | strings |
//     ^ what the caller gets, and hands to DismDelete
//
// While it is built, places are offsets (the buffer moves as it grows); Release turns them into pointers. The
// structures are packed: members are written with memcpy, never through a typed pointer.
//
// Released blocks are registered, so that DismDelete recognises what is not one.

#ifndef CLIENT_DISMAPI_RESULT_BLOCK_H_
#define CLIENT_DISMAPI_RESULT_BLOCK_H_

#include <stddef.h>
#include <string.h>

#include <string_view>
#include <utility>
#include <vector>

namespace dismd {

class ResultBlock {
 public:
  // Zeroed bytes, aligned as a pointer is; returns their offset.
  size_t Reserve(size_t bytes);

  template <typename T>
  void Put(size_t offset, const T& value) {
    memcpy(&bytes_[offset], &value, sizeof(value));
  }

  // The pointer at `offset` shall point to `target`.
  void PutPointer(size_t offset, size_t target) { pointers_.emplace_back(offset, target); }

  // The same for a new string, made of UTF-8.
  void PutString(size_t offset, std::string_view utf8);

  // The finished block, of malloc, registered. Throws std::bad_alloc.
  void* Release();

 private:
  std::vector<char> bytes_;
  std::vector<std::pair<size_t, size_t>> pointers_;
};

// Frees a registered block; false if it is none.
bool DeleteResultBlock(void* block);

}  // namespace dismd

#endif  // CLIENT_DISMAPI_RESULT_BLOCK_H_
