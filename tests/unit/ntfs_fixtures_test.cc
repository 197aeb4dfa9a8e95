// SPDX-License-Identifier: GPL-3.0-or-later
//
// NTFS volumes that others made: read as 7-Zip and ntfs-3g's tools read them; and hostile ones, which must do no harm.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_split.h"
#include "tests/unit/ntfs_test_util.h"

namespace libmount {
namespace {

// Where the fixtures are unpacked: DISMD_FIXTURES, or else a directory that this process fills from beside the project.
const std::string& Fixtures() {
  static const std::string* const directory = [] {
    if (const char* unpacked = getenv("DISMD_FIXTURES")) return new std::string(unpacked);
    static TestDirectory temporary;
    const std::string command = "bash '" DISMD_SOURCE_DIR "/../shared/fixtures/unpack' '" + temporary.Path("f") + "'";
    if (system(command.c_str()) != 0) return new std::string();
    return new std::string(temporary.Path("f"));
  }();
  return *directory;
}

// A part of a file, as a file of its own.
std::string CopyPart(const std::string& path, uint64_t skip, const std::string& to) {
  RunCommand("tail -c +" + std::to_string(skip + 1) + " '" + path + "' > '" + to + "'");
  return to;
}

// Paths and sizes that 7-Zip lists, without the volume's own files.
struct Listed {
  uint64_t size = 0;
  bool directory = false;
};
std::map<std::string, Listed> ListWith7zip(const std::string& path) {
  std::map<std::string, Listed> all;
  const std::string text = RunCommand("7zz l -slt -tntfs '" + path + "'");
  std::string name;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.substr(0, 7) == "Path = ") name = "/" + std::string(line.substr(7));
    if (name.rfind("/[SYSTEM]", 0) == 0 || name.find(':') != name.npos) continue;
    if (line.substr(0, 9) == "Folder = ") all[name].directory = line[9] == '+';
    if (line.substr(0, 7) == "Size = ") all[name].size = strtoull(std::string(line.substr(7)).c_str(), nullptr, 10);
  }
  return all;
}

void CompareWithOthers(const std::string& path) {
  FileDevice device(path);
  absl::StatusOr<std::unique_ptr<NtfsTree>> tree = NtfsTree::Open(&device, {});
  ASSERT_TRUE(tree.ok()) << tree.status();
  const std::map<std::string, Seen> seen = Walk(**tree);
  const std::map<std::string, Listed> listed = ListWith7zip(path);
  EXPECT_FALSE(listed.empty());
  for (const auto& [name, expected] : listed) {
    SCOPED_TRACE(name);
    auto found = seen.find(name);
    ASSERT_NE(found, seen.end());
    EXPECT_EQ(S_ISDIR(found->second.attributes.mode), expected.directory);
    if (!S_ISREG(found->second.attributes.mode)) continue;
    EXPECT_EQ(found->second.attributes.size, expected.size);
    EXPECT_EQ(Sha1(found->second.content), Sha1(RunCommand("ntfscat -f '" + path + "' '" + name + "'")));
    // 7-Zip says that a file of holes alone is damaged.
    if (found->second.attributes.allocated < expected.size) continue;
    EXPECT_EQ(Sha1(found->second.content),
              Sha1(RunCommand("7zz x -so -tntfs '" + path + "' '" + name.substr(1) + "'")));
  }
  for (const auto& [name, file] : seen) EXPECT_TRUE(listed.contains(name)) << name << " is not there for 7-Zip";
}

TEST(NtfsFixtures, FragmentedMftAndManyDirectories) { CompareWithOthers(Fixtures() + "/colinfinck-ntfs/testfs1"); }

TEST(NtfsFixtures, MadeByDiskpart) {
  TestDirectory directory;
  CompareWithOthers(Fixtures() + "/dfvfs/ntfs.raw");
  // A fixed VHD is its disk; the partition begins at 64 KiB there.
  CompareWithOthers(CopyPart(Fixtures() + "/dfvfs/ntfs-fixed.vhd", 65536, directory.Path("vhd")));
}

// In a process of its own, with little memory and time: the library may fall over what is damaged enough; dismd then
// loses that one worker. Returns the wait status.
int WalkInChild(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    rlimit memory{512 << 20, 512 << 20};
    rlimit seconds{20, 20};
#ifndef __SANITIZE_ADDRESS__
    setrlimit(RLIMIT_AS, &memory);
#endif
    setrlimit(RLIMIT_CPU, &seconds);
    FileDevice device(path);
    absl::StatusOr<std::unique_ptr<NtfsTree>> tree = NtfsTree::Open(&device, {});
    if (tree.ok()) {
      for (const auto& [name, file] : Walk(**tree)) {
        ErrnoOr<std::vector<std::string>> names = (*tree)->ListXattrs(file.attributes.node);
        if (!names.ok()) continue;
        for (const std::string& xattr : *names) (void)(*tree)->GetXattr(file.attributes.node, xattr);
        (void)(*tree)->Lookup(file.attributes.node, "x");
      }
    }
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

TEST(NtfsFixtures, HostileVolumesDoNoHarm) {
  int volumes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Fixtures() + "/syzkaller-ntfs")) {
    const int status = WalkInChild(entry.path().string());
    EXPECT_TRUE(WIFEXITED(status)) << entry.path() << " ended by signal " << WTERMSIG(status);
    ++volumes;
  }
  EXPECT_EQ(volumes, 18);
}

// Bytes changed at random, where the metadata are.
TEST(NtfsFixtures, VolumesDamagedAtRandomDoNoHarm) {
  TestDirectory directory;
  const std::string path = directory.Path("volume");
  int crashes = 0;
  for (uint32_t round = 0; round < 40; ++round) {
    std::filesystem::copy_file(Fixtures() + "/colinfinck-ntfs/testfs1", path,
                               std::filesystem::copy_options::overwrite_existing);
    {
      FileDevice device(path, /*writable=*/true);
      const std::string noise = RandomBytes(400, round);
      for (size_t i = 0; i + 4 <= noise.size(); i += 4) {
        uint32_t at = 0;
        memcpy(&at, &noise[i], sizeof(at));
        // All but the boot sector, which is tested alone.
        device.Write(512 + at % (device.size() - 513), absl::MakeConstSpan(&noise[i], 1));
      }
    }
    const int status = WalkInChild(path);
    if (!WIFEXITED(status)) ++crashes;
    EXPECT_FALSE(WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) << "round " << round << " hangs";
  }
  EXPECT_EQ(crashes, 0);
}

}  // namespace
}  // namespace libmount
