#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The Debian packages, as their user meets them: made by CPack of the release build, installed by apt in a fresh Debian 12
# that mmdebstrap makes, and used there by an ordinary user, up to compiling the README's C example.
#
#   sudo tests/integration/deb_test.sh DIRECTORY [BUILD]
#
#   DIRECTORY   for the packages and the system (about 1 GiB); made, and removed at the end
#   BUILD       the release build (default: build)
#
# Downloads from the mirrors of this machine's own Debian. Nothing of it stays mounted or running.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
directory=$1 build=${2:-$root/build}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
trap 'rm -rf --one-file-system "$directory"' EXIT

echo "--- packages"
mkdir "$directory/debs"
cpack -B "$directory/debs" --config "$build/CPackConfig.cmake" >/dev/null 2>&1
rm -rf "$directory/debs/_CPack_Packages"
for package in dismd dismctl libdismapi1 libdismapi-dev; do
  ls "$directory/debs/$package"_*.deb
done

echo "--- a fresh Debian 12"
sources=
for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
  [[ -n $sources || ! -s $file ]] || sources=$file
done
system=$directory/system
mmdebstrap --quiet --mode=root --variant=minbase bookworm "$system" ${sources:+"$sources"} \
  --customize-hook='copy-in '"$directory"'/debs /' \
  --customize-hook='chroot "$1" sh -c "apt-get -o Dpkg::Use-Pty=false install -y -q --no-install-recommends /debs/*.deb gcc libc6-dev pkg-config >/dev/null"'

echo "--- used by an ordinary user"
mkdir -p "$directory/tree/folder" "$system/images"
echo "Hello, world" >"$directory/tree/hello.txt"
wimcapture "$directory/tree" "$system/images/small.wim" Small --no-acls >/dev/null
awk '/^    #include <DismAPI.h>/ { on = 1 } on && /^[^ ]/ { exit } on { sub(/^    /, ""); print }' "$root/README.md" \
  >"$system/images/example.c"
cat >"$system/images/use.sh" <<'USE'
set -eu
cd
cp /images/small.wim .
mkdir offline
dismctl mount small.wim offline
grep -qx 'Hello, world' offline/hello.txt
echo changed > offline/new.txt
dism /Get-MountedImageInfo | grep -q "Mount Dir : $HOME/offline"
dismctl unmount offline --commit
dism /Mount-Image /ImageFile:small.wim /Index:1 /MountDir:offline /ReadOnly > /dev/null
grep -qx changed offline/new.txt
dism /Unmount-Image /MountDir:offline /Discard > /dev/null
mkdir -p c/test/images c/test/offline
cp small.wim c/test/images/myimage.wim
cc -Wall -Werror /images/example.c -o example $(pkg-config --cflags --libs dismapi)
DISMD_DRIVES=C:=$HOME/c ./example
test -z "$(dismctl list --json | grep mount_path)"
echo used
USE
cat >"$system/images/inside.sh" <<'INSIDE'
set -eu
useradd --create-home tester
getent passwd dismd > /dev/null
dismd > /var/log/dismd.log 2>&1 &
service=$!
tries=0
until su tester -c 'dismctl status' > /dev/null 2>&1; do
  tries=$((tries + 1))
  if [ $tries = 300 ] || ! kill -0 $service; then cat /var/log/dismd.log; exit 1; fi
  sleep 0.1
done
su - tester -c 'sh /images/use.sh' || { cat /var/log/dismd.log; exit 1; }
kill $service
wait $service
apt-get -o Dpkg::Use-Pty=false purge -y -q dismd dismctl libdismapi1 libdismapi-dev > /dev/null
test ! -e /usr/bin/dismd
test ! -e /usr/bin/dism
INSIDE
# A mount namespace of its own, with the service and its callers in it; what it has mounted goes with it.
output=$(unshare --mount --pid --fork --kill-child sh -euc '
  mount --make-rprivate /
  mount -t proc proc "$0/proc"
  mount -t tmpfs tmpfs "$0/dev"
  for device in null zero random urandom fuse; do
    : > "$0/dev/$device"
    mount --bind "/dev/$device" "$0/dev/$device"
  done
  exec chroot "$0" /bin/sh /images/inside.sh' "$system")
echo "$output"
[[ $output == *used ]]
echo "--- the packages work"
