// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/cancel_token.h"

#include <utility>

namespace dismd {

void CancelToken::Cancel() {
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return;
  cancelled_ = true;
  for (const auto& callback : callbacks_) callback();
}

bool CancelToken::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

CancelToken::Subscription::Subscription(CancelToken& token, std::function<void()> callback) : token_(token) {
  absl::MutexLock lock(&token_.mutex_);
  if (token_.cancelled_) callback();
  place_ = token_.callbacks_.insert(token_.callbacks_.end(), std::move(callback));
}

CancelToken::Subscription::~Subscription() {
  absl::MutexLock lock(&token_.mutex_);
  token_.callbacks_.erase(place_);
}

}  // namespace dismd
