// SPDX-License-Identifier: GPL-3.0-or-later
//
// UTF-16 and case; reparse data.

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/tree/reparse.h"
#include "libmount/tree/windows.h"

namespace libmount {
namespace {

using testing::ElementsAre;

std::string Units(std::u16string_view units) {
  std::string bytes;
  for (char16_t unit : units) AppendLe(static_cast<uint16_t>(unit), bytes);
  return bytes;
}

TEST(Utf16, EveryUnitComesBack) {
  for (uint32_t unit = 0; unit < 0x10000; ++unit) {
    const std::string bytes = Units(std::u16string(1, static_cast<char16_t>(unit)));
    ASSERT_EQ(Wtf8ToUtf16Le(Utf16LeToWtf8(bytes)), bytes) << std::hex << unit;
  }
}

TEST(Utf16, PairsAndUnpairedSurrogates) {
  EXPECT_EQ(Utf16LeToWtf8(Units(u"a\u00e4\u20ac\U0001f600")), "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  const std::string high = Units(std::u16string(1, 0xd83d));
  const std::string low = Units(std::u16string(1, 0xde00));
  EXPECT_EQ(Utf16LeToWtf8(high), "\xed\xa0\xbd");
  EXPECT_EQ(Utf16LeToWtf8(low), "\xed\xb8\x80");
  EXPECT_EQ(Utf16LeToWtf8(low + high), "\xed\xb8\x80\xed\xa0\xbd");
  EXPECT_EQ(Utf16LeToWtf8(high + low), "\xf0\x9f\x98\x80");
  // A pair that lies across the blocks in which names are converted.
  const std::string filler = Units(std::u16string(255, u'x'));
  EXPECT_EQ(Wtf8ToUtf16Le(Utf16LeToWtf8(filler + high + low + high)), filler + high + low + high);
}

// ASCII is taken several units at a time: what is not may stand anywhere among it.
TEST(Utf16, OtherCharactersAmongAscii) {
  const std::pair<std::u16string, std::string> others[] = {{u"\u0080", "\xc2\x80"},
                                                           {u"\u20ac", "\xe2\x82\xac"},
                                                           {u"\U0001f600", "\xf0\x9f\x98\x80"},
                                                           {std::u16string(1, 0xdc80), "\xed\xb2\x80"},
                                                           {std::u16string(1, 0), std::string(1, '\0')}};
  const std::u16string ascii = u"\x7f!aZ~0.@{[`^bcdefghij";
  const std::string same_ascii = "\x7f!aZ~0.@{[`^bcdefghij";
  for (const auto& [unit, character] : others) {
    for (size_t before = 0; before <= ascii.size(); ++before) {
      for (size_t after = 0; after <= 9; ++after) {
        EXPECT_EQ(Utf16LeToWtf8(Units(ascii.substr(0, before) + unit + ascii.substr(0, after))),
                  same_ascii.substr(0, before) + character + same_ascii.substr(0, after));
      }
    }
  }
}

TEST(Folding, TheFirstDifferenceMayBeAnywhere) {
  const std::string prefix = "amd64_Microsoft-Windows_31bf";
  for (size_t length = 0; length <= prefix.size(); ++length) {
    for (const std::string rest : {"", "tail of more than eight bytes"}) {
      const std::string common = prefix.substr(0, length);
      EXPECT_EQ(CompareFolded(common + "k" + rest, common + "K" + rest), 0) << length;
      EXPECT_LT(CompareFolded(common + "k" + rest, common + "L" + rest), 0) << length;
      EXPECT_GT(CompareFolded(common + "l" + rest, common + "K" + rest), 0) << length;
      EXPECT_LT(CompareFolded(common, common + "K" + rest), 0) << length;
      EXPECT_EQ(CompareFolded(common + "\xc3\xa4" + rest, common + "\xc3\x84" + rest), 0) << length;
    }
  }
}

TEST(Utf16, WhatIsNotWtf8IsRefused) {
  for (const char* bad : {"\x80", "\xc0\x80", "\xe0\x80\x80", "\xf4\x90\x80\x80", "\xff", "a\xe2\x82", "\xf0\x9f\x98",
                          "\xed\xa0\xbd\xed\xb8\x80"}) {
    EXPECT_EQ(Wtf8ToUtf16Le(bad), std::nullopt) << bad;
  }
}

TEST(Folding, TheTableIsThatOfNtfs) {
  void* library = dlopen("libntfs-3g.so.89", RTLD_NOW);
  ASSERT_NE(library, nullptr) << dlerror();
  auto build = reinterpret_cast<void (*)(uint16_t*, uint32_t)>(dlsym(library, "ntfs_upcase_table_build"));
  ASSERT_NE(build, nullptr);
  std::vector<uint16_t> table(0x10000);
  build(table.data(), 2 * 0x10000);
  for (uint32_t unit = 0; unit < 0x10000; ++unit) {
    ASSERT_EQ(UpcaseUnit(static_cast<char16_t>(unit)), table[unit]) << std::hex << unit;
  }
  dlclose(library);
}

TEST(Folding, Compares) {
  EXPECT_TRUE(EqualFolded("Notepad.EXE", "nOTEPAD.exe"));
  EXPECT_TRUE(EqualFolded("\xc3\xa4", "\xc3\x84"));  // a with diaeresis
  EXPECT_FALSE(
      EqualFolded("stra\xc3\x9f"
                  "e",
                  "STRASSE"));  // one unit to one unit only
  EXPECT_LT(CompareFolded("a", "B"), 0);
  EXPECT_GT(CompareFolded("ab", "A"), 0);
  EXPECT_EQ(CompareFolded("", ""), 0);
  EXPECT_FALSE(EqualFolded("\xff", "\xfe"));
  // The first different byte lies inside a character whose first byte is the same.
  EXPECT_TRUE(EqualFolded("x\xce\xb1", "x\xce\x91"));
  EXPECT_LT(CompareFolded("x\xce\xb1", "x\xce\xb2"), 0);
}

TEST(Folding, IsAnOrder) {
  const std::vector<std::string> names = {"",
                                          "a",
                                          "A",
                                          "b",
                                          "_",
                                          "ab",
                                          "a\xc3\xa4",
                                          "A\xc3\x84",
                                          "\xff",
                                          "\xc3",
                                          "\xe2\x82",
                                          "z\xf0\x9f\x98\x80",
                                          "Z\xed\xa0\xbd",
                                          "a\xff"};
  for (const std::string& a : names) {
    for (const std::string& b : names) {
      EXPECT_EQ(CompareFolded(a, b) < 0, CompareFolded(b, a) > 0) << a << " " << b;
      for (const std::string& c : names) {
        if (CompareFolded(a, b) > 0 || CompareFolded(b, c) > 0) continue;
        EXPECT_LE(CompareFolded(a, c), 0) << a << " " << b << " " << c;
      }
    }
  }
}

// Reparse data with this substitute name, and another print name behind it.
std::string LinkData(std::u16string_view name, bool symlink) {
  std::string names = Units(name) + Units(u"print");
  std::string data;
  AppendLe(uint16_t{0}, data);
  AppendLe(static_cast<uint16_t>(2 * name.size()), data);
  AppendLe(static_cast<uint16_t>(2 * name.size()), data);
  AppendLe(uint16_t{10}, data);
  if (symlink) AppendLe(uint32_t{1}, data);
  return data + names;
}

LinkTarget Decode(std::u16string_view name, uint32_t tag = kReparseSymlink) {
  std::optional<LinkTarget> target = DecodeLink(tag, LinkData(name, tag == kReparseSymlink));
  EXPECT_TRUE(target.has_value());
  return target.value_or(LinkTarget{});
}

TEST(Reparse, AbsoluteTargets) {
  for (std::u16string_view name :
       {u"\\??\\C:\\a\\b", u"C:\\a\\b", u"\\a\\b", u"\\\\?\\d:\\a\\b", u"c:a\\b", u"\\??\\C:\\a\\b\\"}) {
    LinkTarget target = Decode(name);
    EXPECT_EQ(target.kind, LinkTarget::Kind::kAbsolute);
    EXPECT_THAT(target.components, ElementsAre("a", "b"));
  }
  EXPECT_EQ(Decode(u"\\??\\C:\\a", kReparseMountPoint).kind, LinkTarget::Kind::kAbsolute);
  EXPECT_TRUE(Decode(u"\\??\\C:\\").components.empty());
}

TEST(Reparse, RelativeTargets) {
  LinkTarget target = Decode(u"..\\x/y\\.\\z");
  EXPECT_EQ(target.kind, LinkTarget::Kind::kRelative);
  EXPECT_THAT(target.components, ElementsAre("..", "x", "y", ".", "z"));
}

TEST(Reparse, ForeignTargets) {
  for (std::u16string_view name : {u"\\??\\Volume{01234567-89ab}\\x", u"\\\\?\\Volume{01234567-89ab}\\",
                                   u"\\\\server\\share", u"\\??\\UNC\\server\\share/../.."}) {
    LinkTarget target = Decode(name, kReparseMountPoint);
    EXPECT_EQ(target.kind, LinkTarget::Kind::kForeign);
    EXPECT_EQ(target.text.find('/'), std::string::npos);
    EXPECT_EQ(target.text[0], '\\');
  }
}

TEST(Reparse, WslTargets) {
  std::string data;
  AppendLe(uint32_t{2}, data);
  std::optional<LinkTarget> target = DecodeLink(kReparseLxSymlink, data + "/usr/l\\b");
  ASSERT_TRUE(target.has_value());
  EXPECT_EQ(target->kind, LinkTarget::Kind::kAbsolute);
  EXPECT_THAT(target->components, ElementsAre("usr", "l\\b"));
  target = DecodeLink(kReparseLxSymlink, data + "../x");
  ASSERT_TRUE(target.has_value());
  EXPECT_EQ(target->kind, LinkTarget::Kind::kRelative);
}

TEST(Reparse, DamagedDataIsRefused) {
  const std::string good = LinkData(u"target", true);
  EXPECT_FALSE(DecodeLink(kReparseSymlink, "").has_value());
  for (size_t size = 0; size < 24; ++size) {
    EXPECT_FALSE(DecodeLink(kReparseSymlink, std::string_view(good).substr(0, size)).has_value()) << size;
  }
  std::string odd = good;
  odd[2] = 11;
  EXPECT_FALSE(DecodeLink(kReparseSymlink, odd).has_value());
  std::string far = good;
  far[1] = 0x7f;
  EXPECT_FALSE(DecodeLink(kReparseSymlink, far).has_value());
  EXPECT_FALSE(DecodeLink(kReparseSymlink, LinkData(std::u16string_view(u"a\0b", 3), true)).has_value());
  EXPECT_FALSE(DecodeLink(kReparseSymlink, LinkData(u"", true)).has_value());
  EXPECT_FALSE(DecodeLink(0x80000017, good).has_value());
}

}  // namespace
}  // namespace libmount
