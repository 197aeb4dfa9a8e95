// SPDX-License-Identifier: Apache-2.0
//
// The service's messages as text for people and as JSON.

#ifndef CLIENT_DISMCTL_FORMAT_H_
#define CLIENT_DISMCTL_FORMAT_H_

#include <string>
#include <string_view>
#include <vector>

#include "client/dismctl/json.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

// Control characters as \xNN: names come from images, and an escape sequence in one must not reach the terminal.
std::string Printable(std::string_view text);

// 1234567 as "1,234,567".
std::string Grouped(uint64_t number);

// Columns as wide as their widest cell, the last not padded; the first row is the heading.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// "2026-11-22T15:52:01Z"; a FILETIME of 0 is "".
std::string IsoTime(int64_t unix_seconds);
std::string IsoTimeOfFiletime(uint64_t filetime);

const char* PhaseName(v1::Phase phase);               // "reading_metadata"
const char* StatusName(v1::MountStatus status);       // "needs_remount"
const char* EventName(v1::MountEvent event);          // "added"
std::string ArchitectureName(uint32_t architecture);  // "x64"

// The edits that no commit has written yet: "12 changed files (3,456 bytes staged)".
std::string ChangesText(const v1::Mount& mount);

std::string MountTable(const v1::ListMountsResponse& response);
std::string DiskText(const v1::DiskInfo& disk);
std::string ImageText(const v1::ImageInfo& image);

// The fields of the current object.
void WriteMount(const v1::Mount& mount, JsonWriter* json);
void WriteDisk(const v1::DiskInfo& disk, JsonWriter* json);  // as a member "disk"
void WriteImage(const v1::ImageInfo& image, JsonWriter* json);

}  // namespace dismd

#endif  // CLIENT_DISMCTL_FORMAT_H_
