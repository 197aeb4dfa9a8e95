#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs clang-tidy (with clang's own warnings and thread safety analysis) over all sources.

  lint.py BUILD_DIR [--jobs N] [SOURCE...]

BUILD_DIR holds compile_commands.json; for the fuzz targets, which only a build of their own has, clang-tidy takes the
command of a source like them. What is checked for stands in .clang-tidy. Exits 1 if anything was found.
"""

import argparse
import concurrent.futures
import glob
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


def check(build_dir, source):
    """Returns what clang-tidy found in one source; empty when it is clean."""
    command = ["clang-tidy", "-p", build_dir, "--quiet", "--extra-arg=-Wthread-safety", "--extra-arg=-Wno-unknown-warning-option",
               source]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode == 0:
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
    found = set()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for report in pool.map(lambda source: check(options.build_dir, source), sources):
            # A header's finding comes with each source that includes it.
            if report and report not in found:
                found.add(report)
                print(report, flush=True)
    print(f"{len(sources)} sources checked, {len(found)} with findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
