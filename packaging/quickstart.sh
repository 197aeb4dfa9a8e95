#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Shows what dismd does, on this machine, and leaves nothing of it behind but the build:
#
#   sudo packaging/quickstart.sh [IMAGE [INDEX]]
#
# installs the Debian packages that are missing, builds dismd, starts a private service, mounts image INDEX (1) of IMAGE
# (.wim, .esd, .swm, .vhd or .vhdx; without one, a WIM that is made here of this machine's files) read-only, looks around
# in it, unmounts it and stops the service.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:-} in
  -h | --help) sed -n '4,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
image=${1:-}
index=${2:-1}

bold=
plain=
if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
say() { printf '  %s\n' "$*"; }
die() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
milliseconds() { local now=$EPOCHREALTIME; echo $((10#${now/[.,]/} / 1000)); }
# Prints a command as one would type it.
type_in() {
  local word line=
  for word in "$@"; do
    [[ $word != *[[:space:]\\]* || $# -eq 1 ]] || word="'$word'"
    line+=" $word"
  done
  printf '  $%s\n' "$line"
}
# Prints a command, runs it, and shows the first lines of what it says.
show() {
  local lines
  type_in "$@"
  mapfile -t lines < <("$@" || echo "$?" >"$work/failed")
  [[ ! -e $work/failed ]] || die "that failed (exit status $(<"$work/failed"))"
  ((${#lines[@]} == 0)) || printf '    %s\n' "${lines[@]:0:shown_lines}"
  ((${#lines[@]} <= shown_lines)) || printf '    ... and %d lines more\n' $((${#lines[@]} - shown_lines))
}
shown_lines=16

((EUID == 0)) || die "installing packages needs root: sudo packaging/quickstart.sh${image:+ $image}"
if [[ -n $image ]]; then
  [[ -f $image ]] || die "no such file: $image"
  image=$(realpath -- "$image")
fi
[[ -e /dev/fuse ]] || modprobe fuse 2>/dev/null || die "/dev/fuse is missing: load the kernel's fuse module, or give it to this container"

work=
service=
mounted=
cleanup() {
  local status=$?
  trap - EXIT
  [[ -z $mounted ]] || "$root/build/bin/dismctl" unmount "$mounted" >/dev/null 2>&1 || true
  if [[ -n $service ]]; then
    # dismd unmounts what is still mounted before it ends.
    kill -TERM "$service" 2>/dev/null || true
    wait "$service" 2>/dev/null || true
  fi
  [[ -z $work ]] || rm -rf --one-file-system "$work"
  # Run by sudo: what was built belongs to who asked for it.
  [[ -z ${SUDO_UID:-} || ! -d $root/build ]] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$root/build" || true
  exit "$status"
}
trap cleanup EXIT
trap 'echo "quickstart: line $LINENO failed" >&2' ERR
trap 'exit 130' INT TERM HUP
work=$(mktemp -d "${TMPDIR:-/tmp}/dismd-quickstart.XXXXXX")
chmod 755 "$work"

step "1. Packages"
"$root/packaging/install-packages.sh" build run
say "all there"

step "2. Build (some minutes the first time)"
build() { (cd "$root" && cmake --preset release -G Ninja && cmake --build --preset release) >"$work/build.log" 2>&1; }
started=$SECONDS
build || { tail -n 40 "$work/build.log" >&2; die "the build failed; the end of its output is above"; }
say "build/bin: $(cd "$root/build/bin" && echo dism*) - $((SECONDS - started)) s"

if [[ -z $image ]]; then
  step "3. A WIM made of this machine's files (give one of your own: quickstart.sh IMAGE)"
  mkdir -p "$work/files/Programs" "$work/files/Documents"
  cp -rL /usr/share/common-licenses "$work/files/Licenses"
  find /usr/bin -maxdepth 1 -type f -size -2000k | sort | sed -n '1,200p' | xargs -d '\n' cp -t "$work/files/Programs"
  find /usr/share/doc -maxdepth 2 -name copyright | sort | sed -n '1,200p' |
    while read -r file; do cp "$file" "$work/files/Documents/$(basename "$(dirname "$file")").txt"; done
  image=$work/quickstart.wim
  type_in wimlib-imagex capture "$work/files" "$image" "Quick start" --compress=XPRESS
  wimlib-imagex capture "$work/files" "$image" "Quick start" --compress=XPRESS >"$work/capture.log" 2>&1 ||
    { tail -n 3 "$work/capture.log" >&2; die "wimlib-imagex could not make the WIM"; }
  say "$(find "$work/files" -type f | wc -l) files, $(du -sm --apparent-size "$work/files" | cut -f1) MiB; $(du -m "$image" | cut -f1) MiB as a WIM"
else
  step "3. Your image"
  say "$image, $(du -m --apparent-size -L "$image" | cut -f1) MiB, image $index"
fi

step "4. A private service"
export DISMD_ADDRESS=unix:$work/dismd.sock
PATH=$root/build/bin:$PATH
type_in "dismd --socket $work/dismd.sock --state-dir $work/state &"
type_in "export DISMD_ADDRESS=$DISMD_ADDRESS"
mkdir -p "$work/state"
"$root/build/bin/dismd" --socket "$work/dismd.sock" --state-dir "$work/state" >"$work/dismd.log" 2>&1 &
service=$!
deadline=$((SECONDS + 20))
until dismctl list >/dev/null 2>&1; do
  kill -0 "$service" 2>/dev/null && ((SECONDS < deadline)) || { tail "$work/dismd.log" >&2; die "the service did not start; its log is above"; }
  sleep 0.05
done
say "running as process $service"

step "5. What the image says of itself"
show dismctl info "$image"

step "6. Mount"
mkdir "$work/mnt"
before=$(milliseconds)
show dismctl mount "$image" "$work/mnt" --index "$index" --read-only
mounted=$work/mnt
after=$(milliseconds)
ls "$work/mnt" >/dev/null
say "mounted in $((after - before)) ms, listed $(($(milliseconds) - after)) ms later"

step "7. Look around"
show dismctl list
show find "$work/mnt" -mindepth 1 -maxdepth 2 -printf '%y %10s  %P\n'
before=$(milliseconds)
entries=$(find "$work/mnt" -printf '%s %t\n' | wc -l)
say "found $entries entries, each with size and time, in $(($(milliseconds) - before)) ms"
if [[ -d $work/files ]]; then
  before=$(milliseconds)
  diff -r "$work/files" "$work/mnt"
  say "every file read and compared with its original: the same, in $(($(milliseconds) - before)) ms"
fi

step "8. Unmount and stop"
show dismctl unmount "$work/mnt" --discard
mounted=
kill -TERM "$service"
wait "$service" || die "the service ended with an error: $(tail -n 5 "$work/dismd.log")"
service=
say "the service has stopped and nothing of it is left: no mount, no process, no file"

step "Next"
say "sudo build/bin/dismd                                      starts the service for this machine"
say "build/bin/dismctl mount IMAGE DIR --index 1 --read-only   mounts, as any user, at a directory of your own"
say "build/bin/dismd --help, build/bin/dismctl --help          the manuals; README.md has the rest"
