// SPDX-License-Identifier: Apache-2.0
//
// The manual, as --help prints it. "%P" stands for the name that the program was called by.

#include <map>

#include "client/dismctl/options.h"

namespace dismd {
namespace {

constexpr char kMain[] = R"(%P - mount Windows images (.wim, .esd, .swm, .vhd, .vhdx) through the dismd service

Usage: %P [--address ADDRESS] [--json] COMMAND [ARGUMENTS]
       %P COMMAND --help

Commands:
  mount IMAGE DIR   mount an image at an empty directory of yours, read-write unless --read-only
  commit DIR        write the changes into the image; the mount stays
  unmount DIR       unmount it, with --commit or --discard for the changes
  remount DIR       bring back a mount that a restart of the machine or the service has ended, with its changes
  list              your mounts (root: everyone's)
  info IMAGE        what an image file holds
  watch             mounts as they come, change and go, until Ctrl-C
  cleanup [DIR]     free what is left of invalid mounts
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
  ~/.config/dismd/dismctl.conf or /etc/dismd/dismctl.conf. "*: = /srv/drives" is for all other letters: X: is
  /srv/drives/X then, which is made when a disk (.vhd, .vhdx) is mounted to X:.

Exit codes:
  0  done (also: cancelled too late, so that it was done; watch ended by Ctrl-C)
  1  failed; the message on stderr says why and what to do
  2  the command line makes no sense
  3  the service does not run, or went away
  4  cancelled by Ctrl-C (SIGINT) or SIGTERM; nothing is left behind, and a commit has changed nothing

JSON (new fields may be added, existing ones keep their meaning):
  failures, of every command:
    {"event":"error","reason":"IMAGE_NOT_FOUND","message":TEXT}       reasons: dismd/v1/errors.proto, or "UNAVAILABLE"
  mount, unmount, commit, remount, while they run:
    {"event":"progress","operation_id":ID,"phase":P,"current":N,"total":100,"bytes_done":N,"bytes_total":N}
    phases: opening, checking_integrity, reading_metadata, mounting, unmounting, committing, waiting (for another
    commit of the file), rebuilding, recovering
  mount, unmount, commit, remount, cleanup, when done:
    {"event":"mounted"|"committed"|"remounted","mount":MOUNT}    {"event":"cleaned","mounts":[MOUNT...],
    "kept":[MOUNT...]}
    {"event":"unmounted","mount_path":PATH}                      with --commit also "image_index":N
  list:   {"mounts":[MOUNT...]}
  info:   {"images":[IMAGE...]}, of a disk also "disk":DISK
  watch:  {"event":"added"|"changed"|"removed","mount":MOUNT}, and {"event":"synced"} once all existing ones were listed
  status: {"version":TEXT,"rootless":BOOL,"caller_uid":N,"operation_retention_seconds":N,"limits":{...}}
  MOUNT:  mount_id, mount_path, image_path, image_type ("wim"|"vhd"), image_index, partition (0: a WIM), image_name,
          read_only,
          status ("ok"|"needs_remount"|"invalid"), status_message, owner_uid, allow_other, unix_data,
          has_changes, changed_files (0: a disk), staged_bytes (edits that are not committed), commit_pending (a disk is
          being written to, or a commit was broken off), scratch_directory (where the edits are; "": the service's own),
          mount_time (ISO 8601, UTC), damaged_file_count, damaged_files [{path, message}], worker_pid
  IMAGE:  image_type, image_index, image_name, image_description, image_size, architecture, product_name, edition_id,
          installation_type, hal, product_type, product_suite, major_version, minor_version, build,
          service_pack_build, service_pack_level, bootable ("yes"|"no"|"unknown"), system_root, languages,
          default_language_index, directory_count, file_count, creation_time, modification_time (ISO 8601 or null)
  DISK:   chain [{name, format ("VHD"|"VHDX"), disk_type ("fixed"|"dynamic"|"differencing"), file_size, virtual_size,
          sector_size, block_size, creator, identifier, parent_identifier, parent_paths, log_pending, warnings}],
          partition_table ("gpt"|"mbr"|"none"), partitions [{number, offset, size, type, file_system, label,
          has_windows, is_default}]
)";

constexpr char kMount[] = R"(Usage: %P mount IMAGE DIR [--index N | --name S] [--read-only] [OPTIONS]

Mounts an image of the file IMAGE at DIR, an empty directory that belongs to you. You need to be able to read IMAGE, and
to write it unless the mount is --read-only; no other privilege. What is changed in DIR is kept beside, and reaches
IMAGE only by %P commit, or unmount --commit. Returns when the mount is there; Ctrl-C cancels, and waits until nothing
is left.

  -i, --index N       which image of the file, from 1 (default: 1)
  -n, --name S        which image, by its name; case does not count
  --partition N       of a disk (.vhd, .vhdx): which partition, as %P info numbers them (default: the only one with
                      NTFS, or of several the one with a Windows)
  -r, --read-only     without it the mount is read-write, as DISM's; split and solid files need it
  --check-integrity   compare the file with its integrity table first, if it has one
  --allow-other       let other users look inside, if the service's policy permits
  --scratch-directory=DIR
                      keep what is changed in DIR, a directory that you can write to and that is on no network, until
                      it is committed or discarded, instead of the service's own directory; do not move it meanwhile
  --unix-data         keep mode and owner of new and changed files in the image, too (as wimlib does; for Windows they
                      mean nothing), and allow devices, FIFOs and sockets; always on where the image has such data
  --address, --json   see %P --help

Progress goes to stderr: a bar with rate and time left on a terminal, else a line for each phase. Exit codes: %P --help.
)";

constexpr char kUnmount[] = R"(Usage: %P unmount DIR [--discard | --commit [COMMIT OPTIONS]] [OPTIONS]

Unmounts what is mounted at DIR, which is an empty directory again afterwards. A read-write mount needs one of the two:

  --discard           drop the changes (not of a disk whose commit was broken off: see %P commit)
  --commit            write them into the image first; with the options of %P commit: --append, --check-integrity,
                      --rebuild, --recompress
  --address, --json   see %P --help

If files in it are in use, it stays mounted, and the message names the processes; say the same again when they are
closed: what was committed is not committed twice. A commit that fails, or is cancelled by Ctrl-C in time, changes
nothing, and the mount stays. Returns when the image file is final on the disk. Exit codes: %P --help.
)";

constexpr char kCommit[] = R"(Usage: %P commit DIR [OPTIONS]

Writes the changes of the read-write mount at DIR into its image. The mount stays, also for programs that work in it;
what they change meanwhile is left for the next commit. Ctrl-C cancels; a commit that fails or was cancelled in time
leaves the image file byte for byte as it was, and the changes where they are.

Into a disk (.vhd, .vhdx) only when nothing else shows it: no other mount of it, or of a differencing disk that stands on
it. Of a differencing disk, the parents are not touched. It takes no options. A commit that is broken off behind its
first write (no space, a power loss) leaves a sound disk whose volume is between two states, and whole as it is mounted:
another commit, or %P remount, finishes it.

  --append            store as a new image at the end of the file; the mount is of that one afterwards
  --check-integrity   write an integrity table (one that is there is renewed in any case)
  --rebuild           write the whole file anew, without the space that replaced and unused data take: beside the old
                      one, for which there must be room, and then in its place. Owner, mode, ACL and attributes stay.
                      Only when nothing else of the file is mounted
  --recompress=KIND   the same, with all data compressed anew: xpress (fast to write and to read), lzx (smaller) or
                      lzms (smallest, and slow)
  --address, --json   see %P --help

Exit codes: %P --help.
)";

constexpr char kRemount[] = R"(Usage: %P remount DIR [OPTIONS]

Brings a mount back whose status is needs-remount (see %P list): one that was read-write when the machine or the service
went down. Every change that had reached the disk is there again.

  --address, --json   see %P --help

To throw the changes away instead: %P unmount DIR --discard. Exit codes: %P --help.
)";

constexpr char kList[] = R"(Usage: %P list [--json]

Lists your mounts, in the order in which they were made. For root: everyone's.

Columns: MOUNT POINT; IMAGE; INDEX in the file; MODE ro or rw; STATUS ok, needs-remount (edits are kept) or invalid (can
only be unmounted; the reason is on the next line); OWNER, a user id. Lines below tell what is not committed.
)";

constexpr char kInfo[] = R"(Usage: %P info IMAGE [--json]

Shows what the file IMAGE says of the images in it. Nothing is mounted.
)";

constexpr char kWatch[] = R"(Usage: %P watch [--json]

Shows your mounts, then every change as it happens (added, changed, removed), a line each, until Ctrl-C.
)";

constexpr char kCleanup[] = R"(Usage: %P cleanup [DIR [--force]] [--json]

Frees what is left of your invalid mounts (of that at DIR alone): image gone, directory replaced, serving process dead.
Live mounts, and those that can be remounted, are never touched. The changes of a read-write mount are kept, though its
image or directory is not there: the output names it, and it can be remounted when they are back.

  --force             remove the mount at DIR whatever its state, in use or not, and throw its changes away for good;
                      the output says how much that was
)";

constexpr char kStatus[] = R"(Usage: %P status [--json]

Shows the service's version, how it runs, its limits, and the user id that it takes you for.
)";

}  // namespace

std::string HelpText(const std::string& program, const std::string& topic) {
  static const auto* topics = new std::map<std::string, const char*>{
      {"mount", kMount}, {"unmount", kUnmount}, {"umount", kUnmount}, {"commit", kCommit},   {"remount", kRemount},
      {"list", kList},   {"info", kInfo},       {"watch", kWatch},    {"cleanup", kCleanup}, {"status", kStatus},
  };
  auto found = topics->find(topic);
  std::string text = found == topics->end() ? kMain : found->second;
  for (size_t at = 0; (at = text.find("%P", at)) != std::string::npos; at += program.size()) {
    text.replace(at, 2, program);
  }
  return text;
}

}  // namespace dismd
