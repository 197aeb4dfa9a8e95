# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of processes and mounts, from /proc."""

import contextlib
import ctypes
import os
import re
import time

PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def become_subreaper():
    """Orphans of our descendants become our children: none of them is lost."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def read(path):
    """A file of /proc, or an empty string where the process is gone."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def stat_fields(pid):
    """The fields of /proc/PID/stat from the state on (field 3 of the manual is number 0); empty: no such process."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def name(pid):
    return read(f"/proc/{pid}/comm").strip()


def alive(pid):
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def descendants(ancestor):
    """Pids below `ancestor`, without itself and without zombies."""
    children = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        fields = stat_fields(pid)
        if fields and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(pid))
    found, todo = [], [ancestor]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return sorted(found)


def threads(pid):
    """What each thread does: (name, state, where it waits in the kernel)."""
    with contextlib.suppress(OSError):
        return [(read(f"/proc/{pid}/task/{tid}/comm").strip(), read(f"/proc/{pid}/task/{tid}/stat").rpartition(")")[2][1:2],
                 read(f"/proc/{pid}/task/{tid}/stack").split("\n")[:4]) for tid in os.listdir(f"/proc/{pid}/task")]
    return []


def cpu_seconds(pid):
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND if fields else 0.0


def status_kib(pid, field):
    """VmRSS, VmHWM and the like of /proc/PID/status."""
    match = re.search(rf"^{field}:\s+(\d+) kB", read(f"/proc/{pid}/status"), re.MULTILINE)
    return int(match.group(1)) if match else 0


def pss_kib(pid):
    match = re.search(r"^Pss:\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
    return int(match.group(1)) if match else 0


def reset_peak(pid):
    """From now on VmHWM tells the peak since now."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def descriptor_count(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def has_open(pid, path):
    """Whether the process has a descriptor of `path`. Descriptors that come and go meanwhile are no error."""
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") == path:
                    return True
    return False


def mounts_below(directory):
    """Mount points at or below `directory`, in the order they were made."""
    directory = os.path.realpath(directory)
    found = []
    for line in read("/proc/self/mountinfo").splitlines():
        path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), line.split(" ")[4])
        if path == directory or path.startswith(directory + "/"):
            found.append(path)
    return found


def wait_until(condition, seconds=20.0, what="the condition"):
    """Polls until condition() is true and returns its value; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.005)
