// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/invalidator.h"

#include <utility>

namespace libmount {

Invalidator::~Invalidator() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    changed_.SignalAll();
  }
  thread_.Join();
}

absl::Status Invalidator::Start() {
  return thread_.Start("fuse-notify", [this] { Run(); });
}

void Invalidator::Entry(NodeId directory, std::string name) { Add({directory, std::move(name)}); }

void Invalidator::Attributes(NodeId node) { Add({node, ""}); }

void Invalidator::Content(NodeId node) { Add({node, "", true}); }

void Invalidator::Add(Item item) {
  absl::MutexLock lock(&mutex_);
  if (waiting_.size() >= kMostWaiting) return;
  waiting_.push_back(std::move(item));
  changed_.Signal();
}

void Invalidator::Run() {
  for (;;) {
    Item item;
    {
      absl::MutexLock lock(&mutex_);
      while (waiting_.empty() && !ended_) changed_.Wait(&mutex_);
      if (ended_) return;
      item = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (item.content) {
      notify_.content(item.node);
    } else if (item.name.empty()) {
      notify_.attributes(item.node);
    } else {
      notify_.entry(item.node, item.name);
    }
  }
}

}  // namespace libmount
