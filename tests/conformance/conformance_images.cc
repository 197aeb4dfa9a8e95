// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/conformance/conformance_images.h"

#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <codecvt>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <locale>

#include "tests/integration/end_of_log.h"

extern char** environ;

namespace dismd::testing {
namespace fs = std::filesystem;

namespace {

void WriteAll(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

// Bytes that no codec makes small.
std::string Noise(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  uint32_t state = seed;
  for (char& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

}  // namespace

bool RunProgram(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  if (posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ) != 0) return false;
  int status = 0;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string MakeImages(const std::string& directory) {
  const auto at = [&directory](const char* name) { return directory + "/" + name; };
  const std::string tree = at("tree");
  fs::create_directories(tree + "/folder");
  WriteAll(tree + "/hello.txt", "Hello, world\n");
  WriteAll(tree + "/folder/noise.bin", Noise(800 << 10, 1));

  const auto capture = [&](const char* name, const char* image_name, std::vector<std::string> options) {
    std::vector<std::string> command = {"wimcapture", tree, at(name), image_name, "--no-acls", "--quiet"};
    command.insert(command.end(), options.begin(), options.end());
    return RunProgram(command);
  };
  if (!capture("small.wim", "Small", {"--compress=XPRESS"})) return "wimcapture of small.wim failed";
  if (!capture("two.wim", "First", {"--compress=LZX"})) return "wimcapture of two.wim failed";
  if (!RunProgram({"wimappend", tree, at("two.wim"), "Second", "--no-acls", "--quiet"})) return "wimappend failed";
  for (const auto& entry : fs::directory_iterator(directory)) {
    chmod(entry.path().c_str(), entry.is_directory() ? 0755 : 0644);
  }
  return "";
}

bool RunAsCaller(std::vector<std::string> arguments) {
  const std::vector<std::string> prefix = {"setpriv", "--reuid=" + std::to_string(kCaller),
                                           "--regid=" + std::to_string(kCallersGroup), "--clear-groups", "--"};
  arguments.insert(arguments.begin(), prefix.begin(), prefix.end());
  return RunProgram(arguments);
}

std::wstring Wide(const std::string& text) {
  return std::wstring_convert<std::codecvt_utf8<wchar_t>>().from_bytes(text);
}

std::string Hex(HRESULT hr) {
  char text[16];
  snprintf(text, sizeof(text), "0x%08X", static_cast<uint32_t>(hr));
  return text;
}

std::string LastError() {
  DismString* text = nullptr;
  if (FAILED(DismGetLastErrorMessage(&text))) return "";
  std::string result = std::wstring_convert<std::codecvt_utf8<wchar_t>>().to_bytes(text->Value);
  DismDelete(text);
  return result;
}

void ContractTest::SetUp() {
  ASSERT_EQ(WhyNoMounts(), "");
  ASSERT_EQ(MakeImages(images_.path()), "");
  ASSERT_TRUE(service_.Start());
  setenv("DISMD_ADDRESS", service_.address().c_str(), 1);
  mount_point_ = MakeDirectory("mount");
  ASSERT_EQ(DismInitialize(DismLogErrors, nullptr, nullptr), S_OK);
  initialised_ = true;
}

void ContractTest::TearDown() {
  if (initialised_) {
    EXPECT_EQ(DismShutdown(), S_OK);
  }
  if (service_.running()) {
    EXPECT_EQ(service_.Stop(), "") << EndOfLog(service_.Log());
  }
}

std::string ContractTest::MakeDirectory(const std::string& name) {
  const std::string path = service_.directory() + "/" + name;
  EXPECT_EQ(mkdir(path.c_str(), 0755), 0) << path;
  EXPECT_EQ(chown(path.c_str(), kCaller, kCallersGroup), 0);
  return path;
}

HRESULT ContractTest::Mount(const std::string& image, const std::string& directory, UINT index, DWORD flags) {
  AsUser caller(kCaller, kCallersGroup);
  return DismMountImage(Wide(image).c_str(), Wide(directory).c_str(), index, nullptr, DismImageIndex, flags, nullptr,
                        nullptr, nullptr);
}

HRESULT ContractTest::Unmount(const std::string& directory, DWORD flags) {
  AsUser caller(kCaller, kCallersGroup);
  return DismUnmountImage(Wide(directory).c_str(), flags, nullptr, nullptr, nullptr);
}

void ContractTest::ExpectNothingLeft() {
  for (const MountEntry& mount : MountsBelow(service_.directory())) {
    ADD_FAILURE() << "a mount is left at " << mount.mount_point;
  }
  EXPECT_EQ(service_.WaitForNoWorkers(), "");
  EXPECT_TRUE(fs::is_empty(mount_point_));
  DismMountedImageInfo* mounts = nullptr;
  UINT count = 0;
  EXPECT_EQ(DismGetMountedImageInfo(&mounts, &count), S_OK) << LastError();  // as root: everyone's
  EXPECT_EQ(count, 0u);
  DismDelete(mounts);
}

}  // namespace dismd::testing
