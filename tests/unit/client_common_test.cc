// SPDX-License-Identifier: GPL-3.0-or-later
//
// The parts of the clients that need no service: HRESULTs, paths, text, options, and what the library exports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "client/common/address.h"
#include "client/common/paths.h"
#include "client/common/unicode.h"
#include "client/dismapi/hresult.h"
#include "client/dismapi/results.h"
#include "client/dismctl/format.h"
#include "client/dismctl/json.h"
#include "client/dismctl/options.h"
#include "client/dismctl/progress_view.h"

namespace dismd {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

// ---- HRESULTs ----

// The table is in the comments of errors.proto: "... 0x8007000B" or "... E_INVALIDARG" before the reason's line. A
// reason without a comment has that of the one before.
TEST(Hresult, EveryReasonHasTheOneThatTheProtoNames) {
  std::ifstream proto(DISMD_SOURCE_DIR "/proto/dismd/v1/errors.proto");
  ASSERT_TRUE(proto.is_open());
  const std::regex code("(0x[0-9A-F]{8}|E_INVALIDARG|E_NOTIMPL)( \\([A-Z_]+\\))?$"), value("^  ([A-Z_]+) = ([0-9]+);");
  std::optional<uint32_t> expected;
  int reasons = 0;
  bool in_enum = false;
  for (std::string line; std::getline(proto, line);) {
    std::smatch match;
    in_enum = in_enum || line.rfind("enum Reason", 0) == 0;
    if (!in_enum) continue;
    if (std::regex_search(line, match, code)) {
      const std::string text = match[1];
      expected = text == "E_INVALIDARG" ? 0x80070057 : text == "E_NOTIMPL" ? 0x80004001 : std::stoul(text, nullptr, 16);
    } else if (std::regex_search(line, match, value)) {
      const auto reason = static_cast<v1::Reason>(std::stoi(match[2]));
      EXPECT_EQ(v1::Reason_Name(reason), match[1]);
      if (reason == v1::REASON_UNSPECIFIED) continue;
      ASSERT_TRUE(expected.has_value()) << match[1];
      EXPECT_EQ(static_cast<uint32_t>(HresultOf(reason)), *expected) << match[1];
      ++reasons;
    }
  }
  EXPECT_EQ(reasons, v1::Reason_MAX);
  EXPECT_EQ(HresultOf(v1::REASON_UNSPECIFIED), E_FAIL);
  EXPECT_EQ(HresultOf(static_cast<v1::Reason>(9999)), E_FAIL);
}

TEST(Hresult, Macros) {
  EXPECT_EQ(static_cast<uint32_t>(HRESULT_FROM_WIN32(ERROR_CANCELLED)), 0x800704C7u);
  EXPECT_EQ(static_cast<uint32_t>(HRESULT_FROM_WIN32(RPC_S_SERVER_UNAVAILABLE)), 0x800706BAu);
  EXPECT_EQ(HRESULT_FROM_WIN32(ERROR_SUCCESS), S_OK);
  EXPECT_EQ(HRESULT_FROM_WIN32(E_INVALIDARG), E_INVALIDARG);
  EXPECT_TRUE(FAILED(E_FAIL));
  EXPECT_TRUE(SUCCEEDED(S_FALSE));
  EXPECT_EQ(HRESULT_FACILITY(DISMAPI_E_INVALID_IMAGE_INDEX), 4);
  EXPECT_EQ(HRESULT_CODE(DISMAPI_E_INVALID_IMAGE_INDEX), 5);
}

TEST(Layout, IsThatOfWindowsX64) {
  EXPECT_EQ(sizeof(DismImageInfo), 140u);
  const std::pair<size_t, size_t> offsets[] = {
      {offsetof(DismImageInfo, ImageType), 0},
      {offsetof(DismImageInfo, ImageIndex), 4},
      {offsetof(DismImageInfo, ImageName), 8},
      {offsetof(DismImageInfo, ImageDescription), 16},
      {offsetof(DismImageInfo, ImageSize), 24},
      {offsetof(DismImageInfo, Architecture), 32},
      {offsetof(DismImageInfo, ProductName), 36},
      {offsetof(DismImageInfo, EditionId), 44},
      {offsetof(DismImageInfo, InstallationType), 52},
      {offsetof(DismImageInfo, Hal), 60},
      {offsetof(DismImageInfo, ProductType), 68},
      {offsetof(DismImageInfo, ProductSuite), 76},
      {offsetof(DismImageInfo, MajorVersion), 84},
      {offsetof(DismImageInfo, MinorVersion), 88},
      {offsetof(DismImageInfo, Build), 92},
      {offsetof(DismImageInfo, SpBuild), 96},
      {offsetof(DismImageInfo, SpLevel), 100},
      {offsetof(DismImageInfo, Bootable), 104},
      {offsetof(DismImageInfo, SystemRoot), 108},
      {offsetof(DismImageInfo, Language), 116},
      {offsetof(DismImageInfo, LanguageCount), 124},
      {offsetof(DismImageInfo, DefaultLanguageIndex), 128},
      {offsetof(DismImageInfo, CustomizedInfo), 132},
      {offsetof(DismMountedImageInfo, MountPath), 0},
      {offsetof(DismMountedImageInfo, ImageFilePath), 8},
      {offsetof(DismMountedImageInfo, ImageIndex), 16},
      {offsetof(DismMountedImageInfo, MountMode), 20},
      {offsetof(DismMountedImageInfo, MountStatus), 24},
      {offsetof(DismWimCustomizedInfo, ModifiedTime), 28},
  };
  for (const auto& [actual, expected] : offsets) EXPECT_EQ(actual, expected);
}

TEST(SystemTime, HoldsOnlyTimesThatItCan) {
  EXPECT_EQ(MakeSystemTime(0).wYear, 0);
  EXPECT_EQ(MakeSystemTime(1).wYear, 1601);
  EXPECT_EQ(MakeSystemTime(~uint64_t{0}).wYear, 0);  // the year 60056
}

// ---- Exports ----

std::string Output(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  std::string text;
  std::array<char, 4096> part;
  for (size_t got; (got = fread(part.data(), 1, part.size(), pipe)) > 0;) text.append(part.data(), got);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

// What the headers declare.
std::set<std::string> DeclaredFunctions() {
  std::set<std::string> names;
  for (const char* header : {"DismAPI.h", "DismAPIServicing.h", "windows.h"}) {
    std::ifstream file(std::string(DISMD_SOURCE_DIR "/client/dismapi/include/") + header);
    const std::regex declaration("^(HRESULT|HANDLE|BOOL) WINAPI (\\w+)\\(");
    std::smatch match;
    for (std::string line; std::getline(file, line);) {
      if (std::regex_search(line, match, declaration)) names.insert(match[2]);
    }
  }
  return names;
}

TEST(Exports, AreExactlyWhatTheHeadersDeclare) {
  std::istringstream lines(Output("nm -D --defined-only " DISMAPI_LIBRARY));
  std::set<std::string> names;
  for (std::string address, kind, name; lines >> address >> kind >> name;) {
    if (name == "DISMAPI_1") continue;  // the version itself
    ASSERT_EQ(kind, "T") << name;
    const size_t at = name.find("@@DISMAPI_1");
    EXPECT_NE(at, std::string::npos) << name << " has no version";
    names.insert(name.substr(0, at));
  }
  EXPECT_EQ(names, DeclaredFunctions());
  EXPECT_EQ(names.size(), 49u);
}

// Nothing of gRPC, Protobuf or Abseil comes with it, inside or beside it, and no other library than these.
TEST(Exports, BringNoLibraryOfTheirs) {
  const std::string text = Output("readelf -d " DISMAPI_LIBRARY);
  EXPECT_THAT(text, HasSubstr("[libdismapi.so.1]"));
  EXPECT_THAT(text, HasSubstr("NODELETE"));
  const std::regex needed("Shared library: \\[([^\\]]+)\\]");
  for (std::sregex_iterator it(text.begin(), text.end(), needed), end; it != end; ++it) {
    const std::string library = (*it)[1];
    if (DISMD_IS_STATIC) {
      EXPECT_THAT(library, AnyOf("libnghttp2.so.14", "libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6",
                                 "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"));
    } else {
      EXPECT_THAT(library, Not(AnyOf(HasSubstr("grpc"), HasSubstr("absl"))));
    }
  }
  // Nor does it take any of theirs from the program that it is loaded into.
  if (DISMD_IS_STATIC) {
    EXPECT_THAT(Output("nm -D --undefined-only " DISMAPI_LIBRARY),
                Not(AnyOf(HasSubstr("protobuf"), HasSubstr("absl"))));
  }
}

// ---- Text ----

TEST(Unicode, KeepsUnpairedSurrogatesAndJoinsPairs) {
  const std::wstring lone = {0xD800, L'a', 0xDFFF};
  EXPECT_EQ(WideToUtf8(lone),
            "\xED\xA0\x80"
            "a\xED\xBF\xBF");
  EXPECT_EQ(Utf8ToWide("\xED\xA0\x80"
                       "a\xED\xBF\xBF"),
            lone);
  EXPECT_EQ(WideToUtf8(std::wstring{0xD83D, 0xDE00}), "\U0001F600");
  EXPECT_EQ(WideToUtf8(L"\x7F\x80\x7FF\x800\xFFFF\x10000\x10FFFF"), "\x7F\u0080\u07FF\u0800\uFFFF\U00010000\U0010FFFF");
  EXPECT_FALSE(WideToUtf8(std::wstring{0x110000}).has_value());
  EXPECT_FALSE(WideToUtf8(std::wstring(1, static_cast<wchar_t>(-1))).has_value());
}

TEST(Unicode, ReplacesWhatIsNoUtf8) {
  EXPECT_EQ(Utf8ToWide("a\xFF"
                       "b\xC3"),
            L"a\xFFFD"
            L"b\xFFFD");
  for (const char* bad :
       {"\xC0\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xED\xA0\x80", "\x80", "\xE2\x82"}) {
    EXPECT_FALSE(IsValidUtf8(bad)) << bad;
  }
  EXPECT_TRUE(IsValidUtf8("a\u0080\u07FF\u0800\uFFFF\U0010FFFF"));
}

// ---- Paths ----

class Paths : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = (std::filesystem::temp_directory_path() / "dismd-paths-XXXXXX").string();
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    directory_ = path;
    mkdir((directory_ + "/dismd").c_str(), 0755);
    setenv("XDG_CONFIG_HOME", directory_.c_str(), 1);
    setenv("DISMD_DRIVES", "C:=/srv/c;d: = /mnt/d/ ;E=/;broken;F:=relative;GG:=/x", 1);
    ASSERT_EQ(chdir("/usr/share"), 0);
  }
  void TearDown() override {
    unsetenv("DISMD_DRIVES");
    unsetenv("XDG_CONFIG_HOME");
    ASSERT_EQ(chdir("/"), 0);
    std::filesystem::remove_all(directory_);
  }
  static std::string Translate(std::string_view path) {
    std::string absolute;
    CallStatus status = TranslatePath(path, &absolute);
    if (status.ok()) return absolute;
    EXPECT_EQ(status.reason(), v1::INVALID_PATH);
    return "refused: " + status.message();
  }
  std::string directory_;
};

TEST_F(Paths, Translate) {
  const std::pair<const char*, const char*> rows[] = {
      {"/a/b.wim", "/a/b.wim"},
      {"/a\\b", "/a\\b"},
      {"x/y.wim", "/usr/share/x/y.wim"},
      {"x\\y.wim", "/usr/share/x/y.wim"},
      {"x/y\\z.wim", "/usr/share/x/y\\z.wim"},
      {".", "/usr/share/."},
      {"./C:", "/usr/share/./C:"},
      {"C:\\test\\images\\myimage.wim", "/srv/c/test/images/myimage.wim"},
      {"c:/test/a.wim", "/srv/c/test/a.wim"},
      {"C:", "/srv/c"},
      {"C:\\", "/srv/c"},
      {"C:\\a\\.\\b\\..\\c", "/srv/c/a/c"},
      {"C:\\..\\..\\etc\\passwd", "/srv/c/etc/passwd"},
      {"D:\\x", "/mnt/d/x"},
      {"E:\\x", "/x"},
      {"E:\\", "/"},
      {"\\\\?\\C:\\x", "/srv/c/x"},
  };
  for (const auto& [from, to] : rows) EXPECT_EQ(Translate(from), to) << from;
  EXPECT_THAT(Translate(""), HasSubstr("refused"));
  EXPECT_THAT(Translate("\\\\?\\"), Not(HasSubstr("network")));
  EXPECT_THAT(Translate("C:a.wim"), HasSubstr("./C:a.wim"));
  EXPECT_THAT(Translate("\\\\server\\share\\a.wim"), HasSubstr("network"));
  EXPECT_THAT(Translate("F:\\x"), HasSubstr("F: is not mapped"));
  EXPECT_THAT(Translate("Z:\\x"), HasSubstr("DISMD_DRIVES=Z:=/DIRECTORY"));
  EXPECT_THAT(Translate("/\xED\xA0\x80"), HasSubstr("UTF-8"));
  EXPECT_THAT(Translate(std::string_view("/a\0b", 4)), HasSubstr("zero byte"));
  EXPECT_THAT(Translate("/" + std::string(4095, 'a')), HasSubstr("longer than 4095"));
  EXPECT_EQ(Translate("/" + std::string(4094, 'a')).size(), 4095u);
}

TEST_F(Paths, DrivesFromTheConfigurationComeAfterTheVariable) {
  std::ofstream(directory_ + "/dismd/dismctl.conf")
      << "# comment\n[other]\nX: = /wrong\n\n[drives]\nC: = /from/config\nx: = /right\nno sense\n; Y: = /no\n";
  EXPECT_EQ(Translate("C:\\a"), "/srv/c/a");
  EXPECT_EQ(Translate("X:\\a"), "/right/a");
  EXPECT_THAT(Translate("Y:\\a"), HasSubstr("refused"));
}

TEST_F(Paths, ADiskGoesToAFreeLetter) {
  setenv("DISMD_DRIVES", ("C:=/srv/c;*:=" + directory_).c_str(), 1);
  EXPECT_EQ(Translate("x:\\a.vhdx"), directory_ + "/X/a.vhdx");
  const auto mount_point = [](const char* path, const char* image) {
    std::string absolute;
    EXPECT_TRUE(TranslateMountPoint(path, image, &absolute).ok());
    return absolute;
  };
  EXPECT_EQ(mount_point("X:", "/a.wim"), directory_ + "/X");
  EXPECT_EQ(mount_point("X:\\folder", "/a.vhd"), directory_ + "/X/folder");
  EXPECT_EQ(mount_point("C:\\", "/a.vhd"), "/srv/c");
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/X")) << "for disks alone, and their root";
  EXPECT_EQ(mount_point("X:\\", "/a.VHDX"), directory_ + "/X");
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/X"));
  EXPECT_EQ(mount_point("\\\\?\\x:", "/a.vhd"), directory_ + "/X") << "it may be there already";
  setenv("DISMD_DRIVES", "*:=/proc", 1);
  std::string absolute;
  EXPECT_THAT(TranslateMountPoint("Y:", "/a.vhd", &absolute).message(), HasSubstr("/proc/Y"));
}

TEST_F(Paths, ADirectoryThatHasGone) {
  const std::string gone = directory_ + "/gone";
  ASSERT_EQ(mkdir(gone.c_str(), 0755), 0);
  ASSERT_EQ(chdir(gone.c_str()), 0);
  ASSERT_EQ(rmdir(gone.c_str()), 0);
  EXPECT_THAT(Translate("a.wim"), HasSubstr("the current directory has gone"));
}

TEST(Address, OrderOfPlaces) {
  unsetenv("DISMD_ADDRESS");
  setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
  EXPECT_EQ(SocketPath(""), "/run/dismd/dismd.sock");
  setenv("DISMD_ADDRESS", "unix:///tmp/a.sock", 1);
  EXPECT_EQ(SocketPath(""), "/tmp/a.sock");
  EXPECT_EQ(SocketPath("unix:/tmp/b.sock"), "/tmp/b.sock");
  EXPECT_EQ(SocketPath("/tmp/c.sock"), "/tmp/c.sock");
  EXPECT_EQ(SocketPath("dns:example:1"), "");
  EXPECT_EQ(SocketPath("unix:/" + std::string(107, 'a')), "");
  EXPECT_EQ(SocketPath("unix:/" + std::string(106, 'a')).size(), 107u);
  unsetenv("DISMD_ADDRESS");
}

// ---- dismctl ----

Options Parsed(const std::vector<std::string>& arguments) {
  Options options;
  std::string error;
  EXPECT_TRUE(ParseOptions(arguments, &options, &error)) << error;
  return options;
}

std::string Refusal(const std::vector<std::string>& arguments) {
  Options options;
  std::string error;
  EXPECT_FALSE(ParseOptions(arguments, &options, &error));
  return error;
}

TEST(DismctlOptions, Parse) {
  Options mount = Parsed({"--address", "unix:/s", "mount", "-r", "--index=3", "--", "a.wim", "-dir"});
  EXPECT_EQ(mount.command, Command::kMount);
  EXPECT_EQ(mount.address, "unix:/s");
  EXPECT_EQ(mount.index, 3u);
  EXPECT_TRUE(mount.read_only);
  EXPECT_EQ(mount.image, "a.wim");
  EXPECT_EQ(mount.directory, "-dir");
  EXPECT_EQ(Parsed({"mount", "a", "b", "--name", "--odd"}).name, "--odd");
  EXPECT_EQ(Parsed({"unmount", "--discard", "d", "--json"}).discard, true);
  EXPECT_EQ(Parsed({"mount", "--help"}).help_topic, "mount");
  EXPECT_EQ(Parsed({"commit", "d", "--recompress=xpress"}).recompress, v1::COMPRESSION_XPRESS);
  EXPECT_EQ(Parsed({"cleanup"}).directory, "");
  EXPECT_EQ(Parsed({"cleanup", "--force", "d"}).directory, "d");
  EXPECT_EQ(Parsed({"help", "list"}).help_topic, "list");
  EXPECT_EQ(Parsed({"--version"}).command, Command::kVersion);
}

TEST(DismctlOptions, Refuse) {
  EXPECT_EQ(Refusal({}), "a command is missing");
  EXPECT_EQ(Refusal({"mont"}), "unknown command: mont");
  EXPECT_EQ(Refusal({"mount", "a.wim"}), "mount: DIR is missing");
  EXPECT_EQ(Refusal({"list", "x"}), "list: too many arguments: x");
  EXPECT_EQ(Refusal({"list", "--read-only"}), "list has no option --read-only");
  EXPECT_EQ(Refusal({"mount", "a", "b", "--index", "1", "--name", "n"}), "--index and --name exclude each other");
  EXPECT_EQ(Refusal({"unmount", "d", "--commit", "--discard"}), "--commit and --discard exclude each other");
  for (const char* bad : {"", "x", "-1", "1x", " 1", "4294967296"}) {
    EXPECT_THAT(Refusal({"mount", "a", "b", "--index", bad}), HasSubstr("--index")) << bad;
  }
  EXPECT_EQ(Refusal({"mount", "a", "b", "--index"}), "--index needs a value");
  EXPECT_EQ(Refusal({"commit"}), "commit: DIR is missing");
  EXPECT_EQ(Refusal({"commit", "d", "--recompress=solid"}), "--recompress: bad value: solid");
  EXPECT_EQ(Refusal({"commit", "d", "--read-only"}), "commit has no option --read-only");
  EXPECT_EQ(Refusal({"mount", "a", "b", "--append"}), "mount has no option --append");
  EXPECT_EQ(Refusal({"unmount", "d", "--append"}),
            "--append, --check-integrity, --rebuild and --recompress go with --commit");
  EXPECT_EQ(Refusal({"cleanup", "--force"}), "--force takes one mount: DIR is missing");
  EXPECT_EQ(Refusal({"--json=1", "list"}), "--json takes no value");
  EXPECT_EQ(Refusal({"--frob", "list"}), "unknown option: --frob");
}

TEST(DismctlHelp, NamesEveryOption) {
  const std::string mount = HelpText("dismctl", "mount");
  for (const char* option : {"--index", "--name", "--read-only", "--check-integrity", "--allow-other", "--json"}) {
    EXPECT_THAT(mount, HasSubstr(option));
  }
  const std::string all = HelpText("dism", "");
  for (const char* word :
       {"mount", "unmount", "list", "info", "watch", "cleanup", "status", "Exit codes", "DISMD_DRIVES"}) {
    EXPECT_THAT(all, HasSubstr(word));
  }
  for (const char* option : {"--append", "--check-integrity", "--rebuild", "--recompress", "--json"}) {
    EXPECT_THAT(HelpText("dismctl", "commit"), HasSubstr(option));
    EXPECT_THAT(HelpText("dismctl", "unmount"), AnyOf(HasSubstr(option), HasSubstr("dismctl commit")));
  }
  EXPECT_THAT(HelpText("dismctl", "cleanup"), HasSubstr("--force"));
  EXPECT_THAT(mount, HasSubstr("--unix-data"));
  for (const char* topic :
       {"", "mount", "unmount", "commit", "remount", "list", "info", "watch", "cleanup", "status"}) {
    EXPECT_THAT(HelpText("dism", topic), HasSubstr("Usage: dism"));
    EXPECT_THAT(HelpText("dism", topic), Not(HasSubstr("%P")));
  }
}

TEST(DismctlFormat, TextIsSafeAndAligned) {
  EXPECT_EQ(Printable("a\x1b[31mb\n\u009b\u00e4"), "a\\x1b[31mb\\x0a\\x9b\u00e4");
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1234567), "1,234,567");
  EXPECT_EQ(Table({{"A", "B"}, {"äää", "x"}}), "A    B\näää  x\n");
  EXPECT_EQ(IsoTimeOfFiletime(132223104001230000), "2020-01-01T00:00:00Z");
}

TEST(DismctlJson, EscapesAndNests) {
  JsonWriter json;
  json.Begin('{').String("a", "q\"\\\n\x01ü").Begin("list", '[').String("x").Begin('{').End('}').End(']');
  json.Number("n", 5).Bool("b", true).StringOrNull("z", "").End('}');
  EXPECT_EQ(json.text(), R"({"a":"q\"\\\n\u0001ü","list":["x",{}],"n":5,"b":true,"z":null})");
}

TEST(DismctlProgress, ShowsRateAndTimeLeft) {
  ProgressView view(true);
  v1::Progress progress;
  progress.set_phase(v1::PHASE_CHECKING_INTEGRITY);
  progress.set_current(10);
  progress.set_total(100);
  progress.set_bytes_total(400 << 20);
  const auto start = ProgressView::Clock::now();
  EXPECT_EQ(view.Line(progress, start), "checking integrity  [##                  ]   10%  0 B of 400 MiB");
  progress.set_current(50);
  progress.set_bytes_done(100 << 20);
  EXPECT_EQ(view.Line(progress, start + std::chrono::seconds(2)),
            "checking integrity  [##########          ]   50%  100 MiB of 400 MiB  50 MiB/s  0:06 left");
}

}  // namespace
}  // namespace dismd
