// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/result_block.h"

#include <stdlib.h>

#include <memory>
#include <new>
#include <string>
#include <unordered_set>

#include "client/common/mutex.h"
#include "client/common/unicode.h"
#include "client/dismapi/process_local.h"

namespace dismd {
namespace {

struct Registry {
  Mutex mutex;
  std::unordered_set<void*> blocks ABSL_GUARDED_BY(mutex);
};

Registry& Blocks() { return OfThisProcess<Registry>(); }

}  // namespace

size_t ResultBlock::Reserve(size_t bytes) {
  constexpr size_t kAlignment = alignof(void*);
  const size_t offset = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
  bytes_.resize(offset + bytes);
  return offset;
}

void ResultBlock::PutString(size_t offset, std::string_view utf8) {
  const std::wstring text = Utf8ToWide(utf8);
  const size_t size = (text.size() + 1) * sizeof(wchar_t);
  const size_t target = Reserve(size);
  memcpy(&bytes_[target], text.c_str(), size);
  PutPointer(offset, target);
}

void* ResultBlock::Release() {
  std::unique_ptr<char, decltype(&free)> block(static_cast<char*>(malloc(bytes_.size())), &free);
  if (block == nullptr) throw std::bad_alloc();
  memcpy(block.get(), bytes_.data(), bytes_.size());
  for (const auto& [offset, target] : pointers_) {
    const void* pointer = block.get() + target;
    memcpy(block.get() + offset, &pointer, sizeof(pointer));
  }
  Registry& registry = Blocks();
  MutexLock lock(&registry.mutex);
  registry.blocks.insert(block.get());
  return block.release();
}

bool DeleteResultBlock(void* block) {
  Registry& registry = Blocks();
  {
    MutexLock lock(&registry.mutex);
    if (registry.blocks.erase(block) == 0) return false;
  }
  free(block);
  return true;
}

}  // namespace dismd
