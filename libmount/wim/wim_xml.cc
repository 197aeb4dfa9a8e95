// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/wim_xml.h"

#include <libxml/parser.h>
#include <libxml/tree.h>

#include <charconv>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

constexpr std::string_view kByteOrderMark("\xff\xfe", 2);

struct DocumentDeleter {
  void operator()(xmlDoc* document) const { xmlFreeDoc(document); }
};
struct ParserDeleter {
  void operator()(xmlParserCtxt* parser) const { xmlFreeParserCtxt(parser); }
};
struct StringDeleter {
  void operator()(xmlChar* text) const { xmlFree(text); }
};

std::string_view ViewOf(const xmlChar* text) {
  return text == nullptr ? std::string_view() : std::string_view(reinterpret_cast<const char*>(text));
}

absl::Status BadXml(const std::string& file, std::string_view what) {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: the XML data cannot be read: %s.", file, what));
}

// The first child element of that name; null where there is none, or no parent.
const xmlNode* Child(const xmlNode* parent, std::string_view name) {
  if (parent == nullptr) return nullptr;
  for (const xmlNode* node = parent->children; node != nullptr; node = node->next) {
    if (node->type == XML_ELEMENT_NODE && ViewOf(node->name) == name) return node;
  }
  return nullptr;
}

// The text directly inside an element; references to entities contribute nothing.
std::string Text(const xmlNode* element) {
  std::string text;
  if (element == nullptr) return text;
  for (const xmlNode* node = element->children; node != nullptr; node = node->next) {
    if (node->type == XML_TEXT_NODE || node->type == XML_CDATA_SECTION_NODE) text += ViewOf(node->content);
  }
  return text;
}

std::string ChildText(const xmlNode* parent, std::string_view name) { return Text(Child(parent, name)); }

// A number in decimal, or with 0x in hexadecimal; nullopt where the text is anything else.
template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\r\n").find(text.front()) != std::string_view::npos) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::string_view(" \t\r\n").find(text.back()) != std::string_view::npos) {
    text.remove_suffix(1);
  }
  int base = 10;
  if (text.substr(0, 2) == "0x" || text.substr(0, 2) == "0X") {
    base = 16;
    text.remove_prefix(2);
  }
  T value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <typename T>
T ChildNumber(const xmlNode* parent, std::string_view name, T otherwise = 0) {
  return ParseNumber<T>(ChildText(parent, name)).value_or(otherwise);
}

// CREATIONTIME and its like: a 64-bit Windows time in two halves.
uint64_t ChildTime(const xmlNode* parent, std::string_view name) {
  const xmlNode* time = Child(parent, name);
  std::optional<uint32_t> high = ParseNumber<uint32_t>(ChildText(time, "HIGHPART"));
  std::optional<uint32_t> low = ParseNumber<uint32_t>(ChildText(time, "LOWPART"));
  return high && low ? uint64_t{*high} << 32 | *low : 0;
}

void ReadLanguages(const xmlNode* windows, ImageInfo& info) {
  const xmlNode* languages = Child(windows, "LANGUAGES");
  if (languages == nullptr) return;
  for (const xmlNode* node = languages->children; node != nullptr; node = node->next) {
    if (node->type == XML_ELEMENT_NODE && ViewOf(node->name) == "LANGUAGE") info.languages.push_back(Text(node));
  }
  std::string default_language = ChildText(languages, "DEFAULT");
  for (size_t i = 0; i < info.languages.size(); ++i) {
    if (EqualFolded(info.languages[i], default_language)) {
      info.default_language = static_cast<uint32_t>(i);
      break;
    }
  }
}

void ReadWindows(const xmlNode* windows, ImageInfo& info) {
  if (windows == nullptr) return;
  info.architecture = ChildNumber<uint32_t>(windows, "ARCH", kUnknownArchitecture);
  info.product_name = ChildText(windows, "PRODUCTNAME");
  info.edition_id = ChildText(windows, "EDITIONID");
  info.installation_type = ChildText(windows, "INSTALLATIONTYPE");
  info.hal = ChildText(windows, "HAL");
  info.product_type = ChildText(windows, "PRODUCTTYPE");
  info.product_suite = ChildText(windows, "PRODUCTSUITE");
  info.system_root = ChildText(windows, "SYSTEMROOT");
  const xmlNode* version = Child(windows, "VERSION");
  info.major_version = ChildNumber<uint32_t>(version, "MAJOR");
  info.minor_version = ChildNumber<uint32_t>(version, "MINOR");
  info.build = ChildNumber<uint32_t>(version, "BUILD");
  info.service_pack_build = ChildNumber<uint32_t>(version, "SPBUILD");
  info.service_pack_level = ChildNumber<uint32_t>(version, "SPLEVEL");
  ReadLanguages(windows, info);
}

void ReadImage(const xmlNode* image, ImageInfo& info) {
  info.name = ChildText(image, "NAME");
  info.description = ChildText(image, "DESCRIPTION");
  info.size = ChildNumber<uint64_t>(image, "TOTALBYTES");
  info.directory_count = ChildNumber<uint64_t>(image, "DIRCOUNT");
  info.file_count = ChildNumber<uint64_t>(image, "FILECOUNT");
  info.creation_time = ChildTime(image, "CREATIONTIME");
  info.modification_time = ChildTime(image, "LASTMODIFICATIONTIME");
  ReadWindows(Child(image, "WINDOWS"), info);
}

std::unique_ptr<xmlDoc, DocumentDeleter> ParseDocument(const std::string& utf8) {
  std::unique_ptr<xmlParserCtxt, ParserDeleter> parser(xmlNewParserCtxt());
  if (parser == nullptr) return nullptr;
  // The encoding is given, since what the prologue says is about the file, not about our UTF-8 copy.
  constexpr int kOptions = XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_COMPACT |
                           XML_PARSE_NODICT | XML_PARSE_IGNORE_ENC;
  return std::unique_ptr<xmlDoc, DocumentDeleter>(
      xmlCtxtReadMemory(parser.get(), utf8.data(), static_cast<int>(utf8.size()), nullptr, "UTF-8", kOptions));
}

}  // namespace

absl::StatusOr<std::vector<ImageInfo>> ParseWimXml(std::string_view utf16le, uint32_t image_count,
                                                   const std::string& file) {
  if (utf16le.substr(0, kByteOrderMark.size()) == kByteOrderMark) utf16le.remove_prefix(kByteOrderMark.size());
  const std::string utf8 = Utf16LeToWtf8(utf16le);
  // Refused before libxml2 sees it: a document type can only be there to make entities.
  if (utf8.find("<!DOCTYPE") != std::string::npos) return BadXml(file, "it has a document type, which no WIM has");
  std::unique_ptr<xmlDoc, DocumentDeleter> document = ParseDocument(utf8);
  if (document == nullptr) return BadXml(file, "it is not well-formed");
  const xmlNode* root = xmlDocGetRootElement(document.get());
  if (root == nullptr || ViewOf(root->name) != "WIM") return BadXml(file, "its root element is not WIM");

  std::vector<ImageInfo> images(image_count);
  for (uint32_t i = 0; i < image_count; ++i) {
    images[i].type = ImageType::kWim;
    images[i].index = i + 1;
  }
  std::vector<bool> described(image_count);
  for (xmlNode* node = root->children; node != nullptr; node = node->next) {
    if (node->type != XML_ELEMENT_NODE || ViewOf(node->name) != "IMAGE") continue;
    std::unique_ptr<xmlChar, StringDeleter> attribute(xmlGetNoNsProp(node, BAD_CAST "INDEX"));
    uint32_t index = ParseNumber<uint32_t>(ViewOf(attribute.get())).value_or(0);
    if (index == 0 || index > image_count || described[index - 1]) continue;
    described[index - 1] = true;
    ReadImage(node, images[index - 1]);
  }
  return images;
}

}  // namespace libmount
