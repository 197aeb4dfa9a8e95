// SPDX-License-Identifier: GPL-3.0-or-later
//
// Sessions, commits, remounts and cleaning up through libdismapi.so, against a service that the test plays.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <codecvt>
#include <filesystem>
#include <locale>
#include <thread>

#include "DismAPI.h"
#include "tests/unit/client_fake_service.h"

namespace dismd::testing {
namespace {

using ::testing::HasSubstr;

constexpr HRESULT Code(uint32_t value) { return _HRESULT_TYPEDEF_(value); }

std::string LastError() {
  DismString* text = nullptr;
  if (FAILED(DismGetLastErrorMessage(&text))) return "DismGetLastErrorMessage failed";
  std::wstring wide = text->Value;
  EXPECT_EQ(DismDelete(text), S_OK);
  return std::wstring_convert<std::codecvt_utf8<wchar_t>>().to_bytes(wide);
}

HRESULT Commit(DismSession session, DWORD flags = 0, HANDLE cancel = nullptr) {
  return DismCommitImage(session, flags, cancel, nullptr, nullptr);
}

class DismSessions : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(DismInitialize(DismLogErrors, nullptr, nullptr), S_OK);
    Mounted(v1::MOUNT_STATUS_OK);
  }
  void TearDown() override { EXPECT_EQ(DismShutdown(), S_OK) << LastError(); }

  // What is at /mnt; elsewhere is nothing.
  void Mounted(v1::MountStatus status) {
    server_.service.on_get_mount = [status](const v1::GetMountRequest& request, v1::GetMountResponse* response) {
      if (request.mount_path() != "/mnt" && request.mount_path() != "/mnt/") {
        return ErrorStatus(grpc::StatusCode::NOT_FOUND, v1::NOT_MOUNTED, "nothing is mounted there");
      }
      response->mutable_mount()->set_mount_id("m-17");
      response->mutable_mount()->set_mount_path("/mnt");
      response->mutable_mount()->set_status(status);
      response->mutable_mount()->set_status_message("the machine was restarted");
      return grpc::Status::OK;
    };
  }

  static DismSession Open(PCWSTR path = L"/mnt") {
    DismSession session = 99;
    EXPECT_EQ(DismOpenSession(path, nullptr, nullptr, &session), S_OK) << LastError();
    EXPECT_NE(session, static_cast<DismSession>(DISM_SESSION_DEFAULT));
    return session;
  }

  FakeServer server_;
};

TEST(DismSessionsUninitialised, EveryCallSaysSo) {
  DismSession session = 7;
  EXPECT_EQ(DismOpenSession(L"/mnt", nullptr, nullptr, &session), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(session, static_cast<DismSession>(DISM_SESSION_DEFAULT));
  EXPECT_EQ(DismCloseSession(1), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(Commit(1), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(DismRemountImage(L"/mnt"), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(DismCleanupMountpoints(), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
}

TEST_F(DismSessions, CommitsWhatTheSessionIsOn) {
  const DismSession session = Open();
  EXPECT_EQ(Commit(session), S_OK) << LastError();
  EXPECT_EQ(Commit(session, DISM_COMMIT_APPEND | DISM_COMMIT_SUPPORT_EA), S_OK);
  EXPECT_EQ(Commit(session, DISM_COMMIT_GENERATE_INTEGRITY), S_OK);
  const auto commits = server_.service.Commits();
  ASSERT_EQ(commits.size(), 3u);
  EXPECT_EQ(commits[0].mount_id(), "m-17");
  EXPECT_FALSE(commits[0].options().append() || commits[0].options().generate_integrity());
  EXPECT_TRUE(commits[1].options().append());
  EXPECT_FALSE(commits[1].options().generate_integrity());
  EXPECT_TRUE(commits[2].options().generate_integrity());
  for (DWORD flags : {DWORD{DISM_DISCARD_IMAGE}, DWORD{DISM_COMMIT_MASK}, DWORD{0x00080000}, DWORD{2}}) {
    EXPECT_EQ(Commit(session, flags), E_INVALIDARG) << flags;
  }
  EXPECT_EQ(server_.service.Commits().size(), 3u);
  EXPECT_EQ(DismCloseSession(session), S_OK);
}

TEST_F(DismSessions, FailuresOfACommit) {
  const DismSession session = Open();
  const std::pair<v1::Reason, HRESULT> rows[] = {
      {v1::MOUNT_READ_ONLY, Code(0xC142010C)}, {v1::IMAGE_CHANGED, Code(0xC1420122)},
      {v1::IMAGE_IN_USE, Code(0x80070020)},    {v1::OPERATION_IN_PROGRESS, Code(0xC15101FD)},
      {v1::DISK_FULL, Code(0x80070070)},       {v1::IMAGE_READ_ONLY, Code(0xC1510111)},
      {v1::NEEDS_REMOUNT, Code(0xC1510114)},   {v1::MOUNT_INVALID, Code(0xC1510115)},
      {v1::CANCELLED, Code(0x800704C7)},       {v1::NOT_MOUNTED, E_INVALIDARG},
  };
  for (const auto& [reason, hresult] : rows) {
    server_.service.on_commit = [reason = reason](auto*, const auto&, const auto& send) {
      send(Snapshot(10));
      return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, reason, "words about a.wim");
    };
    EXPECT_EQ(Commit(session), hresult) << v1::Reason_Name(reason);
    EXPECT_EQ(LastError(), "words about a.wim");
  }
  EXPECT_EQ(DismCloseSession(session), S_OK);
}

TEST_F(DismSessions, ProgressAndCancellationOfACommit) {
  const DismSession session = Open();
  for (bool late : {false, true}) {
    server_.service.cancelled = std::make_unique<absl::Notification>();
    server_.service.on_commit = [&](auto*, const auto&, const auto& send) {
      send(Snapshot(10));
      server_.service.cancelled->WaitForNotification();
      if (!late) return ErrorStatus(grpc::StatusCode::CANCELLED, v1::CANCELLED, "the commit was cancelled");
      send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
      return grpc::Status::OK;
    };
    struct Seen {
      HANDLE event = CreateEventW(nullptr, TRUE, FALSE, nullptr);
      UINT last = 0;
    } seen;
    const auto callback = [](UINT current, UINT, PVOID data) {
      static_cast<Seen*>(data)->last = current;
      SetEvent(static_cast<Seen*>(data)->event);
    };
    EXPECT_EQ(DismCommitImage(session, 0, seen.event, callback, &seen), late ? S_OK : Code(0x800704C7));
    EXPECT_EQ(seen.last, late ? 100u : 10u);
    EXPECT_EQ(Commit(session, 0, seen.event), Code(0x800704C7)) << "signalled before the call";
    CloseHandle(seen.event);
  }
  EXPECT_EQ(DismCloseSession(session), S_OK);
}

TEST_F(DismSessions, WhatCannotBeOpened) {
  DismSession session = 99;
  EXPECT_EQ(DismOpenSession(L"/mnt", nullptr, nullptr, nullptr), E_INVALIDARG);
  EXPECT_EQ(DismOpenSession(nullptr, nullptr, nullptr, &session), E_INVALIDARG);
  EXPECT_EQ(session, static_cast<DismSession>(DISM_SESSION_DEFAULT));
  EXPECT_EQ(DismOpenSession(L"", nullptr, nullptr, &session), E_INVALIDARG);
  EXPECT_EQ(DismOpenSession(DISM_ONLINE_IMAGE, nullptr, nullptr, &session), Code(0x80070032));
  EXPECT_THAT(LastError(), HasSubstr("running Windows"));
  EXPECT_EQ(DismOpenSession(DISM_ONLINE_IMAGE, L"Windows", nullptr, &session), E_INVALIDARG);
  EXPECT_EQ(DismOpenSession(L"/", nullptr, nullptr, &session), DISMAPI_E_MUST_SPECIFY_ONLINE_IMAGE);
  EXPECT_EQ(DismOpenSession(L"/usr/..", nullptr, nullptr, &session), DISMAPI_E_MUST_SPECIFY_ONLINE_IMAGE);
  EXPECT_EQ(DismOpenSession(L"/no/such/directory", nullptr, nullptr, &session), E_INVALIDARG);
  EXPECT_EQ(DismOpenSession(L"/etc/passwd", nullptr, nullptr, &session), E_INVALIDARG);
  const wchar_t beyond_unicode[] = {static_cast<wchar_t>(0x110000), 0};
  EXPECT_EQ(DismOpenSession(L"/mnt", beyond_unicode, nullptr, &session), E_INVALIDARG);
  Mounted(v1::MOUNT_STATUS_NEEDS_REMOUNT);
  EXPECT_EQ(DismOpenSession(L"/mnt", nullptr, nullptr, &session), DISMAPI_E_NEEDS_REMOUNT);
  EXPECT_THAT(LastError(), HasSubstr("the machine was restarted"));
  Mounted(v1::MOUNT_STATUS_INVALID);
  EXPECT_EQ(DismOpenSession(L"/mnt", nullptr, nullptr, &session), Code(0xC1510115));
  EXPECT_EQ(session, static_cast<DismSession>(DISM_SESSION_DEFAULT));
  server_.Stop();
  EXPECT_EQ(DismOpenSession(L"/mnt", nullptr, nullptr, &session), Code(0x800706BA));
}

TEST_F(DismSessions, ADirectoryThatIsNoMountHasNothingToCommit) {
  const DismSession session = Open(L"/usr");
  EXPECT_EQ(Commit(session), E_INVALIDARG);
  EXPECT_THAT(LastError(), HasSubstr("/usr is not a mounted image"));
  EXPECT_EQ(DismCloseSession(session), S_OK);
}

TEST_F(DismSessions, AClosedSessionIsNone) {
  const DismSession session = Open();
  EXPECT_EQ(DismCloseSession(session), S_OK);
  EXPECT_EQ(DismCloseSession(session), DISMAPI_E_INVALID_DISM_SESSION);
  EXPECT_EQ(Commit(session), E_INVALIDARG);
  for (DismSession never : {DismSession{0}, session + 1, ~DismSession{0}}) {
    EXPECT_EQ(DismCloseSession(never), DISMAPI_E_INVALID_DISM_SESSION);
    EXPECT_EQ(Commit(never), E_INVALIDARG);
  }
  EXPECT_NE(Open(), session) << "a stale number must not hit a newer session";
  EXPECT_EQ(DismCloseSession(session + 1), S_OK);
}

TEST_F(DismSessions, AnOpenSessionHoldsTheMount) {
  const DismSession first = Open(), second = Open(L"/mnt/");
  const std::string link = server_.directory() + "/link";
  std::filesystem::create_directory_symlink("/", link);
  const std::wstring by_link(link.begin(), link.end());
  for (const std::wstring& path : std::vector<std::wstring>{L"/mnt", L"/mnt/", L"/usr/../mnt", by_link + L"/mnt"}) {
    EXPECT_EQ(DismUnmountImage(path.c_str(), DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr),
              DISMAPI_E_OPEN_HANDLES_UNABLE_TO_UNMOUNT_IMAGE_PATH);
    EXPECT_THAT(LastError(), HasSubstr("DismCloseSession"));
    EXPECT_EQ(DismRemountImage(path.c_str()), DISMAPI_E_OPEN_HANDLES_UNABLE_TO_REMOUNT_IMAGE_PATH);
    EXPECT_EQ(DismMountImage(L"/a.wim", path.c_str(), 1, nullptr, DismImageIndex, DISM_MOUNT_READONLY, nullptr, nullptr,
                             nullptr),
              DISMAPI_E_OPEN_HANDLES_UNABLE_TO_MOUNT_IMAGE_PATH);
  }
  EXPECT_TRUE(server_.service.Unmounts().empty());
  EXPECT_TRUE(server_.service.Mounts().empty());
  EXPECT_EQ(DismUnmountImage(L"/mnt2", DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr), S_OK) << "another mount";
  EXPECT_EQ(DismShutdown(), DISMAPI_E_OPEN_SESSION_HANDLES);
  EXPECT_EQ(DismCloseSession(first), S_OK);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_COMMIT_IMAGE, nullptr, nullptr, nullptr),
            DISMAPI_E_OPEN_HANDLES_UNABLE_TO_UNMOUNT_IMAGE_PATH);
  EXPECT_EQ(DismCloseSession(second), S_OK);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_COMMIT_IMAGE, nullptr, nullptr, nullptr), S_OK);
}

TEST_F(DismSessions, ClosingWaitsForTheCallsThatUseIt) {
  const DismSession session = Open();
  absl::Notification begun, go_on;
  server_.service.on_commit = [&](auto*, const auto&, const auto& send) {
    send(Snapshot(10));
    begun.Notify();
    go_on.WaitForNotification();
    send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
    return grpc::Status::OK;
  };
  std::thread committer([&] { EXPECT_EQ(Commit(session), S_OK); });
  begun.WaitForNotification();
  std::atomic<bool> closed = false;
  std::thread closer([&] {
    EXPECT_EQ(DismCloseSession(session), S_OK);
    closed = true;
  });
  // Calls that come during the close are turned away, which is how its beginning can be seen.
  server_.service.on_commit = nullptr;
  while (Commit(session) == S_OK) std::this_thread::yield();
  EXPECT_EQ(Commit(session), DISMAPI_E_INVALID_DISM_SESSION);
  EXPECT_EQ(DismCloseSession(session), DISMAPI_E_INVALID_DISM_SESSION);
  EXPECT_FALSE(closed);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_COMMIT_IMAGE, nullptr, nullptr, nullptr),
            DISMAPI_E_OPEN_HANDLES_UNABLE_TO_UNMOUNT_IMAGE_PATH);
  go_on.Notify();
  committer.join();
  closer.join();
  EXPECT_TRUE(closed);
  EXPECT_EQ(Commit(session), E_INVALIDARG);
}

TEST_F(DismSessions, ClosingFromItsOwnProgressCallback) {
  struct Seen {
    DismSession session;
    HRESULT closed = S_OK;
  } seen{Open()};
  const auto callback = [](UINT, UINT, PVOID data) {
    static_cast<Seen*>(data)->closed = DismCloseSession(static_cast<Seen*>(data)->session);
  };
  EXPECT_EQ(DismCommitImage(seen.session, 0, nullptr, callback, &seen), S_OK);
  EXPECT_EQ(seen.closed, Code(0x8007046B));
  EXPECT_EQ(DismCloseSession(seen.session), S_OK);
}

TEST_F(DismSessions, Remounts) {
  EXPECT_EQ(DismRemountImage(L"/mnt"), S_OK) << LastError();
  EXPECT_EQ(DismRemountImage(nullptr), E_INVALIDARG);
  const std::pair<v1::Reason, HRESULT> rows[] = {
      {v1::NOT_MOUNTED, Code(0xC1420123)},        {v1::NOT_REMOUNTABLE, Code(0xC1420123)},
      {v1::IMAGE_CHANGED, Code(0xC1420124)},      {v1::OPERATION_IN_PROGRESS, Code(0xC1420125)},
      {v1::MOUNT_INVALID, Code(0xC1510115)},      {v1::MOUNT_POINT_NOT_EMPTY, Code(0xC1420114)},
      {v1::MOUNT_POINT_IN_USE, Code(0xC1420113)},
  };
  for (const auto& [reason, hresult] : rows) {
    server_.service.on_remount = [reason = reason](auto*, const v1::RemountImageRequest& request, const auto&) {
      return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, reason, request.mount_path() + ": words");
    };
    EXPECT_EQ(DismRemountImage(L"/mnt"), hresult) << v1::Reason_Name(reason);
    EXPECT_EQ(LastError(), "/mnt: words");
  }
}

TEST_F(DismSessions, CleansUpEverythingInvalidAndNothingByForce) {
  int calls = 0;
  server_.service.on_cleanup = [&calls](const v1::CleanupMountpointsRequest& request, auto*) {
    EXPECT_FALSE(request.force());
    EXPECT_EQ(request.mount_case(), v1::CleanupMountpointsRequest::MOUNT_NOT_SET);
    return ++calls == 1 ? grpc::Status::OK
                        : ErrorStatus(grpc::StatusCode::UNAVAILABLE, v1::SHUTTING_DOWN, "the service is stopping");
  };
  EXPECT_EQ(DismCleanupMountpoints(), S_OK);
  EXPECT_EQ(DismCleanupMountpoints(), Code(0x800706BA));
}

}  // namespace
}  // namespace dismd::testing
