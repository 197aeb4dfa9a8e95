// SPDX-License-Identifier: GPL-3.0-or-later
//
// What DismMountImage returns: a test for each row of the contract that a read-only mount of a WIM can meet, and for
// the order of the rows. Each asserts the code, the words of the message that a person needs, and that nothing is left.

#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "tests/conformance/conformance_images.h"
#include "tests/integration/end_of_log.h"

namespace dismd::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr HRESULT kBadFormat = _HRESULT_TYPEDEF_(0x8007000B);
constexpr HRESULT kInvalidData = _HRESULT_TYPEDEF_(0x8007000D);
constexpr HRESULT kNotEmpty = _HRESULT_TYPEDEF_(0xC1420114);
constexpr HRESULT kIsRoot = _HRESULT_TYPEDEF_(0xC1420131);
constexpr HRESULT kPartMissing = _HRESULT_TYPEDEF_(0x80070002);
constexpr HRESULT kCancelled = _HRESULT_TYPEDEF_(0x800704C7);

// How the mount point is made to differ from an empty directory of the caller's.
enum class Point { kFine, kMissing, kFile, kNotEmpty, kForeign, kForeignNotEmpty, kRoot };

struct Row {
  const char* name;
  const char* image;  // beneath the images; null: NULL is passed
  HRESULT expected;
  // What the message must hold; "IMAGE" stands for the file's name, "MOUNT" for the mount point's path.
  std::vector<const char*> words;
  UINT index = 1;
  // Set: by this name, "NULL" for a null pointer.
  std::optional<const char*> by_name = std::nullopt;
  DWORD flags = DISM_MOUNT_READONLY;
  Point point = Point::kFine;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

const Row kRows[] = {
    {"Success", "small.wim", S_OK, {}},
    {"SecondImage", "two.wim", S_OK, {}, 2},
    {"ByName", "two.wim", S_OK, {}, 77, "Second"},
    {"ByNameWithoutCase", "two.wim", S_OK, {}, 77, "sECOND"},
    {"SolidImage", "solid.esd", S_OK, {}},
    {"SplitImage", "split.swm", S_OK, {}},
    {"PipableImage", "pipable.wim", S_OK, {}},
    {"ImageBeingWritten", "being-written.wim", S_OK, {}},
    {"WriteProtectedImage", "write-protected.wim", S_OK, {}},
    {"OptimizeAndEa", "small.wim", S_OK, {}, 1, {}, DISM_MOUNT_READONLY | DISM_MOUNT_OPTIMIZE | DISM_MOUNT_SUPPORT_EA},
    {"IntegrityMatches", "checked.wim", S_OK, {}, 1, {}, DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY},
    {"NoIntegrityTable", "small.wim", S_OK, {}, 1, {}, DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY},
    {"IntegrityNotAsked", "check-fails.wim", S_OK, {}},

    {"NullImagePath", nullptr, E_INVALIDARG, {"NULL"}},
    {"MissingImage", "missing.wim", E_INVALIDARG, {"IMAGE"}},
    {"ImageIsDirectory", "directory.wim", E_INVALIDARG, {"IMAGE", "directory"}},
    {"MissingMountPoint", "small.wim", E_INVALIDARG, {"MOUNT"}, 1, {}, DISM_MOUNT_READONLY, Point::kMissing},
    {"MountPointIsFile", "small.wim", E_INVALIDARG, {"MOUNT", "directory"}, 1, {}, DISM_MOUNT_READONLY, Point::kFile},
    {"OtherExtension", "small.txt", E_INVALIDARG, {"IMAGE", ".wim"}},
    {"NoExtension", "small", E_INVALIDARG, {"IMAGE", ".wim"}},
    {"Garbage", "garbage.wim", kBadFormat, {"IMAGE"}},
    {"EmptyFile", "empty.wim", kBadFormat, {"IMAGE"}},
    {"TruncatedFile", "short.wim", kBadFormat, {"IMAGE"}},
    {"PartMissing", "lonely.swm", kPartMissing, {"lonely2.swm"}},
    {"IndexZero", "small.wim", DISMAPI_E_INVALID_IMAGE_INDEX, {"IMAGE"}, 0},
    {"IndexTooLarge", "small.wim", DISMAPI_E_INVALID_IMAGE_INDEX, {"IMAGE", "2"}, 2},
    {"IndexHuge", "two.wim", DISMAPI_E_INVALID_IMAGE_INDEX, {"IMAGE"}, 0xFFFFFFFF},
    {"UnknownName", "two.wim", DISMAPI_E_INVALID_IMAGE_NAME, {"IMAGE", "Third"}, 1, "Third"},
    {"NullName", "two.wim", DISMAPI_E_INVALID_IMAGE_NAME, {"IMAGE"}, 1, "NULL"},
    {"NotEmpty", "small.wim", kNotEmpty, {"MOUNT", "empty"}, 1, {}, DISM_MOUNT_READONLY, Point::kNotEmpty},
    {"RootOfFileSystem", "small.wim", kIsRoot, {"MOUNT"}, 1, {}, DISM_MOUNT_READONLY, Point::kRoot},
    {"IntegrityFails",
     "check-fails.wim",
     kInvalidData,
     {"IMAGE", "integrity"},
     1,
     {},
     DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY},
    {"UnreadableImage", "private.wim", E_ACCESSDENIED, {"IMAGE"}},
    {"ForeignMountPoint", "small.wim", E_ACCESSDENIED, {"MOUNT"}, 1, {}, DISM_MOUNT_READONLY, Point::kForeign},
    {"UnknownFlags", "small.wim", E_INVALIDARG, {"flags"}, 1, {}, DISM_MOUNT_READONLY | 0x100},

    // Two faults: the row that comes first answers.
    {"OrderIndexBeforeUnknownFlags",
     "small.wim",
     DISMAPI_E_INVALID_IMAGE_INDEX,
     {"99"},
     99,
     {},
     DISM_MOUNT_READONLY | 0x100},
    {"OrderMissingImageBeforeNotEmpty",
     "missing.wim",
     E_INVALIDARG,
     {"IMAGE"},
     1,
     {},
     DISM_MOUNT_READONLY,
     Point::kNotEmpty},
    {"OrderMissingMountPointBeforeFormat",
     "garbage.wim",
     E_INVALIDARG,
     {"MOUNT"},
     1,
     {},
     DISM_MOUNT_READONLY,
     Point::kMissing},
    {"OrderExtensionBeforeIndex", "small.txt", E_INVALIDARG, {"IMAGE"}, 0},
    {"OrderFormatBeforeIndex", "garbage.wim", kBadFormat, {"IMAGE"}, 0},
    {"OrderFormatBeforeNotEmpty", "garbage.wim", kBadFormat, {"IMAGE"}, 1, {}, DISM_MOUNT_READONLY, Point::kNotEmpty},
    {"OrderIndexBeforeNotEmpty",
     "small.wim",
     DISMAPI_E_INVALID_IMAGE_INDEX,
     {},
     9,
     {},
     DISM_MOUNT_READONLY,
     Point::kNotEmpty},
    {"OrderNameBeforeForeign",
     "small.wim",
     DISMAPI_E_INVALID_IMAGE_NAME,
     {},
     1,
     "NULL",
     DISM_MOUNT_READONLY,
     Point::kForeign},
    {"OrderNotEmptyBeforeForeign", "small.wim", kNotEmpty, {}, 1, {}, DISM_MOUNT_READONLY, Point::kForeignNotEmpty},
    {"OrderNotEmptyBeforeIntegrity",
     "check-fails.wim",
     kNotEmpty,
     {},
     1,
     {},
     DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY,
     Point::kNotEmpty},
    {"OrderNotEmptyBeforeUnreadable", "private.wim", kNotEmpty, {}, 1, {}, DISM_MOUNT_READONLY, Point::kNotEmpty},
    {"OrderIntegrityBeforeForeign",
     "check-fails.wim",
     kInvalidData,
     {},
     1,
     {},
     DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY,
     Point::kForeign},
};

class MountContract : public ContractTest, public ::testing::WithParamInterface<Row> {
 protected:
  std::string PreparePoint(Point point) {
    const std::string path = mount_point();
    switch (point) {
      case Point::kFine: return path;
      case Point::kMissing: return path + "-missing";
      case Point::kFile: std::ofstream(path + "-file") << "x"; return path + "-file";
      case Point::kNotEmpty:
      case Point::kForeignNotEmpty: {
        const std::string full = MakeDirectory("full");
        std::ofstream(full + "/file") << "x";
        const uid_t owner = point == Point::kForeignNotEmpty ? 0 : kCaller;
        EXPECT_EQ(chown(full.c_str(), owner, kCallersGroup), 0);
        return full;
      }
      case Point::kForeign: {
        const std::string foreign = MakeDirectory("foreign");
        EXPECT_EQ(chown(foreign.c_str(), 0, 0), 0);
        return foreign;
      }
      case Point::kRoot: {
        root_ = MakeDirectory("root");
        EXPECT_EQ(::mount("tmpfs", root_.c_str(), "tmpfs", 0, "size=1m,mode=755"), 0);
        EXPECT_EQ(chown(root_.c_str(), kCaller, kCallersGroup), 0);
        return root_;
      }
    }
    return path;
  }

  void TakeRootAway() {
    if (root_.empty()) return;
    EXPECT_EQ(umount2(root_.c_str(), 0), 0);
    root_.clear();
  }

  void TearDown() override {
    TakeRootAway();
    ContractTest::TearDown();
  }

 private:
  std::string root_;
};

TEST_P(MountContract, Row) {
  const Row& row = GetParam();
  const std::string point = PreparePoint(row.point);
  const std::string image = row.image == nullptr ? "" : Image(row.image);
  const std::wstring wide_image = Wide(image), wide_point = Wide(point);
  const std::wstring wide_name = Wide(row.by_name.value_or(""));
  HRESULT hr;
  std::string message;
  {
    AsUser caller(kCaller, kCallersGroup);
    hr = DismMountImage(row.image == nullptr ? nullptr : wide_image.c_str(), wide_point.c_str(), row.index,
                        wide_name == L"NULL" ? nullptr : wide_name.c_str(),
                        row.by_name ? DismImageName : DismImageIndex, row.flags, nullptr, nullptr, nullptr);
    message = LastError();
  }
  EXPECT_EQ(Hex(hr), Hex(row.expected)) << message << EndOfLog(service_.Log());
  for (std::string word : row.words) {
    if (word == "IMAGE") word = row.image;  // the process that reads it knows its name only
    if (word == "MOUNT") word = point;
    EXPECT_THAT(message, HasSubstr(word));
  }
  if (hr == S_OK) {
    EXPECT_TRUE(RunAsCaller({"grep", "-qx", "Hello, world", point + "/hello.txt"}))
        << "the mounted file cannot be read";
    AsUser caller(kCaller, kCallersGroup);
    EXPECT_EQ(DismUnmountImage(wide_point.c_str(), DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr), S_OK) << LastError();
  } else {
    EXPECT_NE(message, "");
  }
  TakeRootAway();
  ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(Contract, MountContract, ::testing::ValuesIn(kRows),
                         [](const auto& row) { return std::string(row.param.name); });

using MountCases = ContractTest;

TEST_F(MountCases, AMountPointInUse) {
  ASSERT_EQ(Hex(Mount(Image("small.wim"), mount_point())), Hex(S_OK)) << LastError();
  EXPECT_EQ(Hex(Mount(Image("two.wim"), mount_point())), "0xC1420113");
  EXPECT_THAT(LastError(), HasSubstr(mount_point()));
  const std::string other = MakeDirectory("other");
  EXPECT_EQ(Hex(Mount(Image("small.wim"), other)), Hex(S_OK)) << "one image, read-only, at two places: " << LastError();
  EXPECT_EQ(Hex(Unmount(other)), Hex(S_OK));
  EXPECT_EQ(Hex(Unmount(mount_point())), Hex(S_OK));
  ExpectNothingLeft();
}

// What speaks against writing to an image is said.
TEST_F(MountCases, ReadWriteIsRefusedForItsReason) {
  const auto mount = [this](const std::string& image) {
    return Hex(Mount(Image(image), mount_point(), 1, DISM_MOUNT_READWRITE));
  };
  EXPECT_EQ(mount("small.wim"), "0xC1510111") << "the caller may not write to it";
  for (const char* image :
       {"small.wim", "pipable.wim", "write-protected.wim", "being-written.wim", "split.swm", "solid.esd"}) {
    ASSERT_EQ(chmod(Image(image).c_str(), 0666), 0);
  }
  EXPECT_EQ(mount("pipable.wim"), "0xC1510111");
  EXPECT_EQ(mount("write-protected.wim"), "0xC1510111");
  EXPECT_EQ(mount("being-written.wim"), "0x80070020");
  EXPECT_EQ(mount("split.swm"), "0xC1420130");
  EXPECT_EQ(mount("solid.esd"), "0xC142013C");
  EXPECT_EQ(mount("small.wim"), Hex(S_OK)) << LastError();
  EXPECT_EQ(Hex(Unmount(mount_point(), DISM_DISCARD_IMAGE)), Hex(S_OK)) << LastError();
  ExpectNothingLeft();
}

TEST_F(MountCases, TheServiceDoesNotRun) {
  ASSERT_EQ(service_.Stop(), "") << EndOfLog(service_.Log());
  EXPECT_EQ(Hex(Mount(Image("small.wim"), mount_point())), "0x800706BA");
  EXPECT_THAT(LastError(), HasSubstr(service_.socket_path()));
  ASSERT_TRUE(service_.Start());
  EXPECT_EQ(Hex(Mount(Image("small.wim"), mount_point())), Hex(S_OK)) << LastError();
  EXPECT_EQ(Hex(Unmount(mount_point())), Hex(S_OK));
  ExpectNothingLeft();
}

TEST_F(MountCases, NotInitialised) {
  ASSERT_EQ(DismShutdown(), S_OK);
  EXPECT_EQ(Hex(Mount(Image("small.wim"), mount_point())), Hex(DISMAPI_E_DISMAPI_NOT_INITIALIZED));
  EXPECT_THAT(LastError(), HasSubstr("DismInitialize"));
  ASSERT_EQ(DismInitialize(DismLogErrors, nullptr, nullptr), S_OK);
  ExpectNothingLeft();
}

TEST_F(MountCases, AnotherMountNamespace) {
  const std::string command = "exec \"$0\" mount --read-only \"$1\" \"$2\" --json | grep -q OTHER_NAMESPACE";
  EXPECT_TRUE(RunProgram({"unshare", "--mount", "setpriv", "--reuid=51234", "--regid=51234", "--clear-groups", "sh",
                          "-c", command, BinaryPath("dismctl"), Image("small.wim"), mount_point()}));
  ExpectNothingLeft();
}

struct Progress {
  HANDLE event = nullptr;
  std::vector<UINT> calls;
  static void CALLBACK Call(UINT current, UINT total, PVOID data) {
    auto* self = static_cast<Progress*>(data);
    EXPECT_EQ(total, 100u);
    self->calls.push_back(current);
    if (self->event != nullptr) SetEvent(self->event);
  }
};

TEST_F(MountCases, ProgressAndCancellation) {
  const std::wstring image = Wide(Image("checked.wim")), point = Wide(mount_point());
  const DWORD flags = DISM_MOUNT_READONLY | DISM_MOUNT_CHECK_INTEGRITY;
  Progress progress;
  {
    AsUser caller(kCaller, kCallersGroup);
    ASSERT_EQ(Hex(DismMountImage(image.c_str(), point.c_str(), 1, nullptr, DismImageIndex, flags, nullptr,
                                 &Progress::Call, &progress)),
              Hex(S_OK))
        << LastError();
    ASSERT_FALSE(progress.calls.empty());
    EXPECT_EQ(progress.calls.back(), 100u);
    for (size_t i = 1; i < progress.calls.size(); ++i) EXPECT_GE(progress.calls[i], progress.calls[i - 1]);
    EXPECT_EQ(Hex(DismUnmountImage(point.c_str(), DISM_DISCARD_IMAGE, nullptr, &Progress::Call, &progress)), Hex(S_OK));
    EXPECT_EQ(progress.calls.back(), 100u);
  }
  ExpectNothingLeft();

  // Cancelled at the first progress: either it was in time, or the mount is there; nothing in between.
  progress.event = CreateEventW(nullptr, TRUE, FALSE, nullptr);
  progress.calls.clear();
  HRESULT hr;
  {
    AsUser caller(kCaller, kCallersGroup);
    hr = DismMountImage(image.c_str(), point.c_str(), 1, nullptr, DismImageIndex, flags, progress.event,
                        &Progress::Call, &progress);
  }
  if (hr == S_OK) {
    EXPECT_EQ(Hex(Unmount(mount_point())), Hex(S_OK));
  } else {
    EXPECT_EQ(Hex(hr), Hex(kCancelled)) << LastError();
  }
  ExpectNothingLeft();
  EXPECT_EQ(Hex(DismMountImage(image.c_str(), point.c_str(), 1, nullptr, DismImageIndex, flags, progress.event, nullptr,
                               nullptr)),
            Hex(kCancelled));
  CloseHandle(progress.event);
  ExpectNothingLeft();
}

// The documented example, as C99 and as C++, also when the program ends without DismShutdown.
TEST_F(MountCases, TheDocumentedExample) {
  const std::string drive = MakeDirectory("drive_c");
  fs::create_directories(drive + "/test/images");
  fs::create_directories(drive + "/test/offline");
  fs::copy_file(Image("small.wim"), drive + "/test/images/myimage.wim");
  setenv("DISMD_DRIVES", ("C:=" + drive).c_str(), 1);
  EXPECT_TRUE(RunProgram({BinaryPath("client_example_c")}));
  EXPECT_TRUE(RunProgram({BinaryPath("client_example_cxx")}));
  EXPECT_TRUE(RunProgram({BinaryPath("client_example_c"), "leave"}));
  unsetenv("DISMD_DRIVES");
  EXPECT_TRUE(fs::exists(drive + "/test/offline") && MountsBelow(drive).size() == 1) << "the mount stays";
  EXPECT_EQ(Hex(DismUnmountImage(Wide(drive + "/test/offline").c_str(), DISM_DISCARD_IMAGE, nullptr, nullptr, nullptr)),
            Hex(S_OK))
      << LastError();
  ExpectNothingLeft();
}

}  // namespace
}  // namespace dismd::testing
