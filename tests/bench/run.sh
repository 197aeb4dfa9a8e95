#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Measures dismd against wimlib's wimmount and kernel squashfs on the same tree, and prints the table of the README.
#
#   sudo tests/bench/run.sh DIR [--only STEP,...] [--runs N] [--quick] [--work DIR] [--tsv FILE]
#   sudo tests/bench/run.sh --disks DIR [--only STEP,...] [--runs N] [--quick] [--tsv FILE]
#
# DIR holds tree/, win-xpress.wim, win-lzx.wim and win-solid.esd of one tree. What each step does stands in steps.py,
# what is measured and how in README.md. --quick: one run of each, to try the script. --work keeps the squashfs image
# for the next time. BIN_DIR (build/bin) holds the release build; it is built when missing or old.
# --disks measures virtual disks instead, against vhdimount and qemu-storage-daemon: DIR holds tree/, disk.raw,
# disk-dynamic.vhdx and disk-dynamic.vhd.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
((EUID == 0)) || { echo "tests/bench/run.sh: mounting and dropping caches need root: sudo tests/bench/run.sh" >&2; exit 1; }
case ${1:-} in
  '' | -h | --help) sed -n '4,14s/^# \{0,1\}//p' "$0"; exit $((${#1} == 0)) ;;
esac
program=bench.py
if [[ $1 == --disks ]]; then program=disk_bench.py; shift; fi
"$root/packaging/install-packages.sh" build run bench >&2
/usr/bin/python3 -c 'import grpc' 2>/dev/null || "$root/packaging/install-packages.sh" test >&2
if [[ -z ${BIN_DIR:-} ]]; then
  (cd "$root" && cmake --preset release -G Ninja && cmake --build --preset release) >&2
  BIN_DIR=$root/build/bin
fi

scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/dismd-bench.XXXXXX")
chmod 755 "$scratch"
export TMPDIR=$scratch DISMD_TEST_RUN=${scratch##*/} DISMD_BIN_DIR=$BIN_DIR
source "$root/tests/leftovers.sh"
finish() {
  local status=$?
  trap - EXIT INT TERM HUP
  remove_leftovers "$scratch" "$DISMD_TEST_RUN"
  rm -rf --one-file-system "$scratch"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
/usr/bin/python3 "$root/tests/bench/$program" "$@" &
wait $!
