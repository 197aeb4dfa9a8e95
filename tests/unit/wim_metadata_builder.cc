// SPDX-License-Identifier: GPL-3.0-or-later
#include "tests/unit/wim_metadata_builder.h"

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

void AppendName(const std::u16string& name, std::string& out) {
  if (name.empty()) return;
  for (char16_t unit : name) AppendLe(static_cast<uint16_t>(unit), out);
  AppendLe(uint16_t{0}, out);
}

void Pad(std::string& bytes) { bytes.append(-bytes.size() & 7, '\0'); }

}  // namespace

MetadataBuilder::MetadataBuilder(const std::vector<std::string>& security) {
  uint32_t total = 8;
  for (const std::string& descriptor : security) total += static_cast<uint32_t>(8 + descriptor.size());
  AppendLe(total, bytes_);
  AppendLe(static_cast<uint32_t>(security.size()), bytes_);
  for (const std::string& descriptor : security) AppendLe(uint64_t{descriptor.size()}, bytes_);
  for (const std::string& descriptor : security) bytes_ += descriptor;
  Pad(bytes_);
}

uint64_t MetadataBuilder::Add(const DentryFields& fields) {
  const uint64_t offset = bytes_.size();
  std::string dentry;
  AppendLe(uint64_t{0}, dentry);  // the length, put in below
  AppendLe(fields.attributes, dentry);
  AppendLe(fields.security, dentry);
  AppendLe(fields.subdirectory, dentry);
  dentry.append(16, '\0');
  for (uint64_t time : {1, 2, 3}) AppendLe(time * 10'000'000 + 116'444'736'000'000'000, dentry);
  dentry.append(reinterpret_cast<const char*>(fields.hash.data()), fields.hash.size());
  dentry.append(4, '\0');
  AppendLe(fields.hard_link_group, dentry);
  AppendLe(static_cast<uint16_t>(fields.streams.size()), dentry);
  AppendLe(static_cast<uint16_t>(2 * fields.short_name.size()), dentry);
  AppendLe(static_cast<uint16_t>(2 * fields.name.size()), dentry);
  AppendName(fields.name, dentry);
  AppendName(fields.short_name, dentry);
  Pad(dentry);
  dentry += fields.tagged_items;
  std::string length;
  AppendLe(uint64_t{dentry.size()}, length);
  bytes_ += dentry.replace(0, length.size(), length);
  for (const DentryFields::Stream& stream : fields.streams) {
    std::string entry(16, '\0');
    entry.append(reinterpret_cast<const char*>(stream.hash.data()), stream.hash.size());
    AppendLe(static_cast<uint16_t>(2 * stream.name.size()), entry);
    AppendName(stream.name, entry);
    Pad(entry);
    std::string size;
    AppendLe(uint64_t{entry.size()}, size);
    bytes_ += entry.replace(0, size.size(), size);
  }
  return offset;
}

void MetadataBuilder::BeginRoot() {
  DentryFields root;
  root.attributes = 0x10;
  const uint64_t at = Add(root);
  End();
  std::string list;
  AppendLe(offset(), list);
  Poke(at + 0x10, list);
}

Sha1Digest WimBuilder::AddBlob(std::string_view data) {
  blobs_.emplace_back(data);
  return Sha1::Of(absl::MakeConstSpan(data.data(), data.size()));
}

std::string WimBuilder::Build(const MetadataBuilder& metadata, std::string_view xml) const {
  constexpr uint8_t kMetadataFlag = 0x02;
  std::string file(208, '\0');
  std::string table;
  auto resource_header = [&file](std::string_view data, uint8_t flags) {
    std::string header;
    AppendLe(uint64_t{data.size()} | uint64_t{flags} << 56, header);
    AppendLe(uint64_t{file.size()}, header);
    AppendLe(uint64_t{data.size()}, header);
    file += data;
    return header;
  };
  auto add_blob = [&](std::string_view data, uint8_t flags) {
    table += resource_header(data, flags);
    AppendLe(uint16_t{1}, table);
    AppendLe(uint32_t{1}, table);
    const Sha1Digest hash = Sha1::Of(absl::MakeConstSpan(data.data(), data.size()));
    table.append(reinterpret_cast<const char*>(hash.data()), hash.size());
  };
  for (const std::string& blob : blobs_) add_blob(blob, 0);
  add_blob(metadata.bytes(), kMetadataFlag);
  const std::string table_header = resource_header(table, 0);
  const std::string xml_header = resource_header("\xff\xfe" + *Wtf8ToUtf16Le(xml), 0);

  std::string header("MSWIM\0\0\0", 8);
  AppendLe(uint32_t{208}, header);
  AppendLe(uint32_t{0x10d00}, header);
  AppendLe(uint32_t{0}, header);  // flags
  AppendLe(uint32_t{0}, header);  // chunk size
  header.append(16, 'g');
  AppendLe(uint16_t{1}, header);
  AppendLe(uint16_t{1}, header);
  AppendLe(uint32_t{1}, header);  // images
  header += table_header + xml_header;
  return file.replace(0, header.size(), header);
}

std::string TaggedItem(uint32_t tag, std::string_view data) {
  std::string item;
  AppendLe(tag, item);
  AppendLe(static_cast<uint32_t>(data.size()), item);
  item += data;
  Pad(item);
  return item;
}

}  // namespace libmount
