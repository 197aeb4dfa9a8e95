// SPDX-License-Identifier: GPL-3.0-or-later
//
// FilePatches: what a VHDX's log, replayed in memory, puts over its file.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef LIBMOUNT_BLOCK_FILE_PATCHES_H_
#define LIBMOUNT_BLOCK_FILE_PATCHES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/types/span.h"

namespace libmount {

class FilePatches {
 public:
  // Later patches win over earlier ones. REQUIRES: offset + size does not wrap.
  void Put(uint64_t offset, std::string bytes);
  void PutZeros(uint64_t offset, uint64_t size);
  void set_file_size(uint64_t size) { file_size_ = size; }

  // What the file's size is once the log is applied: what lies between its end and this is zeros.
  uint64_t file_size() const { return file_size_; }
  bool empty() const { return patches_.empty(); }

  // Replaces what was read from the file at `offset` by what stands there after the log.
  void Apply(uint64_t offset, absl::Span<char> bytes) const;

  // Calls `visit` for each patch in order of offset; null bytes: zeros. Ends at the first answer that is not 0 and
  // returns it.
  int ForEach(const std::function<int(uint64_t offset, uint64_t size, const char* bytes)>& visit) const;

 private:
  struct Patch {
    uint64_t size = 0;
    std::string bytes;  // empty: zeros
  };

  void Insert(uint64_t offset, Patch patch);
  // Takes away what lies in the range, cutting patches that reach into it.
  void Clear(uint64_t begin, uint64_t end);
  static Patch Slice(const Patch& patch, uint64_t from, uint64_t size);

  std::map<uint64_t, Patch> patches_;  // by offset; none overlaps another
  uint64_t file_size_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_FILE_PATCHES_H_
