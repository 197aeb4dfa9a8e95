#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""libdismapi.so in Python through ctypes, from its header and Microsoft's documentation alone.

  DismApi(library, environment, uid)      a process of that user with the library loaded
    .call("DismMountImage", "/a.wim", "/mnt", 1, None, 0, 1, EVENT, PROGRESS, None)  -> Answer
    .start(...); .signal(); .finish()     the same, the cancel event being set from another thread meanwhile

The far end runs this file as a program: a JSON object a line on stdin and stdout.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import threading
import types

# Arguments that stand for something of the far end's.
EVENT = {"is": "event"}  # the cancel event, as prepare_event() made it
PROGRESS = {"is": "progress"}  # a callback that keeps what it is told, and sets the event where it was asked to
OUT = {"is": "out"}  # a place for what the function returns; it is read, and given to DismDelete
SESSION = {"is": "session"}  # what DismOpenSession returned last


class Answer(types.SimpleNamespace):
    """hresult (unsigned), message (the last error text), progress (a list of [current, total]), result (a list)."""


class DismApi:
    def __init__(self, library, environment, uid, prefix=()):
        if os.environ.get("DISMD_SANITIZE"):
            # Python is not of our making: the sanitizer's runtime goes before it, and of leaks nothing can be said.
            runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], stdout=subprocess.PIPE, text=True, check=True)
            environment = {**environment, "LD_PRELOAD": runtime.stdout.strip(),
                           "ASAN_OPTIONS": environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        command = [*prefix, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", "/usr/bin/python3"]
        # The source on the command line: the uid need not be able to read this file.
        with open(__file__, encoding="utf-8") as file:
            source = f"__file__ = {__file__!r}\n{file.read()}"
        self.process = subprocess.Popen([*command, "-c", source, library], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment, cwd="/")

    def start(self, function, *arguments):
        self._send(call=function, arguments=arguments)

    def finish(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the program with libdismapi ended with {self.process.wait()}")
        return Answer(**json.loads(line))

    def call(self, function, *arguments):
        self.start(function, *arguments)
        return self.finish()

    def prepare_event(self, manual_reset=True, signalled=False, signal_at=None):
        """A new event. `signal_at`: the progress callback sets it at that percentage or later."""
        self._send(prepare_event=[manual_reset, signalled, signal_at])
        self.finish()

    def signal(self):
        self._send(signal=True)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _send(self, **message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


def constants(header_directory):
    """The names that DismAPI.h and windows.h give to numbers."""
    found = {"TRUE": 1, "FALSE": 0, "DismImageIndex": 0, "DismImageName": 1, "DismImageNone": 2}
    for header in ("DismAPI.h", "windows.h"):
        with open(f"{header_directory}/{header}", encoding="utf-8") as file:
            for name, value in re.findall(r"#define (\w+) (?:_HRESULT_TYPEDEF_\()?(0x[0-9A-Fa-f]+|\d+)u?\b", file.read()):
                found[name] = int(value, 0)
    return found


# ---- The far end ----

c_uint, c_wchar_p, c_void_p = ctypes.c_uint32, ctypes.c_wchar_p, ctypes.c_void_p


def structure(name, *fields):
    return type(name, (ctypes.Structure,), {"_pack_": 1, "_fields_": list(fields)})


SystemTime = structure("SYSTEMTIME", *((field, ctypes.c_uint16) for field in (
    "year", "month", "day_of_week", "day", "hour", "minute", "second", "milliseconds")))
DismString = structure("DismString", ("value", c_wchar_p))
WimCustomizedInfo = structure(
    "DismWimCustomizedInfo", ("size", c_uint), ("directories", c_uint), ("files", c_uint), ("created", SystemTime),
    ("modified", SystemTime))
MountedImageInfo = structure(
    "DismMountedImageInfo", ("mount_path", c_wchar_p), ("image_path", c_wchar_p), ("index", c_uint), ("mode", c_uint),
    ("status", c_uint))
ImageInfo = structure(
    "DismImageInfo", ("type", ctypes.c_int32), ("index", c_uint), ("name", c_wchar_p), ("description", c_wchar_p),
    ("size", ctypes.c_uint64), ("architecture", c_uint), ("product_name", c_wchar_p), ("edition", c_wchar_p),
    ("installation", c_wchar_p), ("hal", c_wchar_p), ("product_type", c_wchar_p), ("product_suite", c_wchar_p),
    ("major", c_uint), ("minor", c_uint), ("build", c_uint), ("sp_build", c_uint), ("sp_level", c_uint),
    ("bootable", c_uint), ("system_root", c_wchar_p), ("languages", ctypes.POINTER(DismString)),
    ("language_count", c_uint), ("default_language", c_uint), ("customized", ctypes.POINTER(WimCustomizedInfo)))
PROGRESS_CALLBACK = ctypes.CFUNCTYPE(None, c_uint, c_uint, c_void_p)

ARCHITECTURES = {0: "x86", 5: "ARM", 6: "IA64", 9: "x64", 12: "ARM64"}


def image_text(info):
    languages = [info.languages[i].value for i in range(info.language_count)]
    fields = {"index": info.index, "name": info.name, "description": info.description,
              "architecture": ARCHITECTURES.get(info.architecture), "edition": info.edition,
              "installation": info.installation, "producttype": info.product_type,
              "version": f"{info.major}.{info.minor}.{info.build}", "servicepack build": info.sp_build,
              "servicepack level": info.sp_level,
              "languages": languages and f"{languages[info.default_language]} (Default)",
              "type": {0: "wim", 1: "vhd"}.get(info.type)}
    if info.customized:
        fields["files"] = info.customized.contents.files
    return fields


def mount_text(info):
    return {"mount dir": info.mount_path, "image file": info.image_path, "image index": info.index,
            "mounted read/write": ("Yes", "No")[info.mode], "status": ("Ok", "Needs Remount", "Invalid")[info.status]}


class FarEnd:
    def __init__(self, library):
        self.library = ctypes.CDLL(library)
        self.library.CreateEventW.restype = c_void_p
        self.event, self.session, self.signal_at, self.progress = None, 0, None, []
        self.callback = PROGRESS_CALLBACK(self.on_progress)

    def on_progress(self, current, total, _):
        self.progress.append([current, total])
        if self.signal_at is not None and 100 * current >= self.signal_at * total:
            self.signal()

    def signal(self):
        self.library.SetEvent(c_void_p(self.event))

    def prepare_event(self, manual_reset, signalled, signal_at):
        if self.event:
            self.library.CloseHandle(c_void_p(self.event))
        self.event = self.library.CreateEventW(None, manual_reset, signalled, None)
        self.signal_at = signal_at

    def argument(self, value, outs):
        if isinstance(value, str):
            return c_wchar_p(value)
        if value == EVENT:
            return c_void_p(self.event)
        if value == PROGRESS:
            return self.callback
        if value == OUT:
            outs.append(c_void_p(8))  # to be overwritten whatever happens
            return ctypes.byref(outs[-1])
        if value == SESSION:
            return c_uint(self.session)
        return c_void_p(value) if value is None or value > 0xFFFFFFFF else c_uint(value)

    def call(self, function, arguments):
        outs = []
        self.progress = []
        code = getattr(self.library, function)(*[self.argument(value, outs) for value in arguments])
        message = ""
        if function not in ("DismShutdown", "DismDelete", "DismGetLastErrorMessage"):
            text = ctypes.POINTER(DismString)()
            if self.library.DismGetLastErrorMessage(ctypes.byref(text)) == 0:
                message = text.contents.value
                self.library.DismDelete(text)
        return {"hresult": code & 0xFFFFFFFF, "message": message, "progress": self.progress,
                "result": self.read(function, code, outs)}

    def read(self, function, code, outs):
        if function == "DismOpenSession" and outs:
            self.session = (outs[0].value or 0) & 0xFFFFFFFF
            return []
        kinds = {"DismGetImageInfo": (ImageInfo, image_text), "DismGetMountedImageInfo": (MountedImageInfo, mount_text)}
        if function not in kinds or len(outs) < 2:
            return []
        kind, text = kinds[function]
        count = (outs[1].value or 0) & 0xFFFFFFFF
        if code != 0:  # whatever happened, there is nothing to free
            return [] if outs[0].value is None and count == 0 else ["an out-pointer was left as it was"]
        array = ctypes.cast(outs[0], ctypes.POINTER(kind))
        result = [text(array[i]) for i in range(count)]
        if self.library.DismDelete(outs[0]) != 0:
            result.append("DismDelete refused it")
        return result


def serve(library):
    far_end = FarEnd(library)
    lock = threading.Lock()

    def answer(**fields):
        with lock:
            print(json.dumps({"hresult": 0, "message": "", "progress": [], "result": [], **fields}), flush=True)

    calls = []
    wanted = threading.Semaphore(0)

    def read():
        for line in sys.stdin:
            message = json.loads(line)
            if "signal" in message:
                far_end.signal()
                continue
            calls.append(message)
            wanted.release()
        calls.append(None)
        wanted.release()

    # The main thread calls, this one signals meanwhile.
    threading.Thread(target=read, daemon=True).start()
    while True:
        wanted.acquire()
        message = calls.pop(0)
        if message is None:
            return
        if "prepare_event" in message:
            far_end.prepare_event(*message["prepare_event"])
            answer()
        else:
            answer(**far_end.call(message["call"], message["arguments"]))


if __name__ == "__main__":
    serve(sys.argv[1])
