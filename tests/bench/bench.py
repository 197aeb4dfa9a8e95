#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measuring itself; started by run.sh, which says how."""

import argparse
import datetime
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import traceback

import steps
from systems import Dismd, Ext4, FuseFloor, Squashfs, Usage, Wimmount, processes

# A peer's step that takes longer than this is not repeated.
SLOW_SECONDS = 15.0


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def read_whole(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


class Samples:
    """What was measured of one step by one system."""

    def __init__(self):
        self.seconds, self.cpu, self.peak = [], [], []

    def add(self, usage):
        self.seconds.append(usage.seconds)
        if usage.cpu is not None:
            self.cpu.append(usage.cpu)
            self.peak.append(usage.peak_mib)

    @property
    def time(self):
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def median_cpu(self):
        return statistics.median(self.cpu) if self.cpu else None

    @property
    def max_peak(self):
        return max(self.peak) if self.peak else None


def run_sequence(system, sequence, image, files, number, results):
    """One fresh mount by one system, all steps of the sequence."""
    directory = tempfile.mkdtemp(prefix=f"mnt-{system.name}-")
    if sequence.with_mount:
        read_whole(image)
        with Usage([]) as usage:
            system.mount(image, directory)
            sequence.steps[0].action(directory, files, number)
        pids = system.pids(directory)
        usage.cpu = sum(map(processes.cpu_seconds, pids))
        usage.peak_mib = sum(processes.status_kib(pid, "VmHWM") for pid in pids) / 1024
        results[sequence.steps[0].label].add(usage)
    else:
        system.mount(image, directory)
        for step in sequence.steps:
            if step.cold:
                drop_caches()
            with Usage(system.pids(directory)) as usage:
                step.action(directory, files, number)
            results[step.label].add(usage)
    system.unmount(directory)
    os.rmdir(directory)


def run_read_write(system, sequence, image, files, number, results):
    """The same on a copy of the image, mounted read-write."""
    directory = tempfile.mkdtemp(prefix=f"mnt-{system.name}-")
    copy = os.path.join(os.environ["TMPDIR"], "copy.wim")
    shutil.copyfile(image, copy)
    os.sync()
    system.mount(copy, directory, read_only=False)
    commits = sequence.steps[-1].action is None
    for step in sequence.steps:
        if step.cold:
            drop_caches()
        if step.action is not None:
            with Usage(system.pids(directory)) as usage:
                step.action(directory, files, number)
        else:
            with Usage([]) as usage:  # the process ends with it
                system.unmount(directory, commit=True)
        results[step.label].add(usage)
    if not commits:
        system.unmount(directory)
    os.rmdir(directory)
    if commits:
        steps.check_committed(copy, number)
    os.remove(copy)


def make_one_gib(scratch):
    """An image of one file of 1 GiB."""
    image = os.path.join(scratch, steps.ONE_GIB)
    if not os.path.exists(image):
        tree = tempfile.mkdtemp(prefix="one-gib-")
        steps.write_file(os.path.join(tree, "one-gib.bin"), 1 << 30)
        subprocess.run(["wimcapture", tree, image, "--compress=XPRESS"], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(tree)
    return image


def measure(sequence, image, systems, files, runs):
    """Rows of (step, {system name: Samples}), the systems taking turns."""
    read_write = sequence in steps.READ_WRITE
    left_out = {"squashfs"} if read_write or not sequence.squashfs else set()
    if not sequence.ext4:
        left_out.add("ext4")
    systems = [system for system in systems if system.name not in left_out]
    once = run_read_write if read_write else run_sequence
    results = {system.name: {step.label: Samples() for step in sequence.steps} for system in systems}
    for number in range(runs):
        for system in systems:
            done = [samples.time or 0 for samples in results[system.name].values()]
            if system.name == "wimmount" and sum(done) > SLOW_SECONDS:
                continue
            print(f"  {sequence.name} {os.path.basename(image)} {system.name} run {number + 1}", file=sys.stderr)
            once(system, sequence, image, files, number, results[system.name])
    return [(step, {name: by_step[step.label] for name, by_step in results.items()}) for step in sequence.steps]


def number(value, digits=2):
    return "–" if value is None else f"{value:.{digits}f}"


class Table:
    """Collects rows; prints Markdown and tab separated values."""

    def __init__(self, peer="wimmount", kernel="squashfs"):
        self.columns = ("step", "image", "dismd s", f"{peer} s", f"{kernel} s", f"against {peer}", f"against {kernel}",
                        f"CPU s dismd / {peer}", f"peak MiB dismd / {peer}", "runs", "reached")
        self.kernel = kernel
        self.rows, self.values, self.failed = [], [], []

    def add(self, step, image, samples):
        ours = samples.get("dismd", Samples())
        theirs = samples.get("wimmount", Samples())
        kernel = samples.get(self.kernel, Samples())
        verdicts = []

        def compare(peer, limit, as_speedup):
            if ours.time is None or peer.time is None:
                return "–"
            ratio = ours.time / peer.time
            if limit is None:
                return f"{ratio:.2f}x time" if not as_speedup else f"{1 / ratio:.1f}x faster"
            verdicts.append(ratio <= limit)
            if as_speedup and limit < 0.4:
                return f"{1 / ratio:.1f}x faster (at least {1 / limit:.3g}x)"
            if as_speedup and limit not in (0.4,):
                return f"{1 / ratio:.2f}x faster (at least {1 / limit:.3g}x)"
            return f"{ratio:.2f}x time (at most {limit:g}x)"

        to_wimmount = compare(theirs, step.to_wimmount, True)
        to_squashfs = compare(kernel, step.to_squashfs, False)
        if step.seconds is not None:
            verdicts.append(ours.time is not None and ours.time <= step.seconds)
            to_wimmount = f"at most {step.seconds * 1000:g} ms"
        reached = "–" if not verdicts else "yes" if all(verdicts) else "**no**"
        runs = "/".join(str(len(entry.seconds)) for entry in (ours, theirs, kernel) if entry.seconds)
        digits = 2 if step.seconds is None else 4
        self._row(step.label, image, number(ours.time, digits), number(theirs.time, digits), number(kernel.time),
                  to_wimmount, to_squashfs,
                  f"{number(ours.median_cpu, 1)} / {number(theirs.median_cpu, 1)}",
                  f"{number(ours.max_peak, 0)} / {number(theirs.max_peak, 0)}", runs, reached)
        for name, entry in samples.items():
            self.values.append((step.label, image, name, number(entry.time, 4), number(entry.median_cpu),
                                number(entry.max_peak, 1), len(entry.seconds),
                                " ".join(f"{second:.4f}" for second in entry.seconds)))

    def add_memory(self, label, image, mib, limit, note):
        reached = "yes" if mib <= limit else "**no**"
        self._row(label, image, f"{mib:.0f} MiB", "–", "–", f"at most {limit} MiB", note, "–", "–", "1", reached)
        self.values.append((label, image, "dismd", "–", "–", f"{mib:.1f}", 1, note))

    def _row(self, *cells):
        if "**no**" in cells:
            self.failed.append(f"{cells[0]} ({cells[1]})")
        self.rows.append(cells)

    def markdown(self):
        lines = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows])

    def tsv(self):
        head = "step\timage\tsystem\tmedian_seconds\tcpu_seconds\tpeak_mib\truns\tall_seconds"
        return "\n".join([head] + ["\t".join(map(str, row)) for row in self.values]) + "\n"


def measure_memory(dismd, image, files, table):
    """Walks and reads everything; the worker's memory less what its chunk cache holds, at its worst."""
    directory = tempfile.mkdtemp(prefix="mnt-memory-")
    dismd.mount(image, directory)
    (worker,) = dismd.pids(directory)
    processes.reset_peak(worker)
    worst, done = [0], threading.Event()

    def sample():
        while not done.wait(0.1):
            # The cache first: it can only have grown when the memory is looked at.
            cache = dismd.cache_bytes(directory) / 1024
            worst[0] = max(worst[0], (processes.status_kib(worker, "VmRSS") - cache) / 1024)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        steps.find_all(directory, files, 0)
        steps.tar(directory, ["."])
    finally:
        done.set()
        sampler.join()
    note = (f"peak {processes.status_kib(worker, 'VmHWM') / 1024:.0f} MiB with the cache, "
            f"{processes.pss_kib(worker) / 1024:.0f} MiB Pss at the end")
    table.add_memory("worker memory besides the cache, all walked and read", os.path.basename(image), worst[0],
                     steps.MEMORY_LIMIT_MIB, note)
    dismd.unmount(directory)
    os.rmdir(directory)


def measure_idle(dismd, scratch, table):
    """Pss of the whole service with many mounts of one small image."""
    tree = os.path.join(scratch, "idle")
    os.makedirs(tree)
    for name in ("one", "two", "three"):
        with open(os.path.join(tree, name), "w", encoding="ascii") as file:
            file.write(name * 1000)
    image = os.path.join(scratch, "idle.wim")
    subprocess.run(["wimcapture", tree, image, "--compress=XPRESS"], check=True, stdout=subprocess.DEVNULL)
    directories = [tempfile.mkdtemp(prefix="mnt-idle-") for _ in range(steps.IDLE_MOUNTS)]
    before = sum(map(processes.pss_kib, dismd.all_pids())) / 1024
    for directory in directories:
        dismd.client.mount(image, directory)
    for directory in directories:
        os.listdir(directory)
    mib = sum(map(processes.pss_kib, dismd.all_pids())) / 1024
    table.add_memory(f"{steps.IDLE_MOUNTS} idle mounts, the whole service (Pss)", "3 files", mib, steps.IDLE_LIMIT_MIB,
                     f"{(mib - before) / steps.IDLE_MOUNTS:.1f} MiB a mount")
    for directory in directories:
        dismd.client.unmount(directory)
        os.rmdir(directory)


def measure_floor(scratch, sequences, files, runs):
    """The steps of these on an empty FUSE file system: seconds that no server can save."""
    floor = FuseFloor(scratch)
    results = {step.label: Samples() for sequence in sequences for step in sequence.steps}
    for number in range(runs):
        for sequence in sequences:
            directory = tempfile.mkdtemp(prefix="mnt-floor-")
            floor.mount(directory)
            for step in sequence.steps:
                with Usage([]) as usage:
                    step.action(directory, files, number)
                results[step.label].add(usage)
            floor.unmount(directory)
            os.rmdir(directory)
    return "; ".join(f"{label} {samples.time:.2f} s" for label, samples in results.items())


def machine():
    model = re.search(r"^model name\s*: (.*)$", processes.read("/proc/cpuinfo"), re.MULTILINE)
    memory = int(re.search(r"MemTotal:\s+(\d+)", processes.read("/proc/meminfo")).group(1)) >> 20
    return (f"{datetime.date.today()}, {model.group(1).strip() if model else os.uname().machine}, {os.cpu_count()} cores, "
            f"{memory} GiB, Linux {os.uname().release}")


def parse_options():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh")
    parser.add_argument("corpus")
    parser.add_argument("--only", default="", help="steps, separated by commas: " + ", ".join(
        [sequence.name for sequence in steps.SEQUENCES + steps.READ_WRITE] + ["memory", "idle"]))
    parser.add_argument("--systems", default="dismd,wimmount,squashfs,ext4", help="which of them to measure")
    parser.add_argument("--images", default="", help="only these images, separated by commas")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument("--work", help="where the squashfs image is kept")
    parser.add_argument("--tsv", help="file for the single values")
    return parser.parse_args()


def main():
    options = parse_options()
    scratch = os.environ["TMPDIR"]
    wanted = set(filter(None, options.only.split(",")))
    images = set(filter(None, options.images.split(",")))
    names = options.systems.split(",")
    runs = 1 if options.quick else options.runs
    files = steps.Files(os.path.join(options.corpus, "tree"))
    squashfs_image = os.path.join(options.work or scratch, "tree.squashfs")
    if "squashfs" in names:
        Squashfs.make(files.tree, squashfs_image)
    makers = {"dismd": lambda: Dismd(scratch), "wimmount": lambda: Wimmount(scratch),
              "squashfs": lambda: Squashfs(squashfs_image), "ext4": lambda: Ext4(scratch)}

    floor = None
    table, read_write_table, failed = Table(), Table("wimmountrw", "ext4"), 0
    systems = [makers[name]() for name in names]
    try:
        for sequence in steps.SEQUENCES + steps.READ_WRITE:
            for image in sequence.images:
                if (wanted and sequence.name not in wanted) or (images and image not in images):
                    continue
                path = make_one_gib(scratch) if image == steps.ONE_GIB else os.path.join(options.corpus, image)
                rows = read_write_table if sequence in steps.READ_WRITE else table
                try:
                    for step, samples in measure(sequence, path, systems, files, runs):
                        rows.add(step, image, samples)
                except Exception:  # one step that fails must not cost the others
                    failed += 1
                    traceback.print_exc()
        if read_write_table.rows:
            sequences = [sequence for sequence in steps.READ_WRITE if sequence.floor]
            floor = measure_floor(scratch, sequences, files, runs)
        if "dismd" in names:
            dismd = systems[names.index("dismd")]
            for image in steps.WIM + steps.ESD:
                if (not wanted or "memory" in wanted) and (not images or image in images):
                    measure_memory(dismd, os.path.join(options.corpus, image), files, table)
            if not wanted or "idle" in wanted:
                measure_idle(dismd, scratch, table)
    finally:
        for system in systems:
            system.close()

    print(f"\n{machine()}. {files.names} names; large files: {len(files.large)} of {files.large_bytes / 1e6:.0f} MB; "
          f"small files: {files.small_count} in {files.small_directory}. Medians; \"runs\": of dismd/wimmount/squashfs "
          f"(wimmount's steps of more than {SLOW_SECONDS:.0f} s are not repeated).\n")
    print("\n\n".join(part.markdown() for part in (table, read_write_table) if part.rows))
    if floor:
        print(f"\nWhat FUSE costs here with a server that keeps nothing: {floor}.")
    if table.failed or read_write_table.failed:
        print("\nNot reached: " + "; ".join(table.failed + read_write_table.failed))
    if options.tsv:
        with open(options.tsv, "w", encoding="utf-8") as file:
            file.write(f"# {machine()}\n" + table.tsv() + read_write_table.tsv().partition("\n")[2])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
