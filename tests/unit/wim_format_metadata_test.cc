// SPDX-License-Identifier: GPL-3.0-or-later
//
// The parser of metadata resources, on resources made by hand.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/image_metadata.h"
#include "tests/unit/wim_metadata_builder.h"

namespace libmount {
namespace {

using testing::ElementsAre;

constexpr uint32_t kDirectory = kAttributeDirectory;

absl::StatusOr<ImageMetadata> Parse(const MetadataBuilder& builder) {
  NullMonitor monitor;
  return ParseMetadata(absl::MakeConstSpan(builder.bytes()), BlobTable(), "test.wim", monitor);
}

DentryFields Named(std::u16string name, uint32_t attributes = 0x20) {
  DentryFields fields;
  fields.name = std::move(name);
  fields.attributes = attributes;
  return fields;
}

Sha1Digest HashOf(uint8_t value) {
  Sha1Digest hash = {};
  hash[0] = value;
  return hash;
}

std::vector<std::string> NamesIn(const ImageMetadata& image, const MetadataDirectory& directory) {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < directory.entry_count; ++i) {
    names.emplace_back(image.Name(image.entries[directory.first_entry + i]));
  }
  return names;
}

TEST(Metadata, OrderSearchAndShortNames) {
  MetadataBuilder builder;
  builder.BeginRoot();
  DentryFields long_name = Named(u"Long File Name");
  long_name.short_name = u"LONGFI~1";
  for (const DentryFields& fields : {Named(u"zeta"), Named(u"Alpha"), Named(u"alpha"), long_name, Named(u"\u00e4")}) {
    builder.Add(fields);
  }
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  const MetadataDirectory& root = image->directories[0];
  EXPECT_THAT(NamesIn(*image, root), ElementsAre("zeta", "Alpha", "alpha", "Long File Name", "\xc3\xa4"));
  EXPECT_EQ(image->FindExact(root, "alpha"), 3u);
  EXPECT_EQ(image->FindExact(root, "Alpha"), 2u);
  EXPECT_EQ(image->FindExact(root, "ALPHA"), kNone);
  EXPECT_EQ(image->FindFolded(root, "ALPHA"), 2u);
  EXPECT_EQ(image->FindFolded(root, "\xc3\x84"), 5u);
  EXPECT_EQ(image->FindFolded(root, "alph"), kNone);
  EXPECT_EQ(image->FindShortName(root, "longfi~1"), 4u);
  EXPECT_EQ(image->FindShortName(root, "LONGFI~2"), kNone);
  EXPECT_EQ(image->inodes.size(), 6u);
  EXPECT_EQ(image->inodes[4].first_entry, 4u);
}

TEST(Metadata, NamesThatNoFileCanHaveAreLeftOut) {
  MetadataBuilder builder;
  builder.BeginRoot();
  for (const std::u16string& name : {std::u16string(), std::u16string(u"."), std::u16string(u".."),
                                     std::u16string(u"a/b"), std::u16string(u"a\0b", 3), std::u16string(256, u'x')}) {
    DentryFields fields = Named(name, kDirectory);
    fields.subdirectory = 8;  // nobody may follow this
    builder.Add(fields);
  }
  builder.Add(Named(std::u16string(255, u'\u20ac')));
  builder.Add(Named(u"..."));
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  const std::vector<std::string> names = NamesIn(*image, image->directories[0]);
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names[0].size(), 765u);
  EXPECT_EQ(names[1], "...");
  EXPECT_EQ(image->inodes.size(), 3u);
}

TEST(Metadata, OfEqualNamesTheFirstIsKept) {
  MetadataBuilder builder;
  builder.BeginRoot();
  for (uint8_t i = 1; i <= 5; ++i) {
    DentryFields fields = Named(i % 2 == 1 ? u"same" : u"Same");
    fields.hash = HashOf(i);
    builder.Add(fields);
  }
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_THAT(NamesIn(*image, image->directories[0]), ElementsAre("same", "Same"));
  ASSERT_EQ(image->missing_blobs.size(), 2u);
  EXPECT_EQ(image->missing_blobs[0], HashOf(1));
  EXPECT_EQ(image->missing_blobs[1], HashOf(2));
}

TEST(Metadata, HardLinksShareAnInodeIfTheirContentIsTheSame) {
  MetadataBuilder builder;
  builder.BeginRoot();
  struct Link {
    const char16_t* name;
    uint64_t group;
    uint8_t hash;
  };
  // Group 7 holds two contents, as in some images of Windows 7; 0 is no group.
  for (const Link& link : {Link{u"a", 7, 1}, Link{u"b", 0, 1}, Link{u"c", 7, 2}, Link{u"d", 7, 1}, Link{u"e", 0, 1},
                           Link{u"f", 7, 2}, Link{u"g", 8, 1}}) {
    DentryFields fields = Named(link.name);
    fields.hard_link_group = link.group;
    fields.hash = HashOf(link.hash);
    builder.Add(fields);
  }
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  std::vector<uint32_t> inodes;
  std::vector<uint32_t> counts;
  for (uint32_t i = 1; i <= 7; ++i) {
    inodes.push_back(image->entries[i].inode);
    counts.push_back(image->inodes[image->entries[i].inode].link_count);
  }
  EXPECT_THAT(inodes, ElementsAre(1, 2, 3, 1, 4, 3, 5));
  EXPECT_THAT(counts, ElementsAre(2, 1, 2, 2, 1, 2, 1));
  EXPECT_EQ(image->inodes.size(), 6u);
  EXPECT_EQ(image->inodes[3].first_entry, 3u);
}

TEST(Metadata, OfSeveralNamesOneWithAShortNameStandsForTheFile) {
  MetadataBuilder builder;
  builder.BeginRoot();
  for (const char16_t* name : {u"a", u"b", u"c"}) {
    DentryFields fields = Named(name);
    fields.hard_link_group = 7;
    fields.hash = HashOf(1);
    if (name[0] != u'a') fields.short_name = u"SHORT";
    builder.Add(fields);
  }
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->Name(image->entries[image->inodes[1].first_entry]), "b");
}

TEST(Metadata, ManyNamesInOneGroupTakeNoLongerThanOthers) {
  MetadataBuilder builder;
  builder.BeginRoot();
  constexpr uint32_t kCount = 100'000;
  for (uint32_t i = 0; i < kCount; ++i) {
    DentryFields fields = Named(u"file");
    for (uint32_t rest = i; rest != 0; rest /= 10) fields.name.push_back(static_cast<char16_t>(u'0' + rest % 10));
    fields.hard_link_group = 7;
    memcpy(fields.hash.data(), &i, sizeof i);
    fields.hash[19] = 1;
    builder.Add(fields);
  }
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->inodes.size(), kCount + 1);
}

TEST(Metadata, LinkCountsAndParentsOfDirectories) {
  MetadataBuilder builder;
  builder.BeginRoot();
  const uint64_t first = builder.Add(Named(u"first", kDirectory));
  builder.Add(Named(u"second", kDirectory));
  builder.End();
  std::string list;
  AppendLe(builder.offset(), list);
  builder.Poke(first + 0x10, list);
  builder.Add(Named(u"inner", kDirectory));
  builder.Add(Named(u"file"));
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->inodes[0].link_count, 4u);
  EXPECT_EQ(image->inodes[1].link_count, 3u);
  EXPECT_EQ(image->inodes[2].link_count, 2u);
  EXPECT_EQ(image->PathOf(4), "first/file");
  EXPECT_EQ(image->PathOf(0), "");
}

TEST(Metadata, StreamsOfEveryKind) {
  MetadataBuilder builder({"descriptor"});
  builder.BeginRoot();
  DentryFields fields = Named(u"streams");
  fields.security = 0;
  fields.streams = {{u"", HashOf(1)}, {u"one", HashOf(2)}, {u"two", {}}};
  builder.Add(fields);
  fields = Named(u"link", 0x400);
  fields.security = 1;  // there is only one
  fields.hard_link_group = kReparseSymlink;
  fields.streams = {{u"", HashOf(3)}, {u"", {}}};
  builder.Add(fields);
  fields = Named(u"dedup", 0x400);
  fields.hard_link_group = 0x80000013;
  fields.hash = HashOf(4);  // as older writers do: the reparse data in the dentry
  fields.streams = {{u"", HashOf(5)}};
  builder.Add(fields);
  fields = Named(u"encrypted", kAttributeEncrypted);
  fields.streams = {{u"", HashOf(6)}, {u"ignored", HashOf(7)}};
  builder.Add(fields);
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  auto hash_of = [&](uint32_t blob) { return image->missing_blobs[blob - ImageMetadata::kFirstMissingBlob]; };

  const MetadataInode& streams = image->inodes[1];
  EXPECT_EQ(hash_of(streams.content), HashOf(1));
  EXPECT_EQ(image->Text(image->security[streams.security]), "descriptor");
  const MetadataExtra& extra = *image->Extra(streams);
  ASSERT_EQ(extra.stream_count, 2u);
  EXPECT_EQ(image->Text(image->streams[extra.first_stream].name), "one");
  EXPECT_EQ(hash_of(image->streams[extra.first_stream].blob), HashOf(2));
  EXPECT_EQ(image->streams[extra.first_stream + 1].blob, kNoBlob);

  EXPECT_TRUE(image->IsLink(image->inodes[2]));
  EXPECT_EQ(image->inodes[2].security, kNone);
  EXPECT_EQ(hash_of(image->Extra(image->inodes[2])->reparse_blob), HashOf(3));
  EXPECT_EQ(image->inodes[2].content, kNoBlob);

  EXPECT_FALSE(image->IsLink(image->inodes[3]));
  EXPECT_EQ(hash_of(image->Extra(image->inodes[3])->reparse_blob), HashOf(4));
  EXPECT_EQ(hash_of(image->inodes[3].content), HashOf(5));

  EXPECT_EQ(hash_of(image->inodes[4].content), HashOf(6));
  EXPECT_EQ(image->Extra(image->inodes[4]), nullptr);
}

TEST(Metadata, TaggedItemsAreKeptAsTheyAre) {
  MetadataBuilder builder;
  builder.BeginRoot();
  DentryFields fields = Named(u"file");
  std::string unix_data;
  for (uint32_t value : {1000, 1001, 0104755, 0}) AppendLe(value, unix_data);
  fields.tagged_items = TaggedItem(0x12345678, "unknown to us") + TaggedItem(kTagUnixData, unix_data);
  builder.Add(fields);
  fields = Named(u"damaged");
  fields.tagged_items = std::string("\x01\0\0\0\xff\xff\xff\xff", 8);
  builder.Add(fields);
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  const MetadataExtra& extra = *image->Extra(image->inodes[1]);
  EXPECT_EQ(image->Text(extra.tagged_items),
            TaggedItem(0x12345678, "unknown to us") + TaggedItem(kTagUnixData, unix_data));
  EXPECT_EQ(FindTaggedItem(image->Text(extra.tagged_items), 0x12345678, 1), "unknown to us");
  EXPECT_TRUE(extra.has_unix_data);
  EXPECT_EQ(extra.unix_data.uid, 1000u);
  EXPECT_EQ(extra.unix_data.mode, 0104755u);
  EXPECT_TRUE(FindTaggedItem(image->Text(image->Extra(image->inodes[2])->tagged_items), 1, 1).empty());
}

TEST(Metadata, EmptyImage) {
  MetadataBuilder builder;
  builder.End();
  absl::StatusOr<ImageMetadata> image = Parse(builder);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->directories[0].entry_count, 0u);
  EXPECT_TRUE(image->IsDirectory(image->inodes[0]));
}

TEST(MetadataRefused, ARootThatIsAFile) {
  MetadataBuilder builder;
  builder.Add(Named(u"", 0x20));
  builder.End();
  EXPECT_EQ(ReasonOf(Parse(builder).status()), Reason::kBadImageFormat);
}

TEST(MetadataRefused, ADirectoryThatHoldsItself) {
  MetadataBuilder builder;
  builder.BeginRoot();
  DentryFields fields = Named(u"again", kDirectory);
  fields.subdirectory = builder.offset();
  builder.Add(fields);
  builder.End();
  EXPECT_EQ(ReasonOf(Parse(builder).status()), Reason::kBadImageFormat);
}

// Each level has two directories that share the next level: 2^60 paths, in a resource of 15 KiB.
TEST(MetadataRefused, DirectoriesThatShareTheirLists) {
  MetadataBuilder builder;
  builder.BeginRoot();
  for (int level = 0; level < 60; ++level) {
    const uint64_t a = builder.Add(Named(u"a", kDirectory));
    const uint64_t b = builder.Add(Named(u"b", kDirectory));
    builder.End();
    std::string next;
    AppendLe(builder.offset(), next);
    builder.Poke(a + 0x10, next);
    builder.Poke(b + 0x10, next);
  }
  builder.End();
  EXPECT_EQ(ReasonOf(Parse(builder).status()), Reason::kBadImageFormat);
}

TEST(MetadataRefused, DirectoriesTooDeep) {
  MetadataBuilder builder;
  builder.BeginRoot();
  for (uint32_t level = 0; level <= kMaxDirectoryDepth; ++level) {
    const uint64_t at = builder.Add(Named(u"d", kDirectory));
    builder.End();
    std::string next;
    AppendLe(builder.offset(), next);
    builder.Poke(at + 0x10, next);
  }
  builder.End();
  EXPECT_EQ(ReasonOf(Parse(builder).status()), Reason::kBadImageFormat);
}

// Cut anywhere, or with any single byte set to anything remarkable, it is parsed or refused, and never read beyond.
TEST(MetadataRefused, CutOrChangedAnywhere) {
  MetadataBuilder builder({"first descriptor", "second"});
  builder.BeginRoot();
  DentryFields fields = Named(u"name");
  fields.short_name = u"SHORT";
  fields.streams = {{u"", HashOf(1)}, {u"stream", HashOf(2)}};
  fields.tagged_items = TaggedItem(kTagObjectId, std::string(16, 'i'));
  builder.Add(fields);
  builder.End();
  NullMonitor monitor;
  const std::string& whole = builder.bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));  // for sanitizers: exact
    EXPECT_EQ(ReasonOf(ParseMetadata(cut, BlobTable(), "cut.wim", monitor).status()), Reason::kBadImageFormat) << size;
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    for (char value : {'\0', '\x01', '\x7f', '\x80', '\xff'}) {
      std::vector<char> changed(whole.begin(), whole.end());
      changed[at] = value;
      absl::StatusOr<ImageMetadata> image = ParseMetadata(changed, BlobTable(), "changed.wim", monitor);
      if (image.ok()) continue;
      EXPECT_EQ(ReasonOf(image.status()), Reason::kBadImageFormat);
    }
  }
}

TEST(MetadataRefused, Cancelled) {
  class Cancelled final : public OperationMonitor {
    void Report(const ProgressUpdate&) override {}
    bool cancelled() const override { return true; }
  };
  MetadataBuilder builder;
  builder.BeginRoot();
  builder.End();
  Cancelled monitor;
  EXPECT_EQ(ReasonOf(ParseMetadata(absl::MakeConstSpan(builder.bytes()), BlobTable(), "x", monitor).status()),
            Reason::kCancelled);
}

}  // namespace
}  // namespace libmount
