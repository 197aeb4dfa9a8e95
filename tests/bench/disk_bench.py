#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measuring on virtual disks; started by run.sh --disks, which says how."""

import argparse
import os
import shutil
import sys
import tempfile
import traceback

import disk_steps
import steps
from bench import SLOW_SECONDS, Samples, drop_caches, machine, measure_floor, number, read_whole
from disk_systems import StorageDaemon, Vhdimount, ntfs_offset
from systems import Dismd, Usage, processes

SYSTEMS = ("dismd", "vhdimount", "qemu")
COLUMNS = ("step", "image", "dismd s", "vhdimount s", "qemu s", "against vhdimount", "against qemu",
           "CPU s dismd / vhdimount / qemu", "peak MiB", "runs", "reached")


def run_sequence(system, sequence, image, files, run, results):
    """One fresh mount by one system, all steps of the sequence."""
    directory = tempfile.mkdtemp(prefix=f"mnt-{system.name}-")
    if sequence.read_write:
        copy = os.path.join(os.environ["TMPDIR"], "copy" + os.path.splitext(image)[1])
        image = shutil.copyfile(image, copy)
        os.sync()
    if sequence.with_mount:
        read_whole(image)
        with Usage([]) as usage:
            system.mount(image, directory)
            sequence.steps[0].action(directory, files, run)
        pids = system.pids(directory)
        usage.cpu = sum(map(processes.cpu_seconds, pids))
        usage.peak_mib = sum(processes.status_kib(pid, "VmHWM") for pid in pids) / 1024
        results[sequence.steps[0].label].add(usage)
    else:
        system.mount(image, directory, read_only=not sequence.read_write)
        for step in sequence.steps:
            if step.cold:
                drop_caches()
            with Usage(system.pids(directory)) as usage:
                seconds = step.action(directory, files, run)
            if seconds is not None:
                usage.seconds = seconds
            results[step.label].add(usage)
    system.unmount(directory)
    os.rmdir(directory)
    if sequence.read_write:
        os.remove(copy)


def measure(sequence, image, systems, files, runs):
    """Rows of (step, {system name: Samples}), the systems taking turns."""
    systems = [system for system in systems if not (sequence.read_write and system.name == "vhdimount")]
    results = {system.name: {step.label: Samples() for step in sequence.steps} for system in systems}
    for run in range(runs):
        for system in systems:
            done = [samples.time or 0 for samples in results[system.name].values()]
            if system.name != "dismd" and sum(done) > SLOW_SECONDS:
                continue
            print(f"  {sequence.name} {os.path.basename(image)} {system.name} run {run + 1}", file=sys.stderr)
            run_sequence(system, sequence, image, files, run, results[system.name])
    return [(step, {name: by_step[step.label] for name, by_step in results.items()}) for step in sequence.steps]


class Table:
    def __init__(self):
        self.rows, self.values, self.failed = [], [], []

    def add(self, step, image, samples):
        ours, *theirs = (samples.get(name, Samples()) for name in SYSTEMS)
        verdicts, against = [], []
        for peer, limit, cpu_limit in zip(theirs, (step.to_vhdimount, step.to_qemu),
                                          (step.cpu_to_vhdimount, step.cpu_to_qemu)):
            cells = [self._compare(ours.time, peer.time, limit, "time", verdicts)]
            if cpu_limit:
                cells.append(self._compare(ours.median_cpu, peer.median_cpu, cpu_limit, "CPU", verdicts))
            against.append(", ".join(filter(None, cells)) or "–")
        reached = "–" if not verdicts else "yes" if all(verdicts) else "**no**"
        if reached == "**no**":
            self.failed.append(f"{step.label} ({image})")
        everyone = (ours, *theirs)
        digits = 3 if ours.time is not None and ours.time < 0.1 else 2
        self.rows.append((step.label, image, *(number(entry.time, digits) for entry in everyone), *against,
                          " / ".join(number(entry.median_cpu, 1) for entry in everyone),
                          " / ".join(number(entry.max_peak, 0) for entry in everyone),
                          "/".join(str(len(entry.seconds)) for entry in everyone if entry.seconds), reached))
        for name, entry in samples.items():
            self.values.append((step.label, image, name, number(entry.time, 4), number(entry.median_cpu),
                                number(entry.max_peak, 1), len(entry.seconds),
                                " ".join(f"{second:.4f}" for second in entry.seconds)))

    @staticmethod
    def _compare(ours, theirs, limit, what, verdicts):
        if ours is None or not theirs:
            return None
        ratio = ours / theirs
        if limit is None:
            return f"{ratio:.2f}x {what}"
        verdicts.append(ratio <= limit)
        if what == "CPU" or limit == 0.5 and ratio > 0.5:
            return f"{ratio:.2f}x {what} (at most {limit:g}x)"
        return f"{1 / ratio:.1f}x faster (at least {1 / limit:.3g}x)"

    def markdown(self):
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows])

    def tsv(self):
        head = "step\timage\tsystem\tmedian_seconds\tcpu_seconds\tpeak_mib\truns\tall_seconds"
        return "\n".join([head] + ["\t".join(map(str, row)) for row in self.values]) + "\n"


def parse_options():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh --disks")
    parser.add_argument("corpus")
    parser.add_argument("--only", default="", help="steps, separated by commas: " +
                        ", ".join(sequence.name for sequence in disk_steps.SEQUENCES))
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="which of them to measure")
    parser.add_argument("--images", default=",".join(disk_steps.IMAGES), help="only these images, separated by commas")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument("--tsv", help="file for the single values")
    return parser.parse_args()


def main():
    options = parse_options()
    wanted = set(filter(None, options.only.split(",")))
    files = steps.Files(os.path.join(options.corpus, "tree"))
    offset = ntfs_offset(os.path.join(options.corpus, "disk.raw"))
    makers = {"dismd": lambda: Dismd(os.environ["TMPDIR"]), "vhdimount": lambda: Vhdimount(offset),
              "qemu": lambda: StorageDaemon(offset)}
    table, floor, failed = Table(), None, 0
    runs = 1 if options.quick else options.runs
    systems = [makers[name]() for name in options.systems.split(",")]
    try:
        for sequence in disk_steps.SEQUENCES:
            if wanted and sequence.name not in wanted:
                continue
            for image in options.images.split(","):
                try:
                    path = os.path.join(options.corpus, image)
                    for step, samples in measure(sequence, path, systems, files, runs):
                        table.add(step, image, samples)
                except Exception:  # one step that fails must not cost the others
                    failed += 1
                    traceback.print_exc()
        written = [sequence for sequence in disk_steps.SEQUENCES if sequence.read_write and
                   (not wanted or sequence.name in wanted)]
        if written:
            floor = measure_floor(os.environ["TMPDIR"], written, files, runs)
    finally:
        for system in systems:
            system.close()

    print(f"\n{machine()}. {files.names} names. Medians; \"runs\": of dismd/vhdimount/qemu (their steps of more than "
          f"{SLOW_SECONDS:.0f} s are not repeated).\n")
    print(table.markdown())
    if floor:
        print(f"\nWhat FUSE costs here with a server that keeps nothing: {floor}.")
    if table.failed:
        print("\nNot reached: " + "; ".join(table.failed))
    if options.tsv:
        with open(options.tsv, "w", encoding="utf-8") as file:
            file.write(f"# {machine()}\n" + table.tsv())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
