#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The long forms of the tests of read-write mounts, which the usual run does for seconds:
#
#   sudo tests/soak.sh [--minutes N] [--bin DIR]
#
#   --minutes N   how long each of them runs (default: 10)
#   --bin DIR     programs of a build that is there; otherwise the release preset is built
#
# In this order: random edits with other seeds each time, committed, applied and compared; random access to one file of the
# image and to a new one; `fio --verify` and `stress-ng --class filesystem` on a mount; random edits by four processes
# while workers are killed twice a minute, committed and compared; every kind of operation while workers are killed all the
# time; the first and the last of these once more on disks (VHD, VHDX); random edits of damaged NTFS volumes; once, a file of 5 GiB edited and another made,
# committed; mounts cancelled at 1,000 random times; the Debian packages installed and used in a fresh Debian 12 (wants an
# apt mirror). A failure of random edits prints the seed: DISMD_EDIT_SEED=N repeats it. Ends with the first failure.
# Needs the packages of packaging/install-packages.sh run test soak. `--only NAME` runs one: edits, file, fio, stress, tree,
# kills, disk-edits, disk-kills, hostile, large, cancels or deb.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
minutes=10
bin=
only=
while (($#)); do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --bin) bin=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    *) sed -n '4,20s/^# \{0,1\}//p' "$0"; [[ $1 == --help ]]; exit ;;
  esac
done
if [[ -z $bin ]]; then
  (cd "$root" && cmake --preset release -G Ninja && cmake --build --preset release) >&2
  bin=$root/build/bin
fi

scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/dismd-soak.XXXXXX")
chmod 755 "$scratch"
export TMPDIR=$scratch DISMD_TEST_RUN=${scratch##*/} DISMD_BIN_DIR=$bin DISMD_TEST_IMAGES=$scratch/images
export PYTHONDONTWRITEBYTECODE=1 DISMD_BUILD_KIND=plain
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

cd "$root/tests/integration"
/usr/bin/python3 images.py "$DISMD_TEST_IMAGES"
export DISMD_EDIT_SEED=${DISMD_EDIT_SEED:-random}


wanted() { [[ -z $only || $only == "$1" ]]; }

if wanted edits; then
  echo "--- random edits of a tree, $minutes minutes"
  end=$((SECONDS + minutes * 60)) rounds=0
  while ((SECONDS < end)); do
    DISMD_EDIT_OPERATIONS=1000 /usr/bin/python3 edit_property_test.py TreeTest.test_edits_commits_and_applies
    rounds=$((rounds + 1))
  done
  echo "$rounds rounds without a difference"
fi

if wanted file; then
  for name in test_file_of_the_image test_new_file; do
    echo "--- random access to one file ($name), $minutes minutes"
    DISMD_EDIT_SECONDS=$((minutes * 60)) /usr/bin/python3 edit_property_test.py "OneFileTest.$name"
  done
fi

for name in fio stress; do
  wanted $name || continue
  echo "--- $name, $minutes minutes"
  DISMD_SOAK_SECONDS=$((minutes * 60)) /usr/bin/python3 soak_test.py "SoakTest.test_$name"
done

if wanted tree; then
  echo "--- random edits by four processes, workers killed, $minutes minutes"
  DISMD_KILL_SECONDS=$((minutes * 60)) DISMD_KILL_PAUSE=30 /usr/bin/python3 recovery_test.py KilledWorkerTreeTest
fi

if wanted kills; then
  echo "--- every kind of operation, workers killed all the time, $minutes minutes"
  DISMD_KILL_SECONDS=$((minutes * 60)) /usr/bin/python3 recovery_test.py KilledWorkerTest.test_every_operation
fi
if wanted disk-edits; then
  echo "--- random edits of disks, $minutes minutes"
  end=$((SECONDS + minutes * 60)) rounds=0
  while ((SECONDS < end)); do
    DISMD_EDIT_OPERATIONS=1000 /usr/bin/python3 disk_readwrite_test.py RandomEditsTest
    rounds=$((rounds + 1))
  done
  echo "$rounds rounds without a difference"
fi

if wanted disk-kills; then
  echo "--- every kind of operation on a disk, workers killed all the time, $minutes minutes"
  DISMD_KILL_SECONDS=$((minutes * 60)) /usr/bin/python3 disk_crash_test.py KilledWorkerTest
fi

if wanted hostile; then
  echo "--- random edits of damaged NTFS volumes, $minutes minutes"
  end=$((SECONDS + minutes * 60)) rounds=0
  while ((SECONDS < end)); do
    DISMD_HOSTILE_SEED=random DISMD_HOSTILE_ROUNDS=20 DISMD_HOSTILE_OPERATIONS=500 \
      /usr/bin/python3 hostile_test.py DamagedVolumeTest
    if [[ -n ${DISMD_FIXTURES:-} ]]; then
      DISMD_HOSTILE_SEED=random DISMD_HOSTILE_OPERATIONS=500 /usr/bin/python3 hostile_test.py FixtureTest
    fi
    rounds=$((rounds + 1))
  done
  echo "$rounds rounds without a crash"
fi

if wanted large; then
  echo "--- files beyond 4 GiB"
  /usr/bin/python3 large_test.py
fi

if wanted cancels; then
  echo "--- mounts cancelled at 1,000 random times"
  DISMD_CANCELS=1000 DISMD_CANCEL_SEED=$RANDOM /usr/bin/python3 cancel_test.py RandomTimesTest
fi

if wanted deb; then
  echo "--- the Debian packages in a fresh Debian 12"
  [[ -e $root/build/CPackConfig.cmake ]] || (cd "$root" && cmake --preset release -G Ninja && cmake --build --preset release) >&2
  "$root/tests/integration/deb_test.sh" "$scratch/deb"
fi
echo "--- all done"
