// SPDX-License-Identifier: GPL-3.0-or-later
//
// The program dism as scripts written for dism.exe use it: command lines, what they read of its output, exit codes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>

#include "tests/unit/client_fake_service.h"

namespace dismd::testing {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

struct Result {
  int exit_code;
  std::string out;
};

class Dism : public ::testing::Test {
 protected:
  void SetUp() override { setenv("XDG_STATE_HOME", server_.directory().c_str(), 1); }

  // `arguments` as a shell takes them. Nothing may go to stderr.
  Result Run(const std::string& arguments) {
    const std::string err = server_.directory() + "/err";
    FILE* pipe = popen((DISMD_BIN_DIR "/dism " + arguments + " 2> '" + err + "'").c_str(), "r");
    Result result;
    char buffer[4096];
    for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) result.out.append(buffer, got);
    const int status = pclose(pipe);
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::ifstream file(err);
    EXPECT_THAT(std::string(std::istreambuf_iterator<char>(file), {}), IsEmpty());
    return result;
  }

  FakeServer server_;
};

TEST_F(Dism, MountsByAnySpelling) {
  const char* const kLines[] = {
      "/Mount-Image /ImageFile:/a.wim /Index:2 /MountDir:/mnt /ReadOnly",
      "/mount-wim /WIMFILE=/a.wim /index=2 /mountdir=/mnt /readonly /English /NoRestart",
      "'/MOUNT-IMAGE' '/ImageFile:\"/a.wim\"' /Index:2 '/MountDir:\"/mnt\"' /ReadOnly /Optimize",
  };
  for (const char* line : kLines) {
    const Result result = Run(line);
    EXPECT_EQ(result.exit_code, 0) << line << result.out;
    EXPECT_THAT(result.out, StartsWith("\nDeployment Image Servicing and Management tool\nVersion: "));
    EXPECT_THAT(result.out, HasSubstr("Mounting image\n"));
    EXPECT_THAT(result.out, HasSubstr("[                           0.0%                           ]"));
    EXPECT_THAT(result.out, HasSubstr("[==========================100.0%==========================]"));
    EXPECT_THAT(result.out, EndsWith("\nThe operation completed successfully.\n"));
    const v1::MountImageRequest request = server_.service.Mounts().back();
    EXPECT_EQ(request.image_path(), "/a.wim");
    EXPECT_EQ(request.mount_path(), "/mnt");
    EXPECT_EQ(request.image_index(), 2u);
    EXPECT_TRUE(request.read_only());
  }
  EXPECT_EQ(Run("/Mount-Image /ImageFile:/a.wim '/Name:Windows 11 Pro' /MountDir:/mnt /CheckIntegrity").exit_code, 0);
  EXPECT_EQ(server_.service.Mounts().back().image_name(), "Windows 11 Pro");
  EXPECT_TRUE(server_.service.Mounts().back().check_integrity());
  EXPECT_FALSE(server_.service.Mounts().back().read_only());
  EXPECT_EQ(Run("/Quiet /Mount-Image /ImageFile:/a.wim /Index:1 /MountDir:/mnt").out, "");
}

TEST_F(Dism, CommandLinesThatMakeNoSense) {
  const std::pair<const char*, const char*> kLines[] = {
      {"/Mount-Image /ImageFile:a /Index:1", "mountdir option is required"},
      {"/Mount-Image /ImageFile:a /MountDir:b", "index or name option is required"},
      {"/Mount-Image /ImageFile:a /Index:x /MountDir:b", "not valid for the index option"},
      {"/Mount-Image /ImageFile:a /Index:1 /Index:2 /MountDir:b", "given twice"},
      {"/Mount-Image /ImageFile: /Index:1 /MountDir:b", "imagefile option needs a value"},
      {"/Mount-Image /ImageFile:a /Index:1 /MountDir:b /Commit", "not recognized in this context"},
      {"/Mount-Image /ReadOnly:1", "takes no value"},
      {"/Unmount-Image /MountDir:a", "either /Commit or /Discard"},
      {"/Unmount-Image /MountDir:a /Commit /Discard", "either /Commit or /Discard"},
      {"/Unmount-Image /MountDir:a /Discard /Append", "go with /Commit"},
      {"/Get-ImageInfo /ImageFile:a /Index:1 /Name:b", "exclude each other"},
      {"/Get-MountedImageInfo /LogLevel:5", "not valid for the loglevel option"},
      {"/Get-MountedImageInfo /Frobnicate", "frobnicate option is unknown"},
      {"/Mount-Image /Unmount-Image", "Only one command"},
      {"/English", "command is missing"},
      {"/Get-ImageInfo word", "word is not recognized"},
      {"", "command is missing"},
  };
  for (const auto& [line, words] : kLines) {
    const Result result = Run(line);
    EXPECT_EQ(result.exit_code, 87) << line;
    EXPECT_THAT(result.out, HasSubstr("\nError: 87\n\n")) << line;
    EXPECT_THAT(result.out, HasSubstr(words));
    EXPECT_THAT(result.out, HasSubstr("  /")) << "the help follows";
  }
  EXPECT_TRUE(server_.service.Mounts().empty() && server_.service.Unmounts().empty());
  EXPECT_EQ(Run("/?").exit_code, 0);
  EXPECT_THAT(Run("/Get-Help").out, HasSubstr("/Cleanup-Mountpoints"));
  EXPECT_THAT(Run("/Mount-Image /?").out, Not(HasSubstr("/Cleanup-Mountpoints")));
}

TEST_F(Dism, ErrorsAreShownAsDismExeShowsThem) {
  struct Row {
    v1::Reason reason;
    const char* shown;
    int exit_code;
  };
  const Row kRows[] = {
      {v1::ALREADY_MOUNTED_READ_WRITE, "0xc1420127", 0x27},
      {v1::IMAGE_READ_ONLY, "0xc1510111", 0x11},
      {v1::ACCESS_DENIED, "5", 5},
      {v1::INVALID_FLAGS, "87", 87},
      {v1::IMAGE_NOT_FOUND, "2", 2},
      {v1::MOUNT_POINT_NOT_FOUND, "3", 3},
      {v1::BAD_IMAGE_FORMAT, "11", 11},
      {v1::IMAGE_IN_USE, "32", 32},
      {v1::DISK_FULL, "112", 112},
      {v1::CANCELLED, "1223", 1223 & 0xFF},
      {v1::ENCRYPTED_VOLUME, "0x80310000", 1},
      {v1::INVALID_IMAGE_NAME, "0xc0040006", 6},
      {v1::NOT_MOUNTED, "0xc142011c", 0x1C},
  };
  for (const Row& row : kRows) {
    server_.service.on_mount = [&row](auto*, const auto&, const auto&) {
      return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, row.reason, "the words of it");
    };
    const Result result = Run("/Mount-Image /ImageFile:/a.wim /Index:1 /MountDir:/mnt");
    EXPECT_EQ(result.exit_code, row.exit_code) << row.shown;
    EXPECT_THAT(result.out, HasSubstr(std::string("\nError: ") + row.shown + "\n\nthe words of it\n\n"));
    EXPECT_THAT(result.out, EndsWith("The DISM log file can be found at " + server_.directory() + "/dismd/dism.log\n"));
  }
  server_.Stop();
  const Result result = Run("/Get-MountedImageInfo");
  EXPECT_EQ(result.exit_code, 1722 & 0xFF);
  EXPECT_THAT(result.out, HasSubstr("Error: 1722"));
}

TEST_F(Dism, CommitsAndUnmounts) {
  server_.service.on_get_mount = [](const v1::GetMountRequest& request, v1::GetMountResponse* response) {
    if (request.mount_path() != "/mnt") {
      return ErrorStatus(grpc::StatusCode::NOT_FOUND, v1::NOT_MOUNTED, request.mount_path() + " is not a mount");
    }
    response->mutable_mount()->set_image_path("/a.wim");
    response->mutable_mount()->set_image_index(3);
    return grpc::Status::OK;
  };
  Result result = Run("/Commit-Image /MountDir:/mnt /CheckIntegrity /Append");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("Image File : /a.wim\nImage Index : 3\nSaving image\n"));
  EXPECT_TRUE(server_.service.Commits().back().options().append());
  EXPECT_TRUE(server_.service.Commits().back().options().generate_integrity());
  result = Run("/Unmount-Wim /MountDir:/mnt /Commit");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(server_.service.Unmounts().back().changes(), v1::CHANGES_COMMIT);
  EXPECT_THAT(result.out, HasSubstr("Saving image\n"));
  EXPECT_THAT(result.out, HasSubstr("Unmounting image\n"));
  result = Run("/Unmount-Image /MountDir:/mnt /Discard");
  EXPECT_EQ(server_.service.Unmounts().back().changes(), v1::CHANGES_DISCARD);
  EXPECT_THAT(result.out, Not(HasSubstr("Saving image")));
  EXPECT_THAT(Run("/Unmount-Image /MountDir:/other /Discard").out, HasSubstr("Error: 0xc142011c"));
  EXPECT_EQ(Run("/Remount-Image /MountDir:/mnt").exit_code, 0);
  EXPECT_EQ(Run("/Cleanup-Wim").exit_code, 0);
}

TEST_F(Dism, TellsOfImages) {
  server_.service.on_info = [](const auto&, v1::GetImageInfoResponse* response) {
    v1::ImageInfo* image = response->add_images();
    image->set_image_type(v1::IMAGE_TYPE_WIM);
    image->set_image_index(1);
    image->set_image_name("Windows 11 Pro");
    image->set_image_size(1234567890);
    image->set_architecture(9);
    image->set_major_version(10);
    image->set_build(22621);
    image->set_service_pack_build(525);
    image->set_edition_id("Professional");
    image->set_directory_count(12);
    image->set_file_count(3456);
    image->set_creation_time(133'000'000'000'000'000);
    image->add_languages("de-DE");
    image->add_languages("en-US");
    image->set_default_language_index(1);
    response->add_images()->set_image_index(2);
    return grpc::Status::OK;
  };
  EXPECT_THAT(Run("/Get-ImageInfo /ImageFile:/a.wim").out,
              HasSubstr("Details for image : /a.wim\n\nIndex : 1\nName : Windows 11 Pro\nDescription : <undefined>\n"
                        "Size : 1,234,567,890 bytes\n\nIndex : 2\n"));
  setenv("TZ", "UTC", 1);
  const Result details = Run("/Get-WimInfo /WimFile:/a.wim /index:1");
  EXPECT_THAT(details.out,
              HasSubstr("Size : 1,234,567,890 bytes\nWIM Bootable : No\nArchitecture : x64\nHal : <undefined>\n"
                        "Version : 10.0.22621\nServicePack Build : 525\nServicePack Level : 0\nEdition : Professional\n"
                        "Installation : <undefined>\nProductType : <undefined>\nProductSuite : <undefined>\n"
                        "System Root : <undefined>\nDirectories : 12\nFiles : 3456\nCreated : 6/18/2022 - "));
  EXPECT_THAT(details.out, HasSubstr("\nModified : <undefined>\nLanguages :\n\tde-DE\n\ten-US (Default)\n\n"
                                     "The operation completed successfully.\n"));
  EXPECT_THAT(Run("/Get-ImageInfo /ImageFile:/a.wim '/Name:windows 11 PRO'").out, HasSubstr("Edition : Professional"));
  const Result missing = Run("/Get-ImageInfo /ImageFile:/a.wim /Index:9");
  EXPECT_THAT(missing.out, HasSubstr("Error: 0xc0040005"));
  EXPECT_EQ(missing.exit_code, 5);
}

TEST_F(Dism, TellsOfMounts) {
  EXPECT_THAT(Run("/Get-MountedImageInfo").out, HasSubstr("No mounted images were found.\n\nThe operation completed"));
  server_.service.on_list = [](v1::ListMountsResponse* response) {
    v1::Mount* mount = response->add_mounts();
    mount->set_mount_path("/mnt");
    mount->set_image_path("/a.wim");
    mount->set_image_index(1);
    mount->set_status(v1::MOUNT_STATUS_NEEDS_REMOUNT);
    return grpc::Status::OK;
  };
  EXPECT_THAT(Run("/Get-MountedWimInfo").out,
              HasSubstr("Mounted images:\n\nMount Dir : /mnt\nImage File : /a.wim\nImage Index : 1\n"
                        "Mounted Read/Write : Yes\nStatus : Needs Remount\n\nThe operation completed successfully.\n"));
  EXPECT_THAT(Run("/Get-MountedImageInfo /Format:Table").out,
              HasSubstr("Mount Dir | Image File | Image Index | Mounted Read/Write | Status\n"
                        "--------- | ---------- | ----------- | ------------------ | ------"));
}

TEST_F(Dism, KeepsALog) {
  const std::string log = server_.directory() + "/my.log";
  EXPECT_EQ(Run("/Get-MountedImageInfo '/LogPath:" + log + "' /LogLevel:3").exit_code, 0);
  std::ifstream file(log);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_THAT(text, HasSubstr(", Info                  DISM   DISM.EXE: PID="));
  const Result result = Run("/Get-MountedImageInfo /LogPath:" + server_.directory() + "/missing/dism.log");
  EXPECT_EQ(result.exit_code, 0) << "no reason not to work";
  EXPECT_THAT(result.out, HasSubstr("WARNING: the log file"));
}

TEST_F(Dism, PassesTheScratchDirectoryOn) {
  EXPECT_EQ(Run("/Get-MountedImageInfo /ScratchDir:" + server_.directory() + "/missing").exit_code, 3);
  const std::string mount = "/Mount-Image /ImageFile:/a.wim /Index:1 /MountDir:/mnt /ScratchDir:" + server_.directory();
  EXPECT_EQ(Run(mount).exit_code, 0);
  EXPECT_EQ(Run(mount + " /ReadOnly").exit_code, 0);
  EXPECT_EQ(server_.service.Mounts().at(0).scratch_directory(), server_.directory());
  EXPECT_EQ(server_.service.Mounts().at(1).scratch_directory(), "") << "nothing is kept of a read-only mount";
}

}  // namespace
}  // namespace dismd::testing
