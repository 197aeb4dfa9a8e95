// SPDX-License-Identifier: Apache-2.0
//
// From the paths that callers write to the absolute POSIX paths that the service takes.
//
//   /srv/images/a.wim     as it is (a backslash is an ordinary character of a POSIX name)
//   images/a.wim          beneath the current directory
//   images\a.wim          likewise; backslashes become slashes when there is no slash in the path
//   C:\images\a.wim       through the drive map; "." and ".." are resolved in the text, never above the drive's root
//   C:/images/a.wim       likewise
//   \\?\C:\images\a.wim   likewise
//   C:a.wim               refused: a drive has no current directory here ("./C:a.wim" names such a file)
//   \\server\share\a.wim  refused: images lie on local file systems
//
// Symbolic links are left alone: the service resolves them, as the caller.
//
// The drive map, the first that names a drive counts:
//   DISMD_DRIVES=C:=/srv/c;D:=/mnt/d
//   the section [drives] in $XDG_CONFIG_HOME/dismd/dismctl.conf (~/.config), then in /etc/dismd/dismctl.conf:
//     [drives]
//     C: = /srv/c
// "*" stands for the letters that are not named: with *:=/srv/drives, X: is /srv/drives/X. A disk (VHD, VHDX) may be
// mounted at such a free letter, whose directory is then made. A setuid program's environment is not believed: there
// only /etc counts.

#ifndef CLIENT_COMMON_PATHS_H_
#define CLIENT_COMMON_PATHS_H_

#include <map>
#include <string>
#include <string_view>

#include "client/common/call_status.h"

namespace dismd {

// Drive letter ('A' to 'Z', or kOtherDrives) to an absolute directory.
inline constexpr char kOtherDrives = '*';
using DriveMap = std::map<char, std::string>;

// Reads the text of DISMD_DRIVES and adds what is not yet in `map`. Entries that make no sense are left out.
void AddDrivesFromVariable(std::string_view text, DriveMap* map);

// The same for the text of a dismctl.conf.
void AddDrivesFromConfig(std::string_view text, DriveMap* map);

// Variable and both files, read anew: programs may change their environment.
DriveMap LoadDriveMap();

// Makes `*path` absolute as above; INVALID_PATH otherwise.
CallStatus TranslatePath(std::string_view path, std::string* absolute);

// The same for where `image_path` is to be mounted: of a disk at a free drive letter the directory is made.
CallStatus TranslateMountPoint(std::string_view path, std::string_view image_path, std::string* absolute);

}  // namespace dismd

#endif  // CLIENT_COMMON_PATHS_H_
