// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/options.h"

namespace dismd {

const char* HelpText() {
  return R"(dismd - mounts Windows images (WIM, VHD, VHDX) for the programs of this machine

SYNOPSIS
  dismd [--socket PATH] [--state-dir DIR] [--user NAME] [--parents DIR]... [--grace SECONDS]
        [--verbose]
  dismd --help | --version

WHAT IT DOES
  dismd serves a Unix socket, on which programs without privileges ask for images to be mounted: libdismapi, dismctl,
  and any gRPC client. It runs in the foreground until SIGTERM or SIGINT, and is three kinds of processes: this one,
  which alone is root and knows nothing of images or gRPC; dismd-front, which talks to the clients, as an unprivileged
  user; and one dismd-worker for each mount, as the user who asked for it (and one that waits for the next mount). A
  client is who the kernel says it is. Its image and its mount point are opened with its own rights.

  Run by an ordinary user, dismd serves that user alone, and mounts through fusermount3.

OPTIONS
  --socket PATH      The socket to serve. Its directory is made where it is missing. Anyone may connect.
                     Default: /run/dismd/dismd.sock; not as root: $XDG_RUNTIME_DIR/dismd/dismd.sock
  --state-dir DIR    Where records of mounts are kept, and the changes of read-write mounts until they are committed: it
                     wants room for these. Two services cannot share one.
                     Default: /var/lib/dismd; not as root: $XDG_STATE_HOME/dismd, else ~/.local/state/dismd
  --user NAME        The user that dismd-front runs as. Default: dismd where that user exists, else uid and gid 65521,
                     which own no files. Only as root.
  --parents DIR      Where parents of differencing disks are looked for when they are not beneath the disk's own directory;
                     may be given several times. They are opened with the rights of who mounts the disk.
  --grace SECONDS    How long to wait, when stopping, for mounts that are in use. Default: 10
  --foreground       Accepted, and without effect: dismd never goes into the background.
  --verbose          Log more.
  --help, --version  Print this text, or the version, and end.

FILES
  dismd-front, dismd-worker   beside dismd, else in ../libexec/dismd from there
  SOCKET.lock                 held while serving SOCKET; never removed
  DIR/lock                    held while using DIR; never removed
  DIR/broker/slot-*           one record for each mount, readable by root alone; the next dismd takes over by it what one
                              that was killed has left behind
  DIR/staging/*               changes that are not committed yet, one directory for each read-write mount

SIGNALS
  SIGTERM, SIGINT    Stop: no new work, unmount everything. What is still in use after --grace SECONDS is detached, its
                     readers get errors, and each is named in the log. A second signal does not wait. Changes that are
                     not committed stay in DIR/staging; dismctl list shows such a mount as needs-remount.
  SIGHUP             Hand over: dismd is started anew from its file in the same process, and the mounts go on.
  SIGKILL            The mounts go on, and the next dismd takes them over.

LIMITS
  1024 connections, 128 of one user. 4096 mounts. A step on a file system of the caller's may take 10 seconds; then the
  caller is told so, and nobody else has waited. A client in another mount namespace (a container) is refused.
  Not as root, where kernel.yama.ptrace_scope is 2 or 3: a dismd that takes over, after SIGHUP or SIGKILL, finds no way
  to the mounts of the one before. It takes them away; changes that are not committed are kept, as at a stop.

ENVIRONMENT
  NOTIFY_SOCKET      systemd is told READY=1 when clients can connect, STOPPING=1, and STATUS.
  JOURNAL_STREAM     When stderr is the journal, log lines go there with their fields; else to stderr as text.

EXIT CODES
  0  stopped by a signal; nothing is left behind
  1  could not start, or dismd-front could not be kept running; the log says why
  2  wrong usage

EXAMPLES
  Serve this machine:
    dismd
  A private instance, to try things:
    sudo dismd --socket /run/try/dismd.sock --state-dir /var/tmp/try
    DISMD_ADDRESS=unix:/run/try/dismd.sock dismctl mount install.wim mnt --index 1 --read-only
  Without root:
    dismd &
    dismctl mount install.wim mnt --index 1 --read-only
)";
}

}  // namespace dismd
