// SPDX-License-Identifier: GPL-3.0-or-later
//
// Hives made here, read by ours and by libhivex; and the Windows on a volume that has them.

#include <hivex.h>
#include <stdlib.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libmount/registry/hive.h"
#include "libmount/registry/windows_info.h"
#include "tests/unit/hive_builder.h"
#include "tests/unit/journaled_tree.h"

namespace libmount {
namespace {

using testing::ElementsAre;

constexpr char kCurrentVersion[] = "Microsoft\\Windows NT\\CurrentVersion";

RegistryHive::ReadFunction From(const std::string& bytes) {
  return [&bytes](uint64_t offset, absl::Span<char> out) {
    if (offset > bytes.size() || bytes.size() - offset < out.size()) return false;
    bytes.copy(out.data(), out.size(), offset);
    return true;
  };
}

HiveKey Software() {
  HiveKey root{"ROOT", {}, {}};
  HiveKey& version = root.At(kCurrentVersion);
  version.values = {HiveValue::String("ProductName", "Windows 10 Enterprise"),
                    HiveValue::String("EditionID", "Enterprise"),
                    HiveValue::String("InstallationType", "Client"),
                    HiveValue::Number("CurrentMajorVersionNumber", 10),
                    HiveValue::Number("CurrentMinorVersionNumber", 0),
                    HiveValue::String("CurrentVersion", "6.3"),
                    HiveValue::String("CurrentBuildNumber", "19045"),
                    HiveValue::Number("UBR", 3803),
                    HiveValue::String("BuildLabEx", "19041.1.amd64fre.vb_release.191206-1406")};
  for (int i = 0; i < 40; ++i) root.At("Microsoft\\Other" + std::to_string(i));
  return root;
}

HiveKey System() {
  HiveKey root{"ROOT", {}, {}};
  root.At("Select").values = {HiveValue::Number("Current", 2)};
  root.At("ControlSet001\\Control\\ProductOptions").values = {HiveValue::String("ProductType", "LanmanNT")};
  root.At("ControlSet002\\Control\\ProductOptions").values = {
      HiveValue::String("ProductType", "WinNT"), HiveValue::Strings("ProductSuite", {"Terminal Server", "Blade"})};
  root.At("ControlSet002\\Control\\MUI\\UILanguages\\de-DE");
  root.At("ControlSet002\\Control\\MUI\\UILanguages\\en-US");
  root.At("ControlSet002\\Control\\MUI\\Settings").values = {HiveValue::Strings("PreferredUILanguages", {"en-US"})};
  return root;
}

TEST(RegistryHive, FindsKeysAndValuesWithoutCase) {
  for (bool lists_of_lists : {false, true}) {
    const std::string bytes = BuildHive(Software(), lists_of_lists);
    std::optional<RegistryHive> hive = RegistryHive::Open(From(bytes));
    ASSERT_TRUE(hive.has_value());
    std::optional<RegistryHive::Key> key = hive->FindKey(hive->root(), "microsoft\\WINDOWS nt\\currentversion");
    ASSERT_TRUE(key.has_value());
    EXPECT_EQ(hive->GetString(*key, "productname"), "Windows 10 Enterprise");
    EXPECT_EQ(hive->GetNumber(*key, "UBR"), 3803u);
    EXPECT_FALSE(hive->GetString(*key, "UBR").has_value()) << "a number is no string";
    EXPECT_FALSE(hive->GetString(*key, "Missing").has_value());
    EXPECT_FALSE(hive->FindKey(hive->root(), "Microsoft\\Missing").has_value());
    EXPECT_EQ(hive->SubkeyNames(*hive->FindKey(hive->root(), "Microsoft")).size(), 41u);
  }
}

// The builder and the reader could be wrong together.
TEST(RegistryHive, LibhivexReadsTheSame) {
  for (bool lists_of_lists : {false, true}) {
    const std::string bytes = BuildHive(Software(), lists_of_lists);
    std::string path = testing::TempDir() + "hive.XXXXXX";
    const int fd = mkstemp(path.data());
    ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    close(fd);
    hive_h* peer = hivex_open(path.c_str(), 0);
    unlink(path.c_str());
    ASSERT_NE(peer, nullptr);
    hive_node_h node = hivex_root(peer);
    for (const char* name : {"Microsoft", "Windows NT", "CurrentVersion"}) {
      node = hivex_node_get_child(peer, node, name);
      ASSERT_NE(node, 0u) << name;
    }
    char* text = hivex_value_string(peer, hivex_node_get_value(peer, node, "BuildLabEx"));
    EXPECT_STREQ(text, "19041.1.amd64fre.vb_release.191206-1406");
    free(text);
    EXPECT_EQ(hivex_value_dword(peer, hivex_node_get_value(peer, node, "UBR")), 3803);
    hivex_close(peer);
  }
}

TEST(RegistryHive, WhatIsNoHiveIsNone) {
  for (const std::string& bytes :
       {std::string(), std::string("regf"), std::string(8192, '\0'), std::string(8192, 'r')}) {
    EXPECT_FALSE(RegistryHive::Open(From(bytes)).has_value());
  }
}

// A damaged hive has fewer keys; it is never read out of bounds (the sanitizers look), and never without end.
TEST(RegistryHive, DamageIsSurvived) {
  const std::string whole = BuildHive(Software(), /*lists_of_lists=*/true);
  std::mt19937 random(20260731);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = whole.substr(0, 4096 + random() % (whole.size() - 4096));
    for (int i = 0; i < 8; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    std::optional<RegistryHive> hive = RegistryHive::Open(From(bytes));
    if (!hive.has_value()) continue;
    hive->SubkeyNames(hive->root());
    if (std::optional<RegistryHive::Key> key = hive->FindKey(hive->root(), kCurrentVersion)) {
      hive->GetString(*key, "ProductName");
      hive->GetStrings(*key, "ProductName");
      hive->GetNumber(*key, "UBR");
    }
  }
}

// A list that holds itself would be walked for ever.
TEST(RegistryHive, ListsThatHoldThemselvesEnd) {
  std::string bytes = BuildHive(Software(), /*lists_of_lists=*/true);
  const size_t list = bytes.rfind("ri");
  ASSERT_NE(list, bytes.npos);
  const auto own = static_cast<uint32_t>(list - 4 - 4096);
  for (size_t at = list + 4; at + 4 <= list + 4 + 4 * 4; at += 4)
    bytes.replace(at, 4, reinterpret_cast<const char*>(&own), 4);
  std::optional<RegistryHive> hive = RegistryHive::Open(From(bytes));
  ASSERT_TRUE(hive.has_value());
  EXPECT_FALSE(hive->FindKey(hive->root(), "Microsoft\\Missing").has_value());
}

class WindowsInfo : public testing::Test {
 protected:
  NodeId MakeDirectory(NodeId parent, const char* name) {
    return tree_.MakeDirectory({}, parent, name, 0755).operator*().node;
  }
  void MakeFile(NodeId parent, const char* name, const std::string& bytes) {
    NodeId node = tree_.MakeNode({}, parent, name, S_IFREG | 0644, 0).operator*().node;
    ASSERT_TRUE(tree_.Write({}, node, 0, bytes).ok());
  }

  JournaledTree tree_;
};

TEST_F(WindowsInfo, OfAVolumeWithOne) {
  EXPECT_FALSE(HasWindows(tree_));
  NodeId windows = MakeDirectory(kRootNode, "Windows");
  NodeId config = MakeDirectory(MakeDirectory(windows, "System32"), "config");
  MakeFile(config, "SOFTWARE", BuildHive(Software()));
  MakeFile(config, "SYSTEM", BuildHive(System()));
  EXPECT_TRUE(HasWindows(tree_));
  ImageInfo info;
  ReadWindowsInfo(tree_, &info);
  EXPECT_EQ(info.product_name, "Windows 10 Enterprise");
  EXPECT_EQ(info.edition_id, "Enterprise");
  EXPECT_EQ(info.installation_type, "Client");
  EXPECT_EQ(info.major_version, 10u);
  EXPECT_EQ(info.minor_version, 0u);
  EXPECT_EQ(info.build, 19045u);
  EXPECT_EQ(info.service_pack_build, 3803u);
  EXPECT_EQ(info.architecture, 9u);
  EXPECT_EQ(info.system_root, "WINDOWS");
  EXPECT_EQ(info.product_type, "WinNT") << "of the control set that is in use";
  EXPECT_EQ(info.product_suite, "Terminal Server");
  EXPECT_THAT(info.languages, ElementsAre("de-DE", "en-US"));
  EXPECT_EQ(info.default_language, 1u);
}

TEST_F(WindowsInfo, OlderOnesHaveTheirVersionAsText) {
  HiveKey root{"ROOT", {}, {}};
  root.At(kCurrentVersion).values = {HiveValue::String("CurrentVersion", "6.1"),
                                     HiveValue::String("CurrentBuild", "7601"),
                                     HiveValue::String("CSDVersion", "Service Pack 1"),
                                     HiveValue::String("BuildLab", "7601.win7sp1_rtm.x86fre.101119-1850")};
  NodeId config = MakeDirectory(MakeDirectory(MakeDirectory(kRootNode, "Windows"), "System32"), "config");
  MakeFile(config, "SOFTWARE", BuildHive(root));
  ImageInfo info;
  ReadWindowsInfo(tree_, &info);
  EXPECT_EQ(info.major_version, 6u);
  EXPECT_EQ(info.minor_version, 1u);
  EXPECT_EQ(info.build, 7601u);
  EXPECT_EQ(info.service_pack_level, 1u);
  EXPECT_EQ(info.architecture, 0u);
  EXPECT_TRUE(info.languages.empty());
}

TEST_F(WindowsInfo, OfAVolumeWithoutOne) {
  ImageInfo info;
  ReadWindowsInfo(tree_, &info);
  EXPECT_TRUE(info.product_name.empty());
  EXPECT_EQ(info.architecture, kUnknownArchitecture);
}

}  // namespace
}  // namespace libmount
