// SPDX-License-Identifier: Apache-2.0

#include "client/dism/options.h"

namespace dismd::dism {
namespace {

constexpr char kMain[] = R"(dism [global options] {command} [arguments]

Mounts Windows images through the dismd service, with the command line and the output of dism.exe.
Options are the same in any case; a value follows ":" or "=". Paths: POSIX paths, or C:\dir\file
through a drive map (DISMD_DRIVES=C:=/srv/c, or [drives] in dismctl.conf; "*:=/srv/drives" is for
the other letters, and a .vhd or .vhdx can be mounted to one: X:).

COMMANDS (and their older names):

  /Mount-Image (/Mount-Wim)                     Mounts an image from a .wim, .esd, .swm, .vhd or
                                                .vhdx file.
      /ImageFile:<path> {/Index:<n> | /Name:<name>} /MountDir:<path>
      [/ReadOnly] [/Optimize] [/CheckIntegrity] [/SupportEa]
  /Commit-Image (/Commit-Wim)                   Saves changes to a mounted image.
      /MountDir:<path> [/CheckIntegrity] [/Append]
  /Unmount-Image (/Unmount-Wim)                 Unmounts a mounted image.
      /MountDir:<path> {/Commit | /Discard} [/CheckIntegrity] [/Append]
  /Remount-Image (/Remount-Wim)                 Recovers an image mount directory after a restart.
      /MountDir:<path>
  /Get-ImageInfo (/Get-WimInfo)                 Displays information about images in an image file.
      /ImageFile:<path> [{/Index:<n> | /Name:<name>}]
  /Get-MountedImageInfo (/Get-MountedWimInfo)   Displays information about mounted images.
  /Cleanup-Mountpoints (/Cleanup-Wim)           Frees what is left of invalid mounts.

GLOBAL OPTIONS:

  /Quiet           Shows nothing but errors.
  /LogPath:<path>  The log file. Default: dism.log in $XDG_STATE_HOME/dismd (~/.local/state/dismd).
  /LogLevel:<n>    1 errors, 2 and warnings, 3 and information (default), 4 and debugging.
  /ScratchDir:<path>
                   With /Mount-Image: where edits are kept until they are committed or discarded. Must exist, and
                   stay until then. Default: the service's own directory.
  /Format:{Table | List}
                   How lists are shown. Default: List.
  /English, /NoRestart
                   Accepted: the output is English, and nothing here needs a restart.
  /?, /Get-Help    This text; after a command, that of the command.

EXIT CODE: 0, or the low 8 bits of the error that is shown as "Error: " (all that a process can
hand over here; 1 where they are 0): 87 for a command line that makes no sense, 2, 3, 5, 11, 13,
32, 50, 112 as on Windows, 0xc1420127 as 39.
)";

}  // namespace

std::string HelpText(Command command) {
  const std::string text = kMain;
  if (command == Command::kNone) return text;
  constexpr const char* kHeads[] = {"",
                                    "  /Mount-Image",
                                    "  /Unmount-Image",
                                    "  /Commit-Image",
                                    "  /Remount-Image",
                                    "  /Get-ImageInfo",
                                    "  /Get-MountedImageInfo",
                                    "  /Cleanup-Mountpoints"};
  const size_t begin = text.find(kHeads[static_cast<int>(command)]);
  size_t end = text.find("\n  /", begin);
  end = std::min(end, text.find("\n\n", begin));
  return text.substr(begin, end + 1 - begin);
}

}  // namespace dismd::dism
