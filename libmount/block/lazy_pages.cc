// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/lazy_pages.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace libmount {

LazyPages::LazyPages(const DiskFile* file, uint32_t page_size, uint64_t table_size)
    : file_(file), page_size_(page_size), table_size_(table_size), leaves_(table_size / (kLeafPages * page_size) + 1) {}

LazyPages::~LazyPages() {
  for (std::atomic<Leaf*>& leaf : leaves_) {
    std::unique_ptr<Leaf> owned(leaf.load());
    if (owned == nullptr) continue;
    for (std::atomic<Page*>& slot : *owned) {
      for (Page* page = slot.load(); page != nullptr;) delete std::exchange(page, page->older);
    }
  }
}

std::atomic<LazyPages::Page*>* LazyPages::Slot(uint64_t page) const {
  std::atomic<Leaf*>& place = leaves_[page / kLeafPages];
  Leaf* leaf = place.load(std::memory_order_acquire);
  if (leaf == nullptr) {
    std::unique_ptr<Leaf> made(new (std::nothrow) Leaf());
    if (made == nullptr) return nullptr;
    // Another thread's may be there by now: then that one.
    if (place.compare_exchange_strong(leaf, made.get(), std::memory_order_acq_rel)) leaf = made.release();
  }
  return &(*leaf)[page % kLeafPages];
}

const LazyPages::Page* LazyPages::Find(uint64_t page, uint64_t place, bool always_keep,
                                       std::unique_ptr<Page>* temporary, int* error) const {
  std::atomic<Page*>* slot = Slot(page);
  if (slot == nullptr) {
    *error = ENOMEM;
    return nullptr;
  }
  Page* found = slot->load(std::memory_order_acquire);
  if (found != nullptr && found->place == place) return found;
  std::unique_ptr<Page> made(new (std::nothrow) Page);
  if (made != nullptr) made->words.reset(new (std::nothrow) uint64_t[page_size_ / sizeof(uint64_t)]());
  if (made == nullptr || made->words == nullptr) {
    *error = ENOMEM;
    return nullptr;
  }
  made->place = place;
  const uint64_t size = std::min<uint64_t>(page_size_, table_size_ - page * page_size_);
  *error = file_->Read(place, absl::MakeSpan(made->bytes(), size));
  if (*error != 0) return nullptr;
  if (!always_keep && kept_.load(std::memory_order_relaxed) >= kMaxKept) {
    *temporary = std::move(made);
    return temporary->get();
  }
  made->older = found;
  if (slot->compare_exchange_strong(found, made.get(), std::memory_order_acq_rel)) {
    kept_.fetch_add(page_size_, std::memory_order_relaxed);
    return made.release();
  }
  if (found->place == place) return found;  // another thread was faster
  made->older = nullptr;
  *temporary = std::move(made);
  return temporary->get();
}

int LazyPages::Copy(uint64_t page, uint64_t place, uint32_t at, absl::Span<char> out) const {
  std::unique_ptr<Page> temporary;
  int error = 0;
  const Page* found = Find(page, place, false, &temporary, &error);
  if (found == nullptr) return error;
  memcpy(out.data(), found->bytes() + at, out.size());
  return 0;
}

int LazyPages::Keep(uint64_t page, uint64_t place) {
  std::unique_ptr<Page> temporary;
  int error = 0;
  return Find(page, place, true, &temporary, &error) == nullptr ? error : 0;
}

}  // namespace libmount
