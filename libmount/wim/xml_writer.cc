// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/xml_writer.h"

#include <libxml/parser.h>
#include <libxml/tree.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

constexpr std::string_view kByteOrderMark("\xff\xfe", 2);
constexpr std::string_view kDeclaration = "<?xml";

struct DocumentDeleter {
  void operator()(xmlDoc* document) const { xmlFreeDoc(document); }
};
using DocumentPtr = std::unique_ptr<xmlDoc, DocumentDeleter>;
struct ParserDeleter {
  void operator()(xmlParserCtxt* parser) const { xmlFreeParserCtxt(parser); }
};
struct StringDeleter {
  void operator()(xmlChar* text) const { xmlFree(text); }
};
struct BufferDeleter {
  void operator()(xmlBuffer* buffer) const { xmlBufferFree(buffer); }
};

const xmlChar* Xml(const char* text) { return reinterpret_cast<const xmlChar*>(text); }
std::string_view ViewOf(const xmlChar* text) {
  return text == nullptr ? std::string_view() : std::string_view(reinterpret_cast<const char*>(text));
}

absl::Status BadXml(const std::string& file, std::string_view what) {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: the XML data cannot be changed: %s.", file, what));
}

bool IsElement(const xmlNode* node, std::string_view name) {
  return node->type == XML_ELEMENT_NODE && ViewOf(node->name) == name;
}

xmlNode* Child(xmlNode* parent, std::string_view name) {
  for (xmlNode* node = parent->children; node != nullptr; node = node->next) {
    if (IsElement(node, name)) return node;
  }
  return nullptr;
}

std::string TextOf(xmlNode* node) {
  std::unique_ptr<xmlChar, StringDeleter> text(xmlNodeGetContent(node));
  return std::string(ViewOf(text.get()));
}

// The text of the child of that name, which is made where there is none.
void SetChild(xmlNode* parent, const char* name, const std::string& text) {
  xmlNode* child = Child(parent, name);
  if (child == nullptr) child = xmlNewChild(parent, nullptr, Xml(name), nullptr);
  std::unique_ptr<xmlChar, StringDeleter> escaped(xmlEncodeSpecialChars(parent->doc, Xml(text.c_str())));
  xmlNodeSetContent(child, escaped.get());
}

void SetTime(xmlNode* image, const char* name, uint64_t time) {
  xmlNode* element = Child(image, name);
  if (element == nullptr) element = xmlNewChild(image, nullptr, Xml(name), nullptr);
  SetChild(element, "HIGHPART", absl::StrFormat("0x%08X", time >> 32));
  SetChild(element, "LOWPART", absl::StrFormat("0x%08X", time & 0xffffffff));
}

std::vector<xmlNode*> Images(xmlNode* root) {
  std::vector<xmlNode*> images;
  for (xmlNode* node = root->children; node != nullptr; node = node->next) {
    if (IsElement(node, "IMAGE")) images.push_back(node);
  }
  return images;
}

// As ParseWimXml: the first of that index.
xmlNode* FindImage(xmlNode* root, uint32_t index) {
  for (xmlNode* image : Images(root)) {
    std::unique_ptr<xmlChar, StringDeleter> attribute(xmlGetNoNsProp(image, Xml("INDEX")));
    if (ViewOf(attribute.get()) == absl::StrCat(index)) return image;
  }
  return nullptr;
}

// "Name", "Name (2)", "Name (3)", ...: names are compared as FindImage compares them.
std::string FreeName(xmlNode* root, const std::string& wanted) {
  std::vector<std::string> taken;
  for (xmlNode* image : Images(root)) {
    if (xmlNode* name = Child(image, "NAME")) taken.push_back(TextOf(name));
  }
  for (size_t number = 2;; ++number) {
    std::string candidate = absl::StrCat(wanted, " (", number, ")");
    bool free = true;
    for (const std::string& name : taken) free = free && !EqualFolded(name, candidate);
    if (free) return candidate;
  }
}

xmlNode* AddImage(xmlNode* root, uint32_t index, const xmlNode* like) {
  xmlNode* image = like == nullptr ? xmlNewDocNode(root->doc, nullptr, Xml("IMAGE"), nullptr)
                                   : xmlDocCopyNode(const_cast<xmlNode*>(like), root->doc, 1);
  if (image == nullptr) return nullptr;
  xmlSetProp(image, Xml("INDEX"), Xml(absl::StrCat(index).c_str()));
  const std::vector<xmlNode*> images = Images(root);
  return images.empty() ? xmlAddChild(root, image) : xmlAddNextSibling(images.back(), image);
}

DocumentPtr Parse(const std::string& utf8) {
  std::unique_ptr<xmlParserCtxt, ParserDeleter> parser(xmlNewParserCtxt());
  if (parser == nullptr) return nullptr;
  // Not XML_PARSE_COMPACT: such trees must not be changed.
  constexpr int kOptions =
      XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NODICT | XML_PARSE_IGNORE_ENC;
  return DocumentPtr(
      xmlCtxtReadMemory(parser.get(), utf8.data(), static_cast<int>(utf8.size()), nullptr, "UTF-8", kOptions));
}

// What white space follows the root: libxml2 does not keep that either.
std::string_view SpaceBehind(std::string_view utf8) {
  const size_t end = utf8.find_last_not_of(" \t\r\n");
  return end == utf8.npos ? std::string_view() : utf8.substr(end + 1);
}

std::optional<std::string> Serialize(xmlDoc* document) {
  std::unique_ptr<xmlBuffer, BufferDeleter> buffer(xmlBufferCreate());
  if (buffer == nullptr) return std::nullopt;
  for (xmlNode* node = document->children; node != nullptr; node = node->next) {
    if (xmlNodeDump(buffer.get(), document, node, 0, 0) < 0) return std::nullopt;
  }
  return std::string(ViewOf(xmlBufferContent(buffer.get())));
}

// "<?xml ... ?>" with what white space follows it, which libxml2 does not keep.
std::string_view DeclarationOf(std::string_view utf8) {
  if (utf8.substr(0, kDeclaration.size()) != kDeclaration) return {};
  const size_t end = utf8.find("?>");
  if (end == utf8.npos) return {};
  return utf8.substr(0, std::min(utf8.find('<', end), utf8.size()));
}

absl::Status ChangeImage(xmlNode* root, const XmlChange& change) {
  xmlNode* image = FindImage(root, change.index);
  if (change.new_index != change.index) {
    image = AddImage(root, change.new_index, image);
    if (image != nullptr) {
      SetTime(image, "CREATIONTIME", change.modification_time);
      if (xmlNode* name = Child(image, "NAME")) {
        const std::string wanted = TextOf(name);
        if (!wanted.empty()) SetChild(image, "NAME", FreeName(root, wanted));
      }
    }
  } else if (image == nullptr) {
    image = AddImage(root, change.index, nullptr);
  }
  if (image == nullptr) return MakeError(Reason::kOutOfResources, "no memory for changing the XML data");
  SetChild(image, "DIRCOUNT", absl::StrCat(change.counts.directories));
  SetChild(image, "FILECOUNT", absl::StrCat(change.counts.files));
  SetChild(image, "TOTALBYTES", absl::StrCat(change.counts.total_bytes));
  SetChild(image, "HARDLINKBYTES", absl::StrCat(change.counts.hard_link_bytes));
  SetTime(image, "LASTMODIFICATIONTIME", change.modification_time);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ChangeWimXml(std::string_view utf16le, const XmlChange& change, const std::string& file) {
  if (utf16le.substr(0, kByteOrderMark.size()) == kByteOrderMark) utf16le.remove_prefix(kByteOrderMark.size());
  const std::string utf8 = utf16le.empty() ? "<WIM></WIM>" : Utf16LeToWtf8(utf16le);
  // As in ParseWimXml: refused before libxml2 sees it.
  if (utf8.find("<!DOCTYPE") != std::string::npos) return BadXml(file, "it has a document type, which no WIM has");
  DocumentPtr document = Parse(utf8);
  xmlNode* root = document == nullptr ? nullptr : xmlDocGetRootElement(document.get());
  if (root == nullptr || ViewOf(root->name) != "WIM") return BadXml(file, "it is not well-formed");

  if (change.index != 0) {
    if (absl::Status changed = ChangeImage(root, change); !changed.ok()) return changed;
  }
  if (Child(root, "TOTALBYTES") != nullptr) SetChild(root, "TOTALBYTES", absl::StrCat(change.file_bytes));

  const std::optional<std::string> changed = Serialize(document.get());
  if (!changed) return MakeError(Reason::kOutOfResources, "no memory for changing the XML data");
  const std::optional<std::string> encoded =
      Wtf8ToUtf16Le(std::string(DeclarationOf(utf8)) + *changed + std::string(SpaceBehind(utf8)));
  if (!encoded) return BadXml(file, "it cannot be encoded");
  return std::string(kByteOrderMark) + *encoded;
}

}  // namespace libmount
