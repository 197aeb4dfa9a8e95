// SPDX-License-Identifier: GPL-3.0-or-later
//
// LazyPages: tables of a disk image (BAT, sector bitmaps), kept in memory page by page as they are first asked for, so
// that opening a disk costs the same whatever its size.
//
// Pages are found by number. Each remembers where in the file it came from: asked for another place, it is read anew.
// At most kMaxKept bytes are kept; beyond that each look-up reads the file.
//
// Thread safety: const methods from any number of threads at once, without waiting; Store from one thread at a time,
// along with them.

#ifndef LIBMOUNT_BLOCK_LAZY_PAGES_H_
#define LIBMOUNT_BLOCK_LAZY_PAGES_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "libmount/block/disk_file.h"

namespace libmount {

class LazyPages {
 public:
  static constexpr uint64_t kMaxKept = uint64_t{64} << 20;

  // `file` must outlive it. `page_size`: a multiple of 8. `table_size`: bytes of all pages; the last may be shorter.
  LazyPages(const DiskFile* file, uint32_t page_size, uint64_t table_size);
  ~LazyPages();
  LazyPages(const LazyPages&) = delete;
  LazyPages& operator=(const LazyPages&) = delete;

  uint32_t page_size() const { return page_size_; }

  // The number at byte `at` of page `page`, which lies at `place` of the file. 0 or an errno.
  // REQUIRES: the number lies within the table; `at` is a multiple of its size.
  template <typename T>
  int Load(uint64_t page, uint64_t place, uint32_t at, T* value) const;

  // Bytes of a page that nobody stores into.
  int Copy(uint64_t page, uint64_t place, uint32_t at, absl::Span<char> out) const;

  // Makes Load answer `value`. The file itself is the caller's to change, between Keep and Store: a page that is read
  // while the file is changed could otherwise stay as it was.
  int Keep(uint64_t page, uint64_t place);
  template <typename T>
  void Store(uint64_t page, uint64_t place, uint32_t at, T value);

 private:
  struct Page {
    uint64_t place = 0;
    Page* older = nullptr;  // replaced by this one; somebody may still read it
    std::unique_ptr<uint64_t[]> words;
    char* bytes() const { return reinterpret_cast<char*>(words.get()); }
  };
  static constexpr uint64_t kLeafPages = 512;
  using Leaf = std::array<std::atomic<Page*>, kLeafPages>;

  // Of the kept page, or of one read just now, which is `temporary` where it is not kept. Null: errno in `error`.
  const Page* Find(uint64_t page, uint64_t place, bool always_keep, std::unique_ptr<Page>* temporary, int* error) const;
  std::atomic<Page*>* Slot(uint64_t page) const;

  const DiskFile* const file_;
  const uint32_t page_size_;
  const uint64_t table_size_;
  mutable std::vector<std::atomic<Leaf*>> leaves_;
  mutable std::atomic<uint64_t> kept_ = 0;
};

template <typename T>
int LazyPages::Load(uint64_t page, uint64_t place, uint32_t at, T* value) const {
  std::unique_ptr<Page> temporary;
  int error = 0;
  const Page* found = Find(page, place, false, &temporary, &error);
  if (found == nullptr) return error;
  *value = std::atomic_ref<T>(*reinterpret_cast<T*>(found->bytes() + at)).load(std::memory_order_acquire);
  return 0;
}

template <typename T>
void LazyPages::Store(uint64_t page, uint64_t place, uint32_t at, T value) {
  std::unique_ptr<Page> temporary;
  int error = 0;
  const Page* found = Find(page, place, true, &temporary, &error);
  if (found == nullptr) return;  // not after Keep
  std::atomic_ref<T>(*reinterpret_cast<T*>(found->bytes() + at)).store(value, std::memory_order_release);
}

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_LAZY_PAGES_H_
