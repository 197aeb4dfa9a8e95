// SPDX-License-Identifier: GPL-3.0-or-later
//
// libdismapi.so while an operation runs: what the progress callback is told, and cancelling.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "DismAPI.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "tests/unit/client_dismapi_harness.h"

namespace dismd::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

TEST_F(DismApi, ProgressNeverGoesBackAndEndsAtTotal) {
  Recorder recorder;
  absl::Mutex mutex;
  UINT seen = 0;
  recorder.also = [&](UINT current) {
    absl::MutexLock lock(&mutex);
    seen = current;
  };
  server_.service.on_mount = [&](auto*, const auto&, const auto& send) {
    send(Snapshot(0));
    for (uint32_t current : {30, 20, 60, 60, 100}) {
      send(Snapshot(current));
      // Snapshots that come too fast are skipped; here each that is news shall be seen before the next is sent.
      const UINT reported = std::min(current, 99U);
      const auto is_seen = [&] { return seen >= reported; };
      absl::MutexLock lock(&mutex);
      EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&is_seen), kPatience)) << current;
    }
    send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
    return grpc::Status::OK;
  };
  EXPECT_EQ(Mount(nullptr, &recorder), S_OK);
  EXPECT_EQ(recorder.thread, std::this_thread::get_id());
  if (!recorder.calls.empty() && recorder.calls[0].first == 0) recorder.calls.erase(recorder.calls.begin());
  EXPECT_THAT(recorder.calls,
              ElementsAre(std::pair(30u, 100u), std::pair(60u, 100u), std::pair(99u, 100u), std::pair(100u, 100u)));
}

TEST_F(DismApi, ProgressComesAtLeastOnceOnSuccessAndNeverReachesTotalOnFailure) {
  Recorder recorder;
  EXPECT_EQ(Mount(nullptr, &recorder), S_OK);
  EXPECT_THAT(recorder.calls, ElementsAre(std::pair(100u, 100u)));
  server_.service.on_mount = [](auto*, const auto&, const auto& send) {
    send(Snapshot(100));
    return ErrorStatus(grpc::StatusCode::INTERNAL, v1::WORKER_DIED, "the worker died");
  };
  recorder.calls.clear();
  EXPECT_EQ(Mount(nullptr, &recorder), _HRESULT_TYPEDEF_(0x8007042B));
  for (const auto& [current, total] : recorder.calls) EXPECT_LT(current, total);
}

TEST_F(DismApi, ASlowCallbackDoesNotHoldTheServiceUp) {
  // As many as the service sends in ten seconds: the socket holds them. Nothing is read while the callback runs; for
  // who does not read any longer the real service has one write waiting and goes on (this one's writes would block).
  constexpr uint32_t kSnapshots = 100;
  absl::Notification all_sent;
  server_.service.on_mount = [&](auto*, const auto&, const auto& send) {
    for (uint32_t i = 0; i < kSnapshots; ++i) send(Snapshot(i * 99 / kSnapshots));
    all_sent.Notify();
    send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
    return grpc::Status::OK;
  };
  Recorder recorder;
  recorder.also = [&](UINT) { EXPECT_TRUE(all_sent.WaitForNotificationWithTimeout(kPatience)); };
  EXPECT_EQ(Mount(nullptr, &recorder), S_OK);
  EXPECT_LT(recorder.calls.size(), 100u) << "what came meanwhile is skipped";
  EXPECT_EQ(recorder.calls.back().first, 100u);
}

TEST_F(DismApi, ASignalledEventCancelsBeforeAnythingIsAsked) {
  for (BOOL manual : {TRUE, FALSE}) {
    HANDLE event = CreateEventW(nullptr, manual, TRUE, nullptr);
    ASSERT_NE(event, nullptr);
    EXPECT_EQ(DismMountImage(nullptr, nullptr, 0, nullptr, DismImageName, 0, event, nullptr, nullptr), kCancelled);
    EXPECT_TRUE(server_.service.Mounts().empty());
    EXPECT_THAT(LastError(), HasSubstr("cancelled"));
    // The auto-reset one was reset by it.
    if (manual) {
      EXPECT_EQ(Mount(event), kCancelled);
    }
    EXPECT_EQ(ResetEvent(event), TRUE);
    if (!manual) {
      EXPECT_EQ(Mount(event), S_OK);
    }
    EXPECT_EQ(CloseHandle(event), TRUE);
    EXPECT_EQ(CloseHandle(event), FALSE);
    EXPECT_EQ(SetEvent(event), FALSE);
    EXPECT_EQ(ResetEvent(event), FALSE);
    EXPECT_EQ(Mount(event), E_HANDLE);
  }
  EXPECT_EQ(CreateEventW(nullptr, TRUE, FALSE, L"named"), nullptr);
}

TEST_F(DismApi, CancellingFromTheProgressCallback) {
  for (BOOL manual : {TRUE, FALSE}) {
    server_.service.cancelled = std::make_unique<absl::Notification>();
    MountWaitsForCancel(CancelledEnd());
    HANDLE event = CreateEventW(nullptr, manual, FALSE, nullptr);
    Recorder recorder;
    recorder.also = [event](UINT) { SetEvent(event); };
    EXPECT_EQ(Mount(event, &recorder), kCancelled);
    EXPECT_EQ(LastError(), "the mount was cancelled");
    EXPECT_THAT(recorder.calls, ElementsAre(std::pair(10u, 100u)));
    CloseHandle(event);
  }
}

TEST_F(DismApi, CancellingFromAnotherThreadTakesMilliseconds) {
  std::vector<double> milliseconds;
  for (int i = 0; i < 20; ++i) {
    server_.service.cancelled = std::make_unique<absl::Notification>();
    absl::Notification begun;
    server_.service.on_mount = [&](auto*, const auto&, const auto& send) {
      send(Snapshot(10));
      begun.Notify();
      server_.service.cancelled->WaitForNotification();
      return CancelledEnd();
    };
    HANDLE event = CreateEventW(nullptr, TRUE, FALSE, nullptr);
    Clock::time_point signalled;
    std::thread canceller([&] {
      begun.WaitForNotification();
      signalled = Clock::now();
      SetEvent(event);
      CloseHandle(event);  // the call goes on with it
    });
    EXPECT_EQ(Mount(event), kCancelled);
    const auto end = Clock::now();
    canceller.join();
    milliseconds.push_back(std::chrono::duration<double, std::milli>(end - signalled).count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  RecordProperty("median_us", static_cast<int>(milliseconds[10] * 1000));
  // Of 20; the slower ones may have waited for a processor.
  EXPECT_LT(milliseconds[5], 100);
}

TEST_F(DismApi, ALateCancellationSucceeds) {
  MountWaitsForCancel(grpc::Status::OK);
  HANDLE event = CreateEventW(nullptr, TRUE, FALSE, nullptr);
  Recorder recorder;
  recorder.also = [event](UINT) { SetEvent(event); };
  EXPECT_EQ(Mount(event, &recorder), S_OK);
  EXPECT_EQ(recorder.calls.back(), std::pair(100u, 100u));
  CloseHandle(event);
}

TEST_F(DismApi, AHangingServiceDoesNotHoldACancelledCall) {
  absl::Notification begun, gone;
  server_.service.on_mount = [&](grpc::ServerContext* context, const auto&, const auto&) {
    begun.Notify();
    WaitUntilCancelled(context);
    gone.Notify();
    return grpc::Status::CANCELLED;
  };
  HANDLE event = CreateEventW(nullptr, TRUE, FALSE, nullptr);
  std::thread canceller([&] {
    begun.WaitForNotification();  // earlier, the call would not be made at all
    SetEvent(event);
  });
  const auto start = Clock::now();
  EXPECT_EQ(Mount(event), kCancelled);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(15));
  canceller.join();
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(kPatience)) << "the stream was not cut";
  CloseHandle(event);
}

TEST_F(DismApi, NoExceptionLeavesTheLibrary) {
  absl::Notification gone;
  server_.service.on_mount = [&](grpc::ServerContext* context, const auto&, const auto& send) {
    send(Snapshot(10));
    WaitUntilCancelled(context);
    gone.Notify();
    return grpc::Status::CANCELLED;
  };
  Recorder recorder;
  recorder.also = [](UINT) { throw std::runtime_error("thrown by the program"); };
  EXPECT_EQ(Mount(nullptr, &recorder), E_FAIL);
  EXPECT_EQ(LastError(), "thrown by the program");
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(kPatience));
  server_.service.on_mount = [](auto*, const auto&, const auto& send) {
    send(Snapshot(10));
    return grpc::Status(grpc::StatusCode::INTERNAL, "not reached by the outcome");
  };
  recorder.also = [](UINT) { throw std::bad_alloc(); };
  EXPECT_EQ(Mount(nullptr, &recorder), E_OUTOFMEMORY);
  recorder.also = [](UINT) { throw 42; };
  EXPECT_EQ(Mount(nullptr, &recorder), E_FAIL);
}

}  // namespace
}  // namespace dismd::testing
