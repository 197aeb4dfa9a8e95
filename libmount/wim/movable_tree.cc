// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/movable_tree.h"

namespace libmount {

void MovableTree::MoveTo(std::unique_ptr<WimTree> tree) {
  std::shared_ptr<WimTree> before = std::move(tree);  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  if (cache_budget_ != 0) before->SetCacheBudget(cache_budget_);
  for (int i = 0; i < suspended_; ++i) before->SuspendChangeDetection();
  now_.swap(before);
}

void MovableTree::SetCacheBudget(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  cache_budget_ = bytes;
  now_->SetCacheBudget(bytes);
}

void MovableTree::SuspendChangeDetection() {
  absl::MutexLock lock(&mutex_);
  ++suspended_;
  now_->SuspendChangeDetection();
}

void MovableTree::RenewChangeDetection() {
  absl::MutexLock lock(&mutex_);
  if (suspended_ > 0) --suspended_;
  now_->RenewChangeDetection();
}

}  // namespace libmount
