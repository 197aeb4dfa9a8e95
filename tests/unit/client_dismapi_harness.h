// SPDX-License-Identifier: GPL-3.0-or-later
//
// libdismapi.so, used as a program uses it, against a service that the test plays.

#ifndef TESTS_UNIT_CLIENT_DISMAPI_HARNESS_H_
#define TESTS_UNIT_CLIENT_DISMAPI_HARNESS_H_

#include <gtest/gtest.h>

#include <codecvt>
#include <functional>
#include <locale>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "DismAPI.h"
#include "absl/time/time.h"
#include "tests/unit/client_fake_service.h"

namespace dismd::testing {

// For what another thread does at once, on a machine that has much else to do.
inline constexpr absl::Duration kPatience = absl::Seconds(20);

inline constexpr HRESULT kCancelled = _HRESULT_TYPEDEF_(0x800704C7);
inline constexpr HRESULT kServerUnavailable = _HRESULT_TYPEDEF_(0x800706BA);

inline std::string LastError() {
  DismString* text = nullptr;
  HRESULT hr = DismGetLastErrorMessage(&text);
  if (FAILED(hr)) return "DismGetLastErrorMessage failed";
  std::wstring wide = text->Value;
  EXPECT_EQ(DismDelete(text), S_OK);
  return std::wstring_convert<std::codecvt_utf8<wchar_t>>().to_bytes(wide);
}

struct Recorder {
  std::vector<std::pair<UINT, UINT>> calls;
  std::thread::id thread;
  std::function<void(UINT)> also;

  static void CALLBACK Call(UINT current, UINT total, PVOID data) {
    auto* self = static_cast<Recorder*>(data);
    self->calls.emplace_back(current, total);
    self->thread = std::this_thread::get_id();
    if (self->also) self->also(current);
  }
};

inline HRESULT Mount(HANDLE cancel = nullptr, Recorder* recorder = nullptr, DWORD flags = DISM_MOUNT_READONLY) {
  return DismMountImage(L"/images/a.wim", L"/mnt", 1, nullptr, DismImageIndex, flags, cancel,
                        recorder != nullptr ? &Recorder::Call : nullptr, recorder);
}

class DismApi : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(DismInitialize(DismLogErrors, nullptr, nullptr), S_OK); }
  void TearDown() override { EXPECT_EQ(DismShutdown(), S_OK); }

  // A mount that waits for its cancellation and then ends with `end`.
  void MountWaitsForCancel(grpc::Status end) {
    server_.service.on_mount = [this, end](grpc::ServerContext*, const auto&, const auto& send) {
      send(Snapshot(10));
      server_.service.cancelled->WaitForNotification();
      if (end.ok()) send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
      return end;
    };
  }
  static grpc::Status CancelledEnd() {
    return ErrorStatus(grpc::StatusCode::CANCELLED, v1::CANCELLED, "the mount was cancelled");
  }

  FakeServer server_;
};

}  // namespace dismd::testing

#endif  // TESTS_UNIT_CLIENT_DISMAPI_HARNESS_H_
