# SPDX-License-Identifier: GPL-3.0-or-later
#
# Finds and removes what a test run has left behind: to be sourced.
#   leftovers SCRATCH MARK         prints one line for each mount or loop device below SCRATCH and each process that has
#                                  DISMD_TEST_RUN=MARK in its environment
#   remove_leftovers SCRATCH MARK  ends and unmounts them

marked_processes() { # MARK
  local pid
  for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    [[ $pid != "$$" && $pid != "$BASHPID" ]] || continue
    grep -qzxF "DISMD_TEST_RUN=$1" "/proc/$pid/environ" 2>/dev/null && echo "$pid"
  done
}

mounts_below() { # SCRATCH: mount points, innermost last made first
  awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac
}

loops_below() { # SCRATCH
  losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null | awk -v dir="$1/" 'index($2, dir) == 1 { print $1 }'
}

leftovers() { # SCRATCH MARK
  local scratch=$1 mark=$2 pid item
  for pid in $(marked_processes "$mark"); do
    [[ ! -e /proc/$pid/exe ]] || echo "  process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | head -c 200)"
  done
  mounts_below "$scratch" | sed 's/^/  mount: /'
  for item in $(loops_below "$scratch"); do echo "  loop device: $item"; done
}

remove_leftovers() { # SCRATCH MARK
  local scratch=$1 mark=$2 pids path device
  mapfile -t pids < <(marked_processes "$mark")
  ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null
  local deadline=$((SECONDS + 10))
  while ((SECONDS < deadline)) && [[ -n $(marked_processes "$mark") ]]; do sleep 0.1; done
  mapfile -t pids < <(marked_processes "$mark")
  ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null
  # mountinfo writes blanks and the like as octal escapes.
  mounts_below "$scratch" | while read -r path; do umount -l "$(printf '%b' "${path//\\/\\0}")" 2>/dev/null; done
  for device in $(loops_below "$scratch"); do losetup -d "$device" 2>/dev/null; done
}
