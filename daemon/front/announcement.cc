// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/announcement.h"

#include <cstddef>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/limits.h"
#include "daemon/front/worker_link.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::Severity;

// The answers that are waited for.
class Answers {
 public:
  void Expect() {
    absl::MutexLock lock(&mutex_);
    ++missing_;
  }
  void Came() {
    absl::MutexLock lock(&mutex_);
    --missing_;
  }
  // Whether the time was over first.
  bool Overdue(CancelToken& cancel) {
    CancelToken::Subscription wake(cancel, [this] {
      absl::MutexLock lock(&mutex_);
      cancelled_ = true;
    });
    absl::MutexLock lock(&mutex_);
    auto enough = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return missing_ == 0 || cancelled_; };
    return !mutex_.AwaitWithTimeout(absl::Condition(&enough), kNoticeDeadline);
  }

 private:
  absl::Mutex mutex_;
  size_t missing_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

struct Asked {
  uint64_t id;
  bool awaited;
};

}  // namespace

Announcement::Announcement(std::vector<MountView> others, std::string commit_id, CancelToken& cancel)
    : others_(std::move(others)), commit_id_(std::move(commit_id)), cancel_(cancel) {
  internal::FrontToWorker request;
  request.mutable_suspend_image_checks()->set_commit_id(commit_id_);
  Tell(request);
}

Announcement::~Announcement() {
  internal::FrontToWorker request;
  request.mutable_renew_image_state()->set_commit_id(commit_id_);
  Tell(request);
}

void Announcement::Tell(const internal::FrontToWorker& request) const {
  Answers answers;
  std::vector<Asked> asked;
  asked.reserve(others_.size());
  for (const MountView& other : others_) {
    const bool awaited = !other.worker->mute();
    if (awaited) answers.Expect();
    const uint64_t id = other.worker->Ask(request, [&answers, awaited] {
      if (awaited) answers.Came();
    });
    asked.push_back({id, awaited});
  }
  const bool overdue = answers.Overdue(cancel_);
  for (size_t i = 0; i < others_.size(); ++i) {
    const bool unanswered = others_[i].worker->Forget(asked[i].id, overdue);
    if (!unanswered || !overdue || !asked[i].awaited) continue;
    const v1::Mount& mount = others_[i].mount;
    libmount::Log(Severity::kWarning, LogContext{"", mount.mount_id(), mount.owner_uid()},
                  absl::StrCat("the process that serves ", mount.mount_path(),
                               " does not answer: a commit to its file does not wait for it"));
  }
}

}  // namespace dismd
