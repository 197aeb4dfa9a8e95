#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs clang-tidy (with clang's own warnings and thread safety analysis) over all sources.

  lint.py BUILD_DIR [--jobs N] [SOURCE...]

BUILD_DIR holds compile_commands.json; for the fuzz targets, which only a build of their own has, clang-tidy takes the
command of a source like them. What is checked for stands in .clang-tidy. Exits 1 if anything was found.

A source that was found clean is not checked again while it, all that it includes, its compiler's command and the checks
are the same (the proof is kept in $XDG_CACHE_HOME/dismd-lint): what it includes is what Ninja noted in BUILD_DIR, so that
one that was not built there is always checked.
"""

import argparse
import concurrent.futures
import functools
import glob
import hashlib
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = ("libmount", "daemon", "client", "tests")


def our_sources(build_dir):
    with open(os.path.join(build_dir, "compile_commands.json"), encoding="utf-8") as file:
        commands = json.load(file)
    sources = {os.path.normpath(os.path.join(entry["directory"], entry["file"])) for entry in commands}
    sources.update(glob.glob(os.path.join(ROOT, "tests/fuzz/*.cc")))
    ours = tuple(os.path.join(ROOT, folder) + os.sep for folder in FOLDERS)
    return sorted(source for source in sources if source.startswith(ours))


OPTIONS = ["--quiet", "--extra-arg=-Wthread-safety", "--extra-arg=-Wno-unknown-warning-option"]


@functools.cache
def file_hash(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Proofs:
    """Which sources are known to be clean: an empty file for each, named by the hash of all that the answer depends on."""

    def __init__(self, build_dir):
        self.directory = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dismd-lint")
        os.makedirs(self.directory, exist_ok=True)
        version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
        checks = [os.path.join(ROOT, ".clang-tidy")]
        for folder in FOLDERS:
            checks += sorted(glob.glob(os.path.join(ROOT, folder, "**/.clang-tidy"), recursive=True))
        self.common = [version.decode(), *OPTIONS, *map(file_hash, checks)]
        with open(os.path.join(build_dir, "compile_commands.json"), encoding="utf-8") as file:
            self.commands = {os.path.normpath(os.path.join(entry["directory"], entry["file"])): entry
                             for entry in json.load(file)}
        self.included = self._included(build_dir)

    @staticmethod
    def _included(build_dir):
        """Ninja's notes: the files that went into each object file."""
        notes, files = {}, None
        listing = subprocess.run(["ninja", "-C", build_dir, "-t", "deps"], capture_output=True, text=True, check=False)
        for line in listing.stdout.splitlines():
            if line.startswith(" "):
                files.append(os.path.normpath(os.path.join(build_dir, line.strip())))
            elif line.endswith("(VALID)"):
                files = notes.setdefault(line.partition(":")[0], [])
            else:
                files = []
        return notes

    def path(self, source):
        """Where the proof for this source is, or would be; None where that cannot be told."""
        command = self.commands.get(source)
        files = command and self.included.get(command.get("output", re.search(r" -o (\S+)", command["command"])[1]))
        if not files:
            return None
        try:
            parts = [*self.common, command["command"], *(f"{path} {file_hash(path)}" for path in sorted(files))]
        except OSError:
            return None
        text = "\n".join(parts).replace(ROOT + os.sep, "")  # another checkout's proofs hold here, too
        return os.path.join(self.directory, hashlib.sha256(text.encode()).hexdigest())


def check(build_dir, proofs, source):
    """Returns what clang-tidy found in one source; empty when it is clean."""
    proof = proofs.path(source)
    if proof and os.path.exists(proof):
        return ""
    result = subprocess.run(["clang-tidy", "-p", build_dir, *OPTIONS, source], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode == 0:
        if proof:
            with open(proof, "wb"):
                pass
        return ""
    noise = re.compile(r"^(\d+ warnings? (treated as errors?|generated)|\d+ warnings?( and \d+ errors?)? generated|Error while processing|Suppressed \d+|Use -header-filter)")
    return "\n".join(line for line in result.stdout.splitlines() if not noise.match(line))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir")
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()

    sources = [os.path.abspath(source) for source in options.sources] or our_sources(options.build_dir)
    proofs = Proofs(options.build_dir)
    found = set()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for report in pool.map(lambda source: check(options.build_dir, proofs, source), sources):
            # A header's finding comes with each source that includes it.
            if report and report not in found:
                found.add(report)
                print(report, flush=True)
    print(f"{len(sources)} sources checked, {len(found)} with findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
