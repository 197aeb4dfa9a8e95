// SPDX-License-Identifier: GPL-3.0-or-later
//
// libdismapi.so's calls: what reaches the service, what comes back, and what is left behind.

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "DismAPI.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/unit/client_dismapi_harness.h"

namespace dismd::testing {
namespace {

using ::testing::HasSubstr;

TEST(DismApiUninitialised, EveryCallSaysSo) {
  DismImageInfo* images = reinterpret_cast<DismImageInfo*>(8);
  DismMountedImageInfo* mounts = nullptr;
  DismString* text = nullptr;
  UINT count = 7;
  EXPECT_EQ(DismGetLastErrorMessage(&text), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(Mount(), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_THAT(LastError(), HasSubstr("DismInitialize"));
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr),
            DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(DismGetImageInfo(L"/a.wim", &images, &count), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(images, nullptr);
  EXPECT_EQ(count, 0u);
  EXPECT_EQ(DismGetMountedImageInfo(&mounts, &count), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(DismShutdown(), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
}

TEST(DismApiUninitialised, OfConcurrentInitialisationsOneWins) {
  EXPECT_EQ(DismInitialize(static_cast<DismLogLevel>(4), nullptr, nullptr), E_INVALIDARG);
  std::atomic<int> won{0}, lost{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      HRESULT hr = DismInitialize(DismLogErrorsWarningsInfoDebug, nullptr, L"/tmp");
      if (hr == S_OK) ++won;
      if (hr == DISMAPI_E_DISMAPI_ALREADY_INITIALIZED) ++lost;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(won, 1);
  EXPECT_EQ(lost, 7);
  EXPECT_EQ(DismShutdown(), S_OK);
  EXPECT_EQ(DismInitialize(DismLogErrors, nullptr, nullptr), S_OK);  // again
  EXPECT_EQ(DismShutdown(), S_OK);
}

TEST_F(DismApi, ArgumentsReachTheService) {
  setenv("DISMD_DRIVES", "C:=/srv/c", 1);
  EXPECT_EQ(
      DismMountImage(L"C:\\test\\images\\my\x1F600.wim", L"c:\\test\\offline", 3, L"not looked at", DismImageIndex,
                     DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY | DISM_MOUNT_OPTIMIZE | DISM_MOUNT_SUPPORT_EA,
                     nullptr, nullptr, nullptr),
      S_OK)
      << LastError();
  EXPECT_EQ(
      DismMountImage(L"/a.wim", L"/m", 3, L"Fenêtre", DismImageName, DISM_MOUNT_READWRITE, nullptr, nullptr, nullptr),
      S_OK);
  EXPECT_EQ(DismMountImage(L"/a.wim", L"/m", 0, nullptr, DismImageName, DISM_MOUNT_READONLY, nullptr, nullptr, nullptr),
            S_OK);
  unsetenv("DISMD_DRIVES");
  const auto mounts = server_.service.Mounts();
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].image_path(), "/srv/c/test/images/my\U0001F600.wim");
  EXPECT_EQ(mounts[0].mount_path(), "/srv/c/test/offline");
  EXPECT_EQ(mounts[0].image_index(), 3u);
  EXPECT_TRUE(mounts[0].read_only());
  EXPECT_TRUE(mounts[0].check_integrity());
  EXPECT_FALSE(mounts[0].allow_other());
  EXPECT_EQ(mounts[1].image_name(), "Fenêtre");
  EXPECT_FALSE(mounts[1].read_only());
  // The service tells what a missing name means: after the rows that come before it in the contract.
  EXPECT_EQ(mounts[2].image_case(), v1::MountImageRequest::kImageName);
  EXPECT_EQ(mounts[2].image_name(), "");
}

TEST_F(DismApi, BadArgumentsAreRefusedHere) {
  const auto mount = [](PCWSTR image, PCWSTR path, int identifier, DWORD flags) {
    return DismMountImage(image, path, 1, nullptr, static_cast<DismImageIdentifier>(identifier), flags, nullptr,
                          nullptr, nullptr);
  };
  EXPECT_EQ(mount(nullptr, L"/mnt", 0, 1), E_INVALIDARG);
  EXPECT_THAT(LastError(), HasSubstr("image path is NULL"));
  EXPECT_EQ(mount(L"/a.wim", nullptr, 0, 1), E_INVALIDARG);
  EXPECT_THAT(LastError(), HasSubstr("mount path is NULL"));
  EXPECT_EQ(mount(L"", L"/mnt", 0, 1), E_INVALIDARG);
  EXPECT_EQ(mount(L"Q:\\a.wim", L"/mnt", 0, 1), E_INVALIDARG);
  EXPECT_THAT(LastError(), HasSubstr("DISMD_DRIVES"));
  const wchar_t beyond_unicode[] = {L'/', static_cast<wchar_t>(0x110000), 0};
  EXPECT_EQ(mount(beyond_unicode, L"/mnt", 0, 1), E_INVALIDARG);
  EXPECT_EQ(mount(std::wstring(5000, L'/').c_str(), L"/mnt", 0, 1), E_INVALIDARG);
  EXPECT_EQ(mount(L"/a.wim", L"/mnt", 3, 1), E_INVALIDARG);
  EXPECT_EQ(mount(L"/a.wim", L"/mnt", DismImageNone, 1), DISMAPI_E_MUST_SPECIFY_INDEX_OR_NAME);
  EXPECT_EQ(Mount(reinterpret_cast<HANDLE>(0x1234)), E_HANDLE);
  EXPECT_EQ(DismUnmountImage(nullptr, DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr), E_INVALIDARG);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_COMMIT_MASK, nullptr, nullptr, nullptr), E_INVALIDARG);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_DISCARD_IMAGE | DISM_COMMIT_APPEND, nullptr, nullptr, nullptr),
            E_INVALIDARG);
  UINT count = 1;
  DismImageInfo* images = nullptr;
  EXPECT_EQ(DismGetImageInfo(L"/a.wim", nullptr, &count), E_INVALIDARG);
  EXPECT_EQ(DismGetImageInfo(L"/a.wim", &images, nullptr), E_INVALIDARG);
  EXPECT_EQ(DismGetImageInfo(nullptr, &images, &count), E_INVALIDARG);
  EXPECT_EQ(DismGetMountedImageInfo(nullptr, &count), E_INVALIDARG);
  EXPECT_EQ(DismGetLastErrorMessage(nullptr), E_INVALIDARG);
  EXPECT_TRUE(server_.service.Mounts().empty());
  EXPECT_TRUE(server_.service.Unmounts().empty());
}

TEST_F(DismApi, UnknownMountFlagsAreForTheServiceToJudge) {
  Mount(nullptr, nullptr, DISM_MOUNT_READONLY | DISM_MOUNT_OPTIMIZE | DISM_MOUNT_SUPPORT_EA | 0x110);
  ASSERT_EQ(server_.service.Mounts().size(), 1u);
  EXPECT_EQ(server_.service.Mounts()[0].flags(), 0x110u);
  EXPECT_TRUE(server_.service.Mounts()[0].read_only());
}

TEST_F(DismApi, UnmountFlagsReachTheService) {
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr), S_OK);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_COMMIT_IMAGE | DISM_COMMIT_APPEND, nullptr, nullptr, nullptr), S_OK);
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_COMMIT_GENERATE_INTEGRITY, nullptr, nullptr, nullptr), S_OK);
  const auto unmounts = server_.service.Unmounts();
  ASSERT_EQ(unmounts.size(), 3u);
  EXPECT_EQ(unmounts[0].changes(), v1::CHANGES_DISCARD);
  EXPECT_EQ(unmounts[1].changes(), v1::CHANGES_COMMIT);
  EXPECT_TRUE(unmounts[1].commit().append());
  EXPECT_FALSE(unmounts[1].commit().generate_integrity());
  EXPECT_TRUE(unmounts[2].commit().generate_integrity());
  server_.service.on_unmount = [](auto*, const auto&, const auto&) {
    return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, v1::MOUNT_BUSY, "bash (812) holds files in /mnt");
  };
  EXPECT_EQ(DismUnmountImage(L"/mnt", DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr), _HRESULT_TYPEDEF_(0xC1420117));
  EXPECT_EQ(LastError(), "bash (812) holds files in /mnt");
}

TEST_F(DismApi, ReasonsDecideWhateverTheCode) {
  server_.service.on_mount = [](auto*, const auto&, const auto& send) {
    send(Snapshot(1));
    return ErrorStatus(grpc::StatusCode::UNAVAILABLE, v1::MOUNT_POINT_NOT_EMPTY, "/mnt is not empty: ümläut");
  };
  EXPECT_EQ(Mount(), _HRESULT_TYPEDEF_(0xC1420114));
  EXPECT_EQ(LastError(), "/mnt is not empty: ümläut");
}

TEST_F(DismApi, ErrorsWithoutReasonGoByTheirCode) {
  const std::pair<grpc::StatusCode, HRESULT> rows[] = {
      {grpc::StatusCode::UNIMPLEMENTED, E_NOTIMPL},          {grpc::StatusCode::INTERNAL, E_FAIL},
      {grpc::StatusCode::PERMISSION_DENIED, E_ACCESSDENIED}, {grpc::StatusCode::CANCELLED, kCancelled},
      {grpc::StatusCode::INVALID_ARGUMENT, E_INVALIDARG},    {grpc::StatusCode::UNKNOWN, E_FAIL},
  };
  for (const auto& [code, hresult] : rows) {
    server_.service.on_mount = [code = code](auto*, const auto&, const auto&) { return grpc::Status(code, "words"); };
    EXPECT_EQ(Mount(), hresult) << code;
    EXPECT_EQ(LastError(), "words");
  }
  // Details that are no google.rpc.Status.
  server_.service.on_mount = [](auto*, const auto&, const auto&) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "words", "\x1a\xff\xff\xff\xff\x7fgarbage");
  };
  EXPECT_EQ(Mount(), E_FAIL);
  // A stream that ends well without an outcome.
  server_.service.on_mount = [](auto*, const auto&, const auto& send) {
    send(Snapshot(50));
    return grpc::Status::OK;
  };
  EXPECT_EQ(Mount(), E_FAIL);
}

TEST_F(DismApi, AServiceThatComesBackIsFoundAtOnce) {
  EXPECT_EQ(Mount(), S_OK);
  server_.Stop();
  EXPECT_EQ(Mount(), kServerUnavailable);
  EXPECT_THAT(LastError(), HasSubstr("no dismd service answers at unix:" + server_.socket_path()));
  EXPECT_THAT(LastError(), HasSubstr("systemctl start dismd"));
  EXPECT_EQ(Mount(), kServerUnavailable);
  server_.Start();
  EXPECT_EQ(Mount(), S_OK) << LastError();
}

TEST_F(DismApi, ALostConnectionIsToldApart) {
  absl::Notification begun;
  server_.service.on_mount = [&](grpc::ServerContext* context, const auto&, const auto& send) {
    send(Snapshot(10));
    begun.Notify();
    WaitUntilCancelled(context);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed");
  };
  std::thread stopper([&] {
    begun.WaitForNotification();
    server_.Stop();
  });
  EXPECT_EQ(Mount(), kServerUnavailable);
  stopper.join();
  EXPECT_THAT(LastError(), HasSubstr("was lost in the middle of operation op-1"));
}

TEST_F(DismApi, AddressesThatMakeNoSense) {
  setenv("DISMD_ADDRESS", "tcp:nowhere", 1);
  EXPECT_EQ(Mount(), kServerUnavailable);
  EXPECT_THAT(LastError(), HasSubstr("DISMD_ADDRESS"));
}

TEST_F(DismApi, LastErrorsBelongToTheirThread) {
  server_.service.on_mount = [](auto*, const v1::MountImageRequest& request, const auto&) {
    return ErrorStatus(grpc::StatusCode::NOT_FOUND, v1::IMAGE_NOT_FOUND, request.image_path());
  };
  EXPECT_EQ(LastError(), "");
  EXPECT_EQ(Mount(), E_INVALIDARG);
  std::thread([] {
    EXPECT_EQ(LastError(), "");
    EXPECT_EQ(DismUnmountImage(nullptr, 0, nullptr, nullptr, nullptr), E_INVALIDARG);
    EXPECT_THAT(LastError(), HasSubstr("NULL"));
  }).join();
  EXPECT_EQ(LastError(), "/images/a.wim");
  EXPECT_EQ(LastError(), "/images/a.wim");
  server_.service.on_mount = nullptr;
  EXPECT_EQ(Mount(), S_OK);
  EXPECT_EQ(LastError(), "");
}

TEST_F(DismApi, ImageInfoHasEveryField) {
  server_.service.on_info = [](const v1::GetImageInfoRequest& request, v1::GetImageInfoResponse* response) {
    EXPECT_EQ(request.image_path(), "/a.wim");
    v1::ImageInfo* image = response->add_images();
    image->set_image_type(v1::IMAGE_TYPE_WIM);
    image->set_image_index(1);
    image->set_image_name("Näme");
    image->set_image_description("Description");
    image->set_image_size(uint64_t{5} << 32);
    image->set_architecture(9);
    image->set_product_name("Product");
    image->set_edition_id("Edition");
    image->set_installation_type("Client");
    image->set_hal("acpiapic");
    image->set_product_type("WinNT");
    image->set_product_suite("Terminal Server");
    image->set_major_version(10);
    image->set_minor_version(1);
    image->set_build(19041);
    image->set_service_pack_build(508);
    image->set_service_pack_level(2);
    image->set_bootable(v1::BOOTABLE_NO);
    image->set_system_root("WINDOWS");
    image->add_languages("de-DE");
    image->add_languages("en-US");
    image->set_default_language_index(1);
    image->set_directory_count(uint64_t{1} << 40);
    image->set_file_count(1234);
    image->set_creation_time(132'223'104'001'230'000);  // 2020-01-01 00:00:00.123
    response->add_images()->set_image_type(v1::IMAGE_TYPE_VHD);
    return grpc::Status::OK;
  };
  DismImageInfo* images = nullptr;
  UINT count = 0;
  ASSERT_EQ(DismGetImageInfo(L"/a.wim", &images, &count), S_OK);
  ASSERT_EQ(count, 2u);
  // Members of packed structures cannot be bound to references: copies.
  const DismImageInfo image = images[0];
  EXPECT_EQ(+image.ImageType, +DismImageTypeWim);
  EXPECT_EQ(+image.ImageIndex, 1u);
  EXPECT_STREQ(+image.ImageName, L"Näme");
  EXPECT_STREQ(+image.ImageDescription, L"Description");
  EXPECT_EQ(+image.ImageSize, uint64_t{5} << 32);
  EXPECT_EQ(+image.Architecture, 9u);
  EXPECT_STREQ(+image.ProductName, L"Product");
  EXPECT_STREQ(+image.EditionId, L"Edition");
  EXPECT_STREQ(+image.InstallationType, L"Client");
  EXPECT_STREQ(+image.Hal, L"acpiapic");
  EXPECT_STREQ(+image.ProductType, L"WinNT");
  EXPECT_STREQ(+image.ProductSuite, L"Terminal Server");
  EXPECT_EQ(+image.MajorVersion, 10u);
  EXPECT_EQ(+image.MinorVersion, 1u);
  EXPECT_EQ(+image.Build, 19041u);
  EXPECT_EQ(+image.SpBuild, 508u);
  EXPECT_EQ(+image.SpLevel, 2u);
  EXPECT_EQ(+image.Bootable, +DismImageBootableNo);
  EXPECT_STREQ(+image.SystemRoot, L"WINDOWS");
  ASSERT_EQ(+image.LanguageCount, 2u);
  EXPECT_STREQ(image.Language[0].Value, L"de-DE");
  EXPECT_STREQ(image.Language[1].Value, L"en-US");
  EXPECT_EQ(+image.DefaultLanguageIndex, 1u);
  ASSERT_NE(+image.CustomizedInfo, nullptr);
  DismWimCustomizedInfo more;
  memcpy(&more, image.CustomizedInfo, sizeof(more));
  EXPECT_EQ(more.Size, sizeof(more));
  EXPECT_EQ(more.DirectoryCount, 0xFFFFFFFFu);
  EXPECT_EQ(more.FileCount, 1234u);
  EXPECT_EQ(more.CreatedTime.wYear, 2020);
  EXPECT_EQ(more.CreatedTime.wMonth, 1);
  EXPECT_EQ(more.CreatedTime.wDay, 1);
  EXPECT_EQ(more.CreatedTime.wDayOfWeek, 3);
  EXPECT_EQ(more.CreatedTime.wHour, 0);
  EXPECT_EQ(more.CreatedTime.wMilliseconds, 123);
  EXPECT_EQ(more.ModifiedTime.wYear, 0);
  const DismImageInfo disk = images[1];
  EXPECT_EQ(+disk.ImageType, +DismImageTypeVhd);
  EXPECT_STREQ(+disk.ImageName, L"");
  EXPECT_EQ(+disk.CustomizedInfo, nullptr);
  EXPECT_EQ(+disk.Language, nullptr);
  EXPECT_EQ(+disk.Bootable, +DismImageBootableUnknown);

  int local = 0;
  EXPECT_EQ(DismDelete(&local), E_INVALIDARG);
  EXPECT_EQ(DismDelete(&images[1]), E_INVALIDARG);
  EXPECT_EQ(DismDelete(images), S_OK);
  EXPECT_EQ(DismDelete(images), E_INVALIDARG);
  EXPECT_EQ(DismDelete(nullptr), S_OK);
}

TEST_F(DismApi, MountedImagesAndNone) {
  DismMountedImageInfo* mounts = reinterpret_cast<DismMountedImageInfo*>(8);
  UINT count = 9;
  EXPECT_EQ(DismGetMountedImageInfo(&mounts, &count), S_OK);
  EXPECT_EQ(mounts, nullptr);
  EXPECT_EQ(count, 0u);
  server_.service.on_list = [](v1::ListMountsResponse* response) {
    const v1::MountStatus states[] = {v1::MOUNT_STATUS_OK, v1::MOUNT_STATUS_NEEDS_REMOUNT, v1::MOUNT_STATUS_INVALID};
    for (uint32_t i = 0; i < 3; ++i) {
      v1::Mount* mount = response->add_mounts();
      mount->set_mount_path("/mnt/" + std::to_string(i));
      mount->set_image_path("/images/a.wim");
      mount->set_image_index(i + 1);
      mount->set_read_only(i == 0);
      mount->set_status(states[i]);
    }
    return grpc::Status::OK;
  };
  ASSERT_EQ(DismGetMountedImageInfo(&mounts, &count), S_OK);
  ASSERT_EQ(count, 3u);
  for (UINT i = 0; i < count; ++i) {
    const DismMountedImageInfo mount = mounts[i];
    EXPECT_EQ(std::wstring(mount.MountPath), L"/mnt/" + std::to_wstring(i));
    EXPECT_EQ(std::wstring(mount.ImageFilePath), L"/images/a.wim");
    EXPECT_EQ(+mount.ImageIndex, i + 1);
    EXPECT_EQ(+mount.MountMode, i == 0 ? +DismReadOnly : +DismReadWrite);
    EXPECT_EQ(static_cast<UINT>(mount.MountStatus), i);
  }
  EXPECT_EQ(DismDelete(mounts), S_OK);
}

size_t EntriesOf(const char* directory) {
  size_t count = 0;
  DIR* dir = opendir(directory);
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

// Whether there come to be no more than `most` entries.
bool ComesDownTo(const char* directory, size_t most) {
  for (absl::Time end = absl::Now() + kPatience; EntriesOf(directory) > most; absl::SleepFor(absl::Milliseconds(5))) {
    if (absl::Now() > end) return false;
  }
  return true;
}

TEST_F(DismApi, AThousandCallsLeaveNoThreadAndNoDescriptor) {
  const auto calls = [this](int rounds) {
    for (int i = 0; i < rounds; ++i) {
      server_.service.cancelled = std::make_unique<absl::Notification>();
      HANDLE event = CreateEventW(nullptr, i % 2, FALSE, nullptr);
      if (i % 10 == 0) {
        MountWaitsForCancel(CancelledEnd());
        Recorder recorder;
        recorder.also = [event](UINT) { SetEvent(event); };
        EXPECT_EQ(Mount(event, &recorder), kCancelled);
      } else {
        server_.service.on_mount = nullptr;
        EXPECT_EQ(Mount(event), S_OK);
      }
      DismMountedImageInfo* mounts = nullptr;
      UINT count = 0;
      EXPECT_EQ(DismGetMountedImageInfo(&mounts, &count), S_OK);
      CloseHandle(event);
    }
  };
  calls(50);
  const size_t threads = EntriesOf("/proc/self/task"), fds = EntriesOf("/proc/self/fd");
  calls(1000);
  // The test's own server has pools of threads that breathe by a few; a leak would be hundreds, and stay.
  EXPECT_TRUE(ComesDownTo("/proc/self/task", threads + 8));
  EXPECT_TRUE(ComesDownTo("/proc/self/fd", fds + 2));
}

TEST_F(DismApi, ThreadsCallAtOnce) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([] {
      for (int k = 0; k < 50; ++k) EXPECT_EQ(Mount(), S_OK);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(server_.service.Mounts().size(), 400u);
}

TEST_F(DismApi, AForkedChildBeginsAnew) {
  EXPECT_EQ(Mount(), S_OK);
  HANDLE event = CreateEventW(nullptr, TRUE, FALSE, nullptr);
  // Locks that another thread holds in the parent must not hold the child.
  std::atomic<bool> stop = false;
  std::thread busy([&] {
    while (!stop) {
      DismGetLastErrorMessage(nullptr);
      LastError();
      CloseHandle(CreateEventW(nullptr, TRUE, FALSE, nullptr));
    }
  });
  for (int round = 0; round < 50; ++round) {
    pid_t child = fork();
    if (child == 0) {
      alarm(20);  // a child that hangs is killed, and seen
      bool right = Mount() == DISMAPI_E_DISMAPI_NOT_INITIALIZED && LastError().find("DismInit") != std::string::npos;
      right = right && !SetEvent(event);
      right = right && DismInitialize(DismLogErrors, nullptr, nullptr) == S_OK && Mount() == S_OK;
      right = right && DismShutdown() == S_OK;
      _exit(right ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }
  stop = true;
  busy.join();
  EXPECT_TRUE(CloseHandle(event));
  EXPECT_EQ(Mount(), S_OK) << "the parent goes on";
}

TEST(DismApiLog, HasDismsLineFormat) {
  FakeServer server;
  const std::string path = server.directory() + "/dism.log";
  const std::wstring wide(path.begin(), path.end()), directory(server.directory().begin(), server.directory().end());
  ASSERT_EQ(DismInitialize(DismLogErrorsWarningsInfo, wide.c_str(), directory.c_str()), S_OK);
  EXPECT_EQ(Mount(), S_OK);
  server.service.on_mount = [](auto*, const auto&, const auto&) {
    return ErrorStatus(grpc::StatusCode::NOT_FOUND, v1::IMAGE_NOT_FOUND, "/images/a.wim\nis not there");
  };
  EXPECT_EQ(Mount(), E_INVALIDARG);
  EXPECT_EQ(DismAddDriver(1, L"x", FALSE), E_NOTIMPL);
  EXPECT_THAT(LastError(), HasSubstr("DismAddDriver"));
  EXPECT_EQ(DismShutdown(), S_OK);
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  const std::string start = "^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}, ";
  const std::string ids = "DISM   API: PID=" + std::to_string(getpid()) + " TID=[0-9]+ DismApi: ";
  ASSERT_EQ(lines.size(), 4u);
  const std::string expected[] = {
      "Info                  " + ids + "HRESULT=0x00000000 - DismInitialize\r$",
      "Info                  " + ids + "HRESULT=0x00000000 - DismMountImage\r$",
      "Error                 " + ids + "/images/a.wim is not there HRESULT=0x80070057 - DismMountImage\r$",
      "Error                 " + ids + "DismAddDriver is not there.* HRESULT=0x80004001 - DismAddDriver\r$"};
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(std::regex_search(lines[i], std::regex(start + expected[i]))) << lines[i];
}

TEST(DismApiScratch, IsPassedOnForReadWriteMounts) {
  FakeServer server;
  const std::string& directory = server.directory();
  const std::wstring wide(directory.begin(), directory.end());
  ASSERT_EQ(DismInitialize(DismLogErrors, nullptr, wide.c_str()), S_OK);
  EXPECT_EQ(DismMountImage(L"/images/a.wim", L"/mnt/a", 1, nullptr, DismImageIndex, 0, nullptr, nullptr, nullptr),
            S_OK);
  EXPECT_EQ(DismMountImage(L"/images/a.wim", L"/mnt/b", 1, nullptr, DismImageIndex, DISM_MOUNT_READONLY, nullptr,
                           nullptr, nullptr),
            S_OK);
  EXPECT_EQ(server.service.Mounts().at(0).scratch_directory(), directory);
  EXPECT_EQ(server.service.Mounts().at(1).scratch_directory(), "");
  EXPECT_EQ(DismShutdown(), S_OK);
  ASSERT_EQ(DismInitialize(DismLogErrors, nullptr, nullptr), S_OK);
  EXPECT_EQ(DismMountImage(L"/images/a.wim", L"/mnt/a", 1, nullptr, DismImageIndex, 0, nullptr, nullptr, nullptr),
            S_OK);
  EXPECT_EQ(server.service.Mounts().at(2).scratch_directory(), "") << "not that of before";
  EXPECT_EQ(DismShutdown(), S_OK);
}

TEST(DismApiLog, OneThatCannotBeWrittenIsSaidAndNoMore) {
  FakeServer server;
  const std::string missing = server.directory() + "/missing";
  const std::wstring wide(missing.begin(), missing.end());
  EXPECT_EQ(DismInitialize(DismLogErrors, (wide + L"/dism.log").c_str(), nullptr), DISMAPI_E_LOGGING_DISABLED);
  EXPECT_THAT(LastError(), HasSubstr(missing));
  EXPECT_EQ(Mount(), S_OK) << "the library is ready";
  EXPECT_EQ(DismShutdown(), S_OK);
  EXPECT_EQ(DismInitialize(DismLogErrors, nullptr, wide.c_str()), E_INVALIDARG) << "no such scratch directory";
  EXPECT_THAT(LastError(), HasSubstr(missing));
  EXPECT_EQ(DismShutdown(), DISMAPI_E_DISMAPI_NOT_INITIALIZED);
  EXPECT_EQ(DismInitialize(static_cast<DismLogLevel>(4), nullptr, nullptr), E_INVALIDARG);
  EXPECT_EQ(DismInitialize(DismLogErrors, L"", nullptr), E_INVALIDARG);
}

}  // namespace
}  // namespace dismd::testing
