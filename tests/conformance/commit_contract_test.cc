// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a read-write mount's caller gets when calls follow each other, which is more than a row of contract.tsv can say.
// What is in the file afterwards is asked of wimlib.

#include <gmock/gmock.h>
#include <stdio.h>
#include <unistd.h>

#include <filesystem>

#include "tests/conformance/conformance_images.h"

namespace dismd::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// What a shell command prints.
std::string Output(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, got);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

class CommitContract : public ContractTest {
 protected:
  // A copy of an image that belongs to the caller.
  std::string Own(const std::string& name) {
    const std::string path = MakeDirectory("own-" + name) + "/" + name;
    fs::copy_file(Image(name), path);
    EXPECT_EQ(chown(path.c_str(), kCaller, kCallersGroup), 0);
    return path;
  }
  HRESULT MountWritable(const std::string& image, UINT index = 1) {
    return Mount(image, mount_point(), index, DISM_MOUNT_READWRITE);
  }
  // A new file in a mount, made by the caller.
  bool Write(const std::string& directory, const std::string& name, const std::string& text) {
    return RunAsCaller({"sh", "-c", "printf %s \"$1\" > \"$0\"", directory + "/" + name, text});
  }
  HRESULT Commit(DWORD flags = 0) {
    AsUser caller(kCaller, kCallersGroup);
    DismSession session = 0;
    HRESULT hr = DismOpenSession(Wide(mount_point()).c_str(), nullptr, nullptr, &session);
    EXPECT_EQ(Hex(hr), Hex(S_OK)) << LastError();
    if (FAILED(hr)) return hr;
    hr = DismCommitImage(session, flags, nullptr, nullptr, nullptr);
    message_ = LastError();
    EXPECT_EQ(Hex(DismCloseSession(session)), Hex(S_OK));
    return hr;
  }
  std::string Status() {
    DismMountedImageInfo* mounts = nullptr;
    UINT count = 0;
    EXPECT_EQ(DismGetMountedImageInfo(&mounts, &count), S_OK);
    std::string text;
    for (UINT i = 0; i < count; ++i) {
      const DismMountedImageInfo mount = mounts[i];
      text += std::to_string(mount.ImageIndex) + (mount.MountMode == DismReadOnly ? " ro " : " rw ") +
              std::to_string(mount.MountStatus) + ";";
    }
    DismDelete(mounts);
    return text;
  }
  // As wimlib reads it. "" for a name that is not there.
  static std::string InImage(const std::string& image, int index, const std::string& name) {
    return Output("wimextract '" + image + "' " + std::to_string(index) + " '/" + name +
                  "' --to-stdout 2>/dev/null || :");
  }
  static int Images(const std::string& image) {
    return std::stoi(Output("wiminfo --header '" + image + "' | sed -n 's/^Image Count *= *//p'"));
  }
  static void ExpectSound(const std::string& image) {
    EXPECT_TRUE(RunProgram({"sh", "-c", "wimverify \"$0\" > /dev/null 2>&1", image})) << image << " is damaged";
  }

  std::string message_;
};

TEST_F(CommitContract, ReplacesTheMountedImageAndNoOther) {
  const std::string image = Own("two.wim");
  ASSERT_EQ(Hex(MountWritable(image, 2)), Hex(S_OK)) << LastError() << service_.Log();
  EXPECT_EQ(Status(), "2 rw 0;");
  ASSERT_TRUE(Write(mount_point(), "new.txt", "first"));
  EXPECT_EQ(Hex(Commit()), Hex(S_OK)) << message_;
  EXPECT_EQ(InImage(image, 2, "new.txt"), "first");
  EXPECT_EQ(InImage(image, 1, "new.txt"), "");
  ASSERT_TRUE(Write(mount_point(), "new.txt", "second")) << "the mount stays";
  ASSERT_TRUE(RunAsCaller({"rm", mount_point() + "/hello.txt"}));
  EXPECT_EQ(InImage(image, 2, "new.txt"), "first") << "not committed yet";
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_IMAGE)), Hex(S_OK)) << LastError();
  EXPECT_EQ(InImage(image, 2, "new.txt"), "second");
  EXPECT_EQ(InImage(image, 2, "hello.txt"), "");
  EXPECT_EQ(InImage(image, 1, "hello.txt"), "Hello, world\n");
  EXPECT_EQ(Images(image), 2);
  ExpectSound(image);
  ExpectNothingLeft();
}

TEST_F(CommitContract, AppendsAndIsOfTheNewImageThen) {
  const std::string image = Own("small.wim");
  ASSERT_EQ(Hex(MountWritable(image)), Hex(S_OK)) << LastError();
  ASSERT_TRUE(Write(mount_point(), "new.txt", "appended"));
  EXPECT_EQ(Hex(Commit(DISM_COMMIT_APPEND)), Hex(S_OK)) << message_;
  EXPECT_EQ(Images(image), 2);
  EXPECT_EQ(InImage(image, 1, "new.txt"), "");
  EXPECT_EQ(InImage(image, 2, "new.txt"), "appended");
  EXPECT_EQ(Status(), "2 rw 0;");
  ASSERT_TRUE(Write(mount_point(), "new.txt", "replaced"));
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_IMAGE)), Hex(S_OK)) << LastError();
  EXPECT_EQ(Images(image), 2);
  EXPECT_EQ(InImage(image, 2, "new.txt"), "replaced");
  EXPECT_EQ(InImage(image, 1, "hello.txt"), "Hello, world\n");
  ExpectSound(image);
  ExpectNothingLeft();
}

TEST_F(CommitContract, OneImageIsMountedReadWriteOnce) {
  const std::string image = Own("two.wim"), other = MakeDirectory("other");
  ASSERT_EQ(Hex(MountWritable(image, 1)), Hex(S_OK)) << LastError();
  EXPECT_EQ(Hex(Mount(image, other, 1, DISM_MOUNT_READWRITE)), "0xC1420127");
  EXPECT_THAT(LastError(), HasSubstr(mount_point()));
  ASSERT_EQ(Hex(Mount(image, other, 2, DISM_MOUNT_READWRITE)), Hex(S_OK)) << LastError();
  ASSERT_TRUE(Write(mount_point(), "new.txt", "one"));
  ASSERT_TRUE(Write(other, "new.txt", "two"));
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_IMAGE)), Hex(S_OK)) << LastError();
  EXPECT_TRUE(RunAsCaller({"grep", "-qx", "Hello, world", other + "/hello.txt"})) << "the other goes on";
  EXPECT_EQ(Hex(Unmount(other, DISM_COMMIT_IMAGE)), Hex(S_OK)) << LastError();
  EXPECT_EQ(InImage(image, 1, "new.txt"), "one");
  EXPECT_EQ(InImage(image, 2, "new.txt"), "two");
  ExpectSound(image);
  ExpectNothingLeft();
}

TEST_F(CommitContract, ReadersGoOnAcrossACommit) {
  const std::string image = Own("two.wim"), reader = MakeDirectory("reader");
  ASSERT_EQ(Hex(MountWritable(image, 1)), Hex(S_OK)) << LastError();
  ASSERT_EQ(Hex(Mount(image, reader, 1)), Hex(S_OK)) << LastError();
  ASSERT_TRUE(Write(mount_point(), "new.txt", "one"));
  EXPECT_EQ(Hex(Commit()), Hex(S_OK)) << message_;
  EXPECT_TRUE(RunAsCaller({"cmp", reader + "/folder/noise.bin", mount_point() + "/folder/noise.bin"}));
  EXPECT_TRUE(RunAsCaller({"test", "!", "-e", reader + "/new.txt"})) << "it shows what it was mounted with";
  EXPECT_EQ(Hex(Unmount(reader)), Hex(S_OK));
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_IMAGE)), Hex(S_OK)) << LastError();
  ExpectNothingLeft();
}

TEST_F(CommitContract, FilesInUseAreNotCommittedTwice) {
  const std::string image = Own("small.wim");
  ASSERT_EQ(Hex(MountWritable(image)), Hex(S_OK)) << LastError();
  ASSERT_TRUE(Write(mount_point(), "new.txt", "once"));
  const std::string ready = MakeDirectory("signs") + "/ready";
  FILE* holder = popen(("exec setpriv --reuid=51234 --regid=51234 --clear-groups sh -c 'exec 3< " + mount_point() +
                        "/hello.txt && echo > " + ready + " && { read line || true; }'")
                           .c_str(),
                       "w");
  ASSERT_NE(holder, nullptr);
  while (access(ready.c_str(), F_OK) != 0) usleep(1000);  // ctest ends a test that waits for ever
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_APPEND)), "0xC1420117");
  EXPECT_THAT(LastError(), HasSubstr("sh (")) << "the message names who holds it";
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_APPEND)), "0xC1420117");
  EXPECT_EQ(pclose(holder), 0);
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_COMMIT_APPEND)), Hex(S_OK)) << LastError();
  EXPECT_EQ(Images(image), 2) << "appended once";
  EXPECT_EQ(InImage(image, 2, "new.txt"), "once");
  ExpectSound(image);
  ExpectNothingLeft();
}

}  // namespace
}  // namespace dismd::testing
