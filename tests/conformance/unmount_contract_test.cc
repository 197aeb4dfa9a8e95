// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the other functions return: unmounting a read-only mount, asking what an image holds and what is mounted.

#include <gmock/gmock.h>
#include <stdio.h>
#include <unistd.h>

#include <fstream>

#include "tests/conformance/conformance_images.h"

namespace dismd::testing {
namespace {

using ::testing::HasSubstr;

using UnmountContract = ContractTest;

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

TEST_F(UnmountContract, NothingIsMountedThere) {
  EXPECT_EQ(Hex(Unmount(mount_point())), Hex(DISMAPI_E_UNABLE_TO_UNMOUNT_IMAGE_PATH));
  EXPECT_THAT(LastError(), HasSubstr(mount_point()));
  EXPECT_EQ(Hex(Unmount(mount_point() + "-missing")), Hex(DISMAPI_E_UNABLE_TO_UNMOUNT_IMAGE_PATH));
  ExpectNothingLeft();
}

TEST_F(UnmountContract, CommitOfAReadOnlyMount) {
  ASSERT_EQ(Hex(Mount(Image("small.wim"), mount_point())), Hex(S_OK)) << LastError();
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_IMAGE)), "0xC142010C");
  EXPECT_NE(LastError(), "");
  EXPECT_EQ(MountsBelow(mount_point()).size(), 1u) << "it stays mounted";
  EXPECT_EQ(Hex(Unmount(mount_point() + "/")), Hex(S_OK)) << LastError();
  ExpectNothingLeft();
}

TEST_F(UnmountContract, FilesInUse) {
  ASSERT_EQ(Hex(Mount(Image("small.wim"), mount_point())), Hex(S_OK)) << LastError();
  // A process of the caller's with a file open, until its standard input ends.
  const std::string holder_pid = MakeDirectory("signs") + "/pid";
  FILE* holder = popen(("exec setpriv --reuid=51234 --regid=51234 --clear-groups sh -c 'exec 3< " + mount_point() +
                        "/hello.txt && echo $$ > " + holder_pid + " && exec cat'")
                           .c_str(),
                       "w");
  ASSERT_NE(holder, nullptr);
  // Until it has the file and its name. ctest ends a test that waits for ever.
  for (int pid = 0; pid == 0 || ReadLine("/proc/" + std::to_string(pid) + "/comm") != "cat"; usleep(1000)) {
    pid = atoi(ReadLine(holder_pid).c_str());
  }
  EXPECT_EQ(Hex(Unmount(mount_point())), "0xC1420117");
  EXPECT_THAT(LastError(), HasSubstr(mount_point()));
  EXPECT_THAT(LastError(), HasSubstr("cat")) << "the message names who holds it";
  EXPECT_EQ(MountsBelow(mount_point()).size(), 1u);
  EXPECT_EQ(pclose(holder), 0);
  EXPECT_EQ(Hex(Unmount(mount_point())), Hex(S_OK)) << LastError();
  ExpectNothingLeft();
}

TEST_F(UnmountContract, AnothersMountIsNone) {
  ASSERT_EQ(Hex(Mount(Image("small.wim"), mount_point())), Hex(S_OK)) << LastError();
  DismMountedImageInfo* mounts = nullptr;
  UINT count = 9;
  {
    AsUser other(kCaller + 1, kCallersGroup + 1);
    EXPECT_EQ(Hex(DismUnmountImage(Wide(mount_point()).c_str(), DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr)),
              Hex(DISMAPI_E_UNABLE_TO_UNMOUNT_IMAGE_PATH));
    EXPECT_EQ(Hex(DismGetMountedImageInfo(&mounts, &count)), Hex(S_OK));
    EXPECT_EQ(count, 0u);
  }
  EXPECT_EQ(Hex(DismGetMountedImageInfo(&mounts, &count)), Hex(S_OK));  // root sees all
  ASSERT_EQ(count, 1u);
  DismDelete(mounts);
  EXPECT_EQ(Hex(Unmount(mount_point())), Hex(S_OK)) << LastError();
  ExpectNothingLeft();
}

TEST_F(UnmountContract, MountedImages) {
  const std::string second = MakeDirectory("second mount");
  ASSERT_EQ(Hex(Mount(Image("two.wim"), mount_point(), 2)), Hex(S_OK)) << LastError();
  ASSERT_EQ(Hex(Mount(Image("solid.esd"), second)), Hex(S_OK)) << LastError();
  DismMountedImageInfo* mounts = nullptr;
  UINT count = 0;
  {
    AsUser caller(kCaller, kCallersGroup);
    ASSERT_EQ(Hex(DismGetMountedImageInfo(&mounts, &count)), Hex(S_OK));
  }
  ASSERT_EQ(count, 2u);
  const DismMountedImageInfo first = mounts[0], last = mounts[1];
  EXPECT_EQ(std::wstring(first.MountPath), Wide(mount_point()));
  EXPECT_EQ(std::wstring(first.ImageFilePath), Wide(Image("two.wim")));
  EXPECT_EQ(+first.ImageIndex, 2u);
  EXPECT_EQ(+first.MountMode, +DismReadOnly);
  EXPECT_EQ(+first.MountStatus, +DismMountStatusOk);
  EXPECT_EQ(std::wstring(last.MountPath), Wide(second));
  DismDelete(mounts);
  EXPECT_EQ(Hex(Unmount(second)), Hex(S_OK));
  EXPECT_EQ(Hex(Unmount(mount_point())), Hex(S_OK));
  ExpectNothingLeft();
}

TEST_F(UnmountContract, ImageInfo) {
  const auto ask = [](const std::string& path, UINT* count) {
    AsUser caller(kCaller, kCallersGroup);
    DismImageInfo* images = nullptr;
    HRESULT hr = DismGetImageInfo(Wide(path).c_str(), &images, count);
    if (hr == S_OK && *count > 0) {
      const DismImageInfo image = images[0];
      EXPECT_EQ(+image.ImageType, +DismImageTypeWim);
      EXPECT_EQ(+image.ImageIndex, 1u);
      EXPECT_GT(+image.ImageSize, 1u << 20);
      DismWimCustomizedInfo more;
      memcpy(&more, image.CustomizedInfo, sizeof(more));
      EXPECT_EQ(more.FileCount, 3u);
      EXPECT_GE(more.CreatedTime.wYear, 2020);
    }
    EXPECT_EQ(DismDelete(images), S_OK);
    return Hex(hr);
  };
  UINT count = 0;
  EXPECT_EQ(ask(Image("small.wim"), &count), Hex(S_OK)) << LastError();
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(ask(Image("two.wim"), &count), Hex(S_OK)) << LastError();
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(ask(Image("missing.wim"), &count), Hex(E_INVALIDARG));
  EXPECT_EQ(ask(Image("small.txt"), &count), Hex(E_INVALIDARG));
  EXPECT_EQ(ask(Image("directory.wim"), &count), Hex(E_INVALIDARG));
  EXPECT_EQ(ask(Image("garbage.wim"), &count), "0x8007000B");
  EXPECT_EQ(ask(Image("private.wim"), &count), Hex(E_ACCESSDENIED));
  EXPECT_THAT(LastError(), HasSubstr(Image("private.wim")));
  ExpectNothingLeft();
}

}  // namespace
}  // namespace dismd::testing
