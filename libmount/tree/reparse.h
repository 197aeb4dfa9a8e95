// SPDX-License-Identifier: GPL-3.0-or-later
//
// Reparse data of links, as NTFS and a WIM store it: what follows the eight bytes of tag and length.
//
//   symbolic link  [ u16 offset, u16 size of the substitute name ][ the same of the print name ][ u32 flags ][ names ]
//   junction       the same without flags
//   WSL link       [ u32 version ][ target in UTF-8 ]
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_TREE_REPARSE_H_
#define LIBMOUNT_TREE_REPARSE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace libmount {

// Windows' limit for a reparse point, of which 8 bytes are the header.
inline constexpr size_t kMaxReparseData = 16384 - 8;

struct LinkTarget {
  enum class Kind {
    kRelative,  // to the directory that holds the link
    kAbsolute,  // to the root of the link's own volume, which is the image's root
    kForeign,   // another volume, or a network share: nothing in the image
  };
  Kind kind = Kind::kRelative;
  // Of the target, as written; ".." among them.
  std::vector<std::string> components;
  // kForeign: the target as Windows would show it, with no slash in it.
  std::string text;
};

// The target of a link with this tag; nullopt where the data makes no sense, or the tag is of no link.
//   C:\x, \??\C:\x, \x   absolute, whatever the drive: an image has but one volume
//   \??\Volume{..}\x, \\?\Volume{..}\x, \\server\share\x, \??\UNC\..   foreign
std::optional<LinkTarget> DecodeLink(uint32_t tag, std::string_view data);

struct ReparsePoint {
  uint32_t tag = 0;
  std::string data;

  std::string Bytes() const;  // with the header of 8 bytes
};
// A symbolic link as it is stored: one of Windows where that can say it, else one of WSL. nullopt: too long.
std::optional<ReparsePoint> EncodeLink(std::string_view target);
// What a link says, as Linux reads it: absolute within the image where it is absolute.
std::optional<std::string> LinkText(uint32_t tag, std::string_view data);

// How `path` is reached from the directory `base`, both given from the root: "../x"; "." where they are the same.
std::string RelativePath(const std::vector<std::string>& base, const std::vector<std::string>& path);

}  // namespace libmount

#endif  // LIBMOUNT_TREE_REPARSE_H_
