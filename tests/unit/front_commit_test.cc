// SPDX-License-Identifier: GPL-3.0-or-later
//
// Commits as the front sees them: what the other mounts of the file are told, and what the caller is.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "daemon/front/limits.h"
#include "daemon/front/service.h"
#include "daemon/front/worker_link.h"
#include "libmount/base/reason.h"
#include "tests/unit/front_harness.h"

namespace dismd {
namespace {

using libmount::Reason;
using libmount::ReasonOf;

class FrontCommit : public FrontService {
 protected:
  // Anna's read-write mount at /home/mnt, and as many of Bert's of the same file.
  void MountAll(size_t others) {
    v1::MountImageRequest request = Request();
    request.set_read_only(false);
    ASSERT_TRUE(Mount(kAnna, request).ok());
    for (size_t i = 0; i < others; ++i) ASSERT_TRUE(Mount(kBert, Request(absl::StrCat("/home/bert", i))).ok());
  }
  std::shared_ptr<Operation> StartCommit() {
    v1::CommitImageRequest request;
    request.set_mount_path("/home/mnt");
    return *service_.StartCommit(Of(kAnna), request);
  }
  size_t Count(const std::string& name) {
    std::vector<std::string> journal = broker_.journal();
    return static_cast<size_t>(std::count(journal.begin(), journal.end(), name));
  }
};

TEST_F(FrontCommit, TheFilesOtherMountsAreToldAllAtOnce) {
  constexpr size_t kOthers = 8;  // one after the other their deadlines would take longer than the test waits
  ASSERT_NO_FATAL_FAILURE(MountAll(kOthers));
  broker_.Hold("suspend");
  auto commit = StartCommit();
  broker_.WaitFor("suspend", kOthers);
  EXPECT_EQ(Count("commit"), 0u);
  broker_.Release("suspend");
  EXPECT_TRUE(Watcher(commit).Outcome().ok());
  EXPECT_EQ(Count("commit"), 1u);
  EXPECT_EQ(Count("renew"), kOthers);
}

TEST_F(FrontCommit, MountsThatDoNotAnswerAreWaitedForOnce) {
  constexpr size_t kOthers = 3;
  ASSERT_NO_FATAL_FAILURE(MountAll(kOthers));
  broker_.Hold("suspend");
  broker_.Hold("renew");
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(Watcher(StartCommit()).Outcome().ok());
  EXPECT_GE(absl::Now() - begin, kNoticeDeadline);
  // They have still not answered: the next commit does not wait for them, but tells them.
  EXPECT_TRUE(Watcher(StartCommit()).Outcome().ok());
  EXPECT_LT(absl::Now() - begin, 2 * kNoticeDeadline);
  broker_.WaitFor("suspend", 2 * kOthers);
  broker_.WaitFor("renew", 2 * kOthers);
}

TEST_F(FrontCommit, ACancelEndsTheWaitingForOtherMounts) {
  ASSERT_NO_FATAL_FAILURE(MountAll(2));
  broker_.Hold("suspend");
  auto commit = StartCommit();
  broker_.WaitFor("suspend", 2);
  EXPECT_TRUE(commit->Cancel());
  EXPECT_EQ(ReasonOf(Watcher(commit).Outcome()), Reason::kCancelled);
  EXPECT_EQ(Count("commit"), 0u);
  broker_.WaitFor("renew", 2);  // it is over
  broker_.Release("suspend");
  EXPECT_TRUE(Watcher(StartCommit()).Outcome().ok());
}

TEST_F(FrontCommit, AMountWhoseWorkerDiesHoldsNobodyUp) {
  ASSERT_NO_FATAL_FAILURE(MountAll(1));
  broker_.Hold("suspend");
  auto commit = StartCommit();
  broker_.WaitFor("suspend");
  const absl::Time begin = absl::Now();
  broker_.KillWorker(2);
  EXPECT_TRUE(Watcher(commit).Outcome().ok());
  EXPECT_LT(absl::Now() - begin, kNoticeDeadline);
}

TEST_F(FrontCommit, AnUnmountTellsTheImageThatTheEditsAreIn) {
  ASSERT_NO_FATAL_FAILURE(MountAll(0));
  broker_.committed.set_image_index(3);
  broker_.committed.set_image_name("Windows (3)");
  v1::UnmountImageRequest request;
  request.set_mount_path("/home/mnt");
  request.set_changes(v1::CHANGES_COMMIT);
  request.mutable_commit()->set_append(true);
  auto operation = service_.StartUnmount(Of(kAnna), request);
  ASSERT_TRUE(operation.ok()) << operation.status();
  ASSERT_TRUE(Watcher(*operation).Outcome().ok());
  EXPECT_EQ((*operation)->snapshot()->mount().image_index(), 3u);
  EXPECT_EQ((*operation)->snapshot()->mount().image_name(), "Windows (3)");
}

TEST(FrontWorkerLink, OneThatAnswersAtLastIsNotMuteAnyMore) {
  auto ends = Channel::CreatePair();
  ASSERT_TRUE(ends.ok());
  Channel worker(std::move(ends->second));
  EventLoop loop;
  auto link = WorkerLink::Start(loop, std::move(ends->first), [](const internal::WorkerToFront&) {});
  internal::FrontToWorker question;
  question.mutable_suspend_image_checks();
  const uint64_t asked = link->Ask(question, [] { FAIL() << "called when it was forgotten"; });
  EXPECT_FALSE(link->mute());
  EXPECT_TRUE(link->Forget(asked, /*overdue=*/true));
  EXPECT_TRUE(link->mute());

  // What it says of itself is no answer.
  CancelToken never;
  internal::WorkerToFront message;
  message.mutable_serving();
  ASSERT_TRUE(worker.Send(message).ok());
  ASSERT_TRUE(link->AwaitServing(never, kPatience).ok());
  EXPECT_TRUE(link->mute());

  message.Clear();
  message.set_request_id(asked);
  ASSERT_TRUE(worker.Send(message).ok());
  absl::Notification answered;
  link->Ask(question, [&answered] { answered.Notify(); });
  message.set_request_id(asked + 1);
  ASSERT_TRUE(worker.Send(message).ok());
  ASSERT_TRUE(answered.WaitForNotificationWithTimeout(kPatience));
  EXPECT_FALSE(link->mute());
  link->Close();
}

}  // namespace
}  // namespace dismd
