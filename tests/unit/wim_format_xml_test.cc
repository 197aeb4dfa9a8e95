// SPDX-License-Identifier: GPL-3.0-or-later
//
// The XML data of a WIM.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/wim/wim_xml.h"

namespace libmount {
namespace {

using testing::ElementsAre;

absl::StatusOr<std::vector<ImageInfo>> Parse(std::string_view utf8, uint32_t images) {
  return ParseWimXml("\xff\xfe" + *Wtf8ToUtf16Le(utf8), images, "test.wim");
}

TEST(WimXml, EverythingDismShows) {
  auto images = Parse(R"(<WIM><TOTALBYTES>9</TOTALBYTES><IMAGE INDEX="1">
      <NAME>Windows &amp; more</NAME><DESCRIPTION><![CDATA[<first>]]></DESCRIPTION>
      <TOTALBYTES>12345678901</TOTALBYTES><DIRCOUNT>12</DIRCOUNT><FILECOUNT>34</FILECOUNT>
      <CREATIONTIME><HIGHPART>0x01D2DF8C</HIGHPART><LOWPART>0xA0000001</LOWPART></CREATIONTIME>
      <LASTMODIFICATIONTIME><HIGHPART>30597004</HIGHPART><LOWPART>1</LOWPART></LASTMODIFICATIONTIME>
      <WINDOWS><ARCH>9</ARCH><PRODUCTNAME>P</PRODUCTNAME><EDITIONID>Pro</EDITIONID>
        <INSTALLATIONTYPE>Client</INSTALLATIONTYPE><HAL>acpi</HAL><PRODUCTTYPE>WinNT</PRODUCTTYPE>
        <PRODUCTSUITE>Suite</PRODUCTSUITE><SYSTEMROOT>WINDOWS</SYSTEMROOT>
        <LANGUAGES><LANGUAGE>en-US</LANGUAGE><LANGUAGE>de-DE</LANGUAGE><DEFAULT>de-de</DEFAULT></LANGUAGES>
        <VERSION><MAJOR>10</MAJOR><MINOR>1</MINOR><BUILD>19041</BUILD><SPBUILD>844</SPBUILD><SPLEVEL>2</SPLEVEL>
        </VERSION></WINDOWS></IMAGE></WIM>)",
                      1);
  ASSERT_TRUE(images.ok()) << images.status();
  ASSERT_EQ(images->size(), 1u);
  const ImageInfo& image = (*images)[0];
  EXPECT_EQ(image.type, ImageType::kWim);
  EXPECT_EQ(image.index, 1u);
  EXPECT_EQ(image.name, "Windows & more");
  EXPECT_EQ(image.description, "<first>");
  EXPECT_EQ(image.size, 12345678901u);
  EXPECT_EQ(image.directory_count, 12u);
  EXPECT_EQ(image.file_count, 34u);
  EXPECT_EQ(image.creation_time, 0x01D2DF8CA0000001u);
  EXPECT_EQ(image.modification_time, uint64_t{30597004} << 32 | 1);
  EXPECT_EQ(image.architecture, 9u);
  EXPECT_EQ(image.product_name, "P");
  EXPECT_EQ(image.edition_id, "Pro");
  EXPECT_EQ(image.installation_type, "Client");
  EXPECT_EQ(image.hal, "acpi");
  EXPECT_EQ(image.product_type, "WinNT");
  EXPECT_EQ(image.product_suite, "Suite");
  EXPECT_EQ(image.system_root, "WINDOWS");
  EXPECT_THAT(image.languages, ElementsAre("en-US", "de-DE"));
  EXPECT_EQ(image.default_language, 1u);
  EXPECT_EQ(image.major_version, 10u);
  EXPECT_EQ(image.minor_version, 1u);
  EXPECT_EQ(image.build, 19041u);
  EXPECT_EQ(image.service_pack_build, 844u);
  EXPECT_EQ(image.service_pack_level, 2u);
}

TEST(WimXml, ImagesGoByTheirIndex) {
  auto images = Parse(R"(<WIM><IMAGE INDEX="2"><NAME>two</NAME></IMAGE><IMAGE INDEX="1"><NAME>one</NAME></IMAGE>
      <IMAGE INDEX="2"><NAME>again</NAME></IMAGE><IMAGE INDEX="9"/><IMAGE INDEX="x"/><IMAGE/></WIM>)",
                      3);
  ASSERT_TRUE(images.ok());
  EXPECT_EQ((*images)[0].name, "one");
  EXPECT_EQ((*images)[1].name, "two");
  EXPECT_EQ((*images)[2].name, "");
  EXPECT_EQ((*images)[2].index, 3u);
  EXPECT_EQ((*images)[2].architecture, kUnknownArchitecture);
}

TEST(WimXml, NumbersThatAreNoneAreLeftOut) {
  auto images = Parse(R"(<WIM><IMAGE INDEX="1"><TOTALBYTES>-1</TOTALBYTES><DIRCOUNT>99999999999999999999999</DIRCOUNT>
      <FILECOUNT>12x</FILECOUNT><CREATIONTIME><HIGHPART>0x1</HIGHPART></CREATIONTIME>
      <WINDOWS><ARCH></ARCH></WINDOWS></IMAGE></WIM>)",
                      1);
  ASSERT_TRUE(images.ok());
  EXPECT_EQ((*images)[0].size, 0u);
  EXPECT_EQ((*images)[0].directory_count, 0u);
  EXPECT_EQ((*images)[0].file_count, 0u);
  EXPECT_EQ((*images)[0].creation_time, 0u);
  EXPECT_EQ((*images)[0].architecture, kUnknownArchitecture);
}

TEST(WimXml, WhatIsNotWimXmlIsRefused) {
  for (const char* bad :
       {"", "<WIM>", "<OTHER/>", "text", "<WIM><IMAGE></WIM>", "<!DOCTYPE WIM [<!ENTITY a \"b\">]><WIM>&a;</WIM>",
        "<!DOCTYPE WIM SYSTEM \"file:///etc/passwd\"><WIM/>", "<WIM>&undefined;</WIM>"}) {
    EXPECT_EQ(ReasonOf(Parse(bad, 1).status()), Reason::kBadImageFormat) << bad;
  }
}

TEST(WimXml, DeepNestingIsNoProblem) {
  std::string deep = "<WIM>";
  for (int i = 0; i < 100000; ++i) deep += "<A>";
  EXPECT_EQ(ReasonOf(Parse(deep, 1).status()), Reason::kBadImageFormat);
}

}  // namespace
}  // namespace libmount
