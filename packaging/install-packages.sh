#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs the Debian packages that the named uses need (see packages.txt); does nothing when they are there.
#   install-packages.sh build run [test] [bench]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
missing=()
for use in "$@"; do
  line=$(grep -E "^$use:" "$here/packages.txt") || { echo "install-packages: no such use: $use" >&2; exit 2; }
  for package in ${line#*:}; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
done
((${#missing[@]})) || exit 0
if ((EUID != 0)); then
  echo "install-packages: root is needed to install: ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
  { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; }
