// SPDX-License-Identifier: Apache-2.0
//
// The manual, as --help prints it. "%P" stands for the name that the program was called by.

#include <map>

#include "client/dismctl/options.h"

namespace dismd {
namespace {

constexpr char kMain[] = R"(%P - mount Windows images (.wim, .esd, .swm) through the dismd service

Usage: %P [--address ADDRESS] [--json] COMMAND [ARGUMENTS]
       %P COMMAND --help

Commands:
  mount IMAGE DIR   mount an image at an empty directory of yours
  unmount DIR       unmount it
  list              your mounts (root: everyone's)
  info IMAGE        what an image file holds
  watch             mounts as they come, change and go, until Ctrl-C
  cleanup           free what is left of invalid mounts
  status            the service: version, limits, whom it takes you for
  help [COMMAND]    this text, or that of a command

Options of every command:
  --address unix:PATH  the service's socket. Default: $DISMD_ADDRESS, else your own service's socket
                       ($XDG_RUNTIME_DIR/dismd/dismd.sock) if it exists, else /run/dismd/dismd.sock
  --json               output for programs, one JSON object a line; the fields are listed below
  -h, --help           help
  --version            version of %P

Paths: relative ones start at the current directory. C:\dir\file goes through a drive map: the variable
  DISMD_DRIVES=C:=/srv/c;D:=/mnt/d, or lines "C: = /srv/c" in the section [drives] of
  ~/.config/dismd/dismctl.conf or /etc/dismd/dismctl.conf.

Exit codes:
  0  done (also: cancelled too late, so that it was done; watch ended by Ctrl-C)
  1  failed; the message on stderr says why and what to do
  2  the command line makes no sense
  3  the service does not run, or went away
  4  cancelled by Ctrl-C (SIGINT) or SIGTERM; nothing is left behind

JSON (new fields may be added, existing ones keep their meaning):
  failures, of every command:
    {"event":"error","reason":"IMAGE_NOT_FOUND","message":TEXT}       reasons: dismd/v1/errors.proto, or "UNAVAILABLE"
  mount, unmount, while they run:
    {"event":"progress","operation_id":ID,"phase":P,"current":N,"total":100,"bytes_done":N,"bytes_total":N}
    phases: opening, checking_integrity, reading_metadata, mounting, unmounting, committing
  mount, unmount, cleanup, when done:
    {"event":"mounted","mount":MOUNT}  {"event":"unmounted","mount_path":PATH}  {"event":"cleaned","mounts":[MOUNT...]}
  list:   {"mounts":[MOUNT...]}
  info:   {"images":[IMAGE...]}
  watch:  {"event":"added"|"changed"|"removed","mount":MOUNT}, and {"event":"synced"} once all existing ones were listed
  status: {"version":TEXT,"rootless":BOOL,"caller_uid":N,"operation_retention_seconds":N,"limits":{...}}
  MOUNT:  mount_id, mount_path, image_path, image_type ("wim"|"vhd"), image_index, image_name, read_only,
          status ("ok"|"needs_remount"|"invalid"), status_message, owner_uid, allow_other, mount_time (ISO 8601, UTC),
          damaged_file_count, damaged_files [{path, message}], worker_pid
  IMAGE:  image_type, image_index, image_name, image_description, image_size, architecture, product_name, edition_id,
          installation_type, hal, product_type, product_suite, major_version, minor_version, build,
          service_pack_build, service_pack_level, bootable ("yes"|"no"|"unknown"), system_root, languages,
          default_language_index, directory_count, file_count, creation_time, modification_time (ISO 8601 or null)
)";

constexpr char kMount[] = R"(Usage: %P mount IMAGE DIR [--index N | --name S] [--read-only] [OPTIONS]

Mounts an image of the file IMAGE at DIR, an empty directory that belongs to you. You need to be able to read IMAGE, and
no other privilege. Returns when the mount is there; Ctrl-C cancels, and waits until nothing is left.

  -i, --index N       which image of the file, from 1 (default: 1)
  -n, --name S        which image, by its name; case does not count
  -r, --read-only     without it the mount is read-write
  --check-integrity   compare the file with its integrity table first, if it has one
  --allow-other       let other users look inside, if the service's policy permits
  --address, --json   see %P --help

Progress goes to stderr: a bar with rate and time left on a terminal, else a line for each phase. Exit codes: %P --help.
)";

constexpr char kUnmount[] = R"(Usage: %P unmount DIR [--discard | --commit] [OPTIONS]

Unmounts what is mounted at DIR, which is an empty directory again afterwards. If files in it are in use, nothing
happens, and the message names the processes.

  --discard           drop the changes of a read-write mount
  --commit            write them into the image first
  --address, --json   see %P --help

A read-only mount needs neither. Exit codes: %P --help.
)";

constexpr char kList[] = R"(Usage: %P list [--json]

Lists your mounts, in the order in which they were made. For root: everyone's.

Columns: MOUNT POINT; IMAGE; INDEX in the file; MODE ro or rw; STATUS ok, needs-remount (edits are kept) or invalid (can
only be unmounted; the reason is on the next line); OWNER, a user id.
)";

constexpr char kInfo[] = R"(Usage: %P info IMAGE [--json]

Shows what the file IMAGE says of the images in it. Nothing is mounted.
)";

constexpr char kWatch[] = R"(Usage: %P watch [--json]

Shows your mounts, then every change as it happens (added, changed, removed), a line each, until Ctrl-C.
)";

constexpr char kCleanup[] = R"(Usage: %P cleanup [--json]

Frees what is left of your invalid mounts: image gone, directory replaced, serving process dead. Live mounts, and those
that can be remounted, are never touched.
)";

constexpr char kStatus[] = R"(Usage: %P status [--json]

Shows the service's version, how it runs, its limits, and the user id that it takes you for.
)";

}  // namespace

std::string HelpText(const std::string& program, const std::string& topic) {
  static const auto* topics = new std::map<std::string, const char*>{
      {"mount", kMount}, {"unmount", kUnmount}, {"umount", kUnmount},  {"list", kList},
      {"info", kInfo},   {"watch", kWatch},     {"cleanup", kCleanup}, {"status", kStatus},
  };
  auto found = topics->find(topic);
  std::string text = found == topics->end() ? kMain : found->second;
  for (size_t at = 0; (at = text.find("%P", at)) != std::string::npos; at += program.size()) {
    text.replace(at, 2, program);
  }
  return text;
}

}  // namespace dismd
