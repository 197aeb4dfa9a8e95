# SPDX-License-Identifier: GPL-3.0-or-later
"""The three that the contract holds for: libdismapi (dismapi.py), the command dism, and plain gRPC.

Each takes an action of contract.tsv and tells its Outcome in its own terms. An action is one of

  mount read-only index=2 name=Second check-integrity optimize ea flags=0x100 allow-other partition=3
  unmount discard | commit append check-integrity        commit append check-integrity
  remount     cleanup     info index=1     list
  DismUnmountImage(MOUNT, DISM_DISCARD_IMAGE, NULL, NULL, NULL)     libdismapi as a C program writes it; several by ";"
  MountImage {"image_path": "IMAGE"}                                a request of gRPC's as JSON
  dism /Mount-Image /ImageFile:IMAGE                                a command line

where IMAGE and MOUNT stand for the row's paths.
"""

import json
import os
import re
import shlex
import signal
import subprocess

from contract_fixtures import CALLER  # first: it says where the next two are
import dismapi
from dismd_client import Caller, RpcFailure

BIN = os.environ["DISMD_BIN_DIR"]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FAILED = 0x80000000
CONSTANTS = dismapi.constants(f"{ROOT}/client/dismapi/include")


class Outcome:
    """result: what is compared with the table; message: the error's text; answer: what info and list tell."""

    def __init__(self, result, message="", answer=()):
        self.result, self.message, self.answer = result, message, list(answer)


def parse(action):
    """The verb, its words and its values."""
    verb, *words = shlex.split(action)
    values = dict(word.split("=", 1) for word in words if "=" in word)
    return verb, {word for word in words if "=" not in word}, values


def verb_of(action):
    return action.split(" ", 1)[0]


def fill_in(text, setting, escape=str):
    """IMAGE, IMAGE_NAME and MOUNT, where they are words of their own."""
    places = {"IMAGE": setting.image_path, "IMAGE_NAME": os.path.basename(setting.image_path), "MOUNT": setting.point}
    return re.sub(r"(?<![A-Za-z_])(IMAGE_NAME|IMAGE|MOUNT)(?![A-Za-z_])", lambda match: escape(places[match[1]]), text)


def hresult(text):
    """Of a name or a number."""
    return int(text, 16) if text.startswith("0x") else CONSTANTS[text]


def drive_path(path, setting):
    """As the row wants it to be written."""
    if setting.drive_letter and path == setting.point:
        return setting.drive_letter
    return "C:" + path[len(setting.drives):].replace("/", "\\") if setting.drives else path


class LibDismApi:
    name = "libdismapi"
    column = "DismAPI"

    def __init__(self, world):
        self.world = world
        self.program = self._program({}, ())
        self.program.call("DismInitialize", 0, None, None)

    def _program(self, environment, prefix):
        library = os.path.join(os.path.dirname(BIN), "lib/libdismapi.so")
        environment = {**os.environ, "DISMD_ADDRESS": self.world.service.address, **environment}
        return dismapi.DismApi(library, environment, CALLER, prefix)

    def close(self):
        self.program.close()

    @staticmethod
    def expects(text):
        return hresult(text)

    @staticmethod
    def show(result):
        return f"0x{result:08X}"

    def run(self, action, setting):
        if not setting.environment and not setting.prefix:
            return self._run(self.program, action, setting)
        program = self._program(setting.environment, setting.prefix)
        try:
            program.call("DismInitialize", 0, None, None)
            return self._run(program, action, setting)
        finally:
            program.close()

    def restart(self):
        """After a call of which nobody knows what became."""
        self.program.process.kill()
        self.program.close()
        self.program = self._program({}, ())
        self.program.call("DismInitialize", 0, None, None)

    def _run(self, program, action, setting):
        when = setting.cancel_at or ""
        signal_at = None if not when.startswith("from callback") else 100 if "end" in when else 0
        program.prepare_event("auto" not in when, setting.signalled, signal_at)
        if action.startswith("Dism"):
            calls = [self._parse_call(call, setting) for call in action.split("; ")]
        else:
            verb, words, values = parse(action)
            calls = list(getattr(self, verb)(words, values, setting))
        for call in calls:
            program.start(*call)
            if setting.seam and call is calls[-1]:
                setting.cancel(program.signal)
            answer = program.finish()
            self._check_progress(answer)
            if answer.hresult & FAILED and verb_of(action) == "commit":
                break  # without a session there is nothing to commit
        self._put_back(program, action)
        return Outcome(answer.hresult, answer.message, answer.result)

    @staticmethod
    def _put_back(program, action):
        """The library as the next row expects it: initialised, without sessions."""
        if "DismOpenSession" in action or verb_of(action) == "commit":
            program.call("DismCloseSession", dismapi.SESSION)
        if "DismInitialize" in action or "DismShutdown" in action:
            program.call("DismShutdown")
            program.call("DismInitialize", 0, None, None)

    @staticmethod
    def _check_progress(answer):
        """Never backwards, and Current == Total exactly at the end of a success, which there is at least one call of."""
        progress = answer.progress
        assert progress == sorted(progress) and all(total == 100 for _, total in progress), progress
        assert all(current < 100 for current, _ in progress[:-1]), progress
        if progress and answer.hresult == 0:
            assert progress[-1] == [100, 100], progress

    @staticmethod
    def _parse_call(call, setting):
        """DismX(L"text", 1, A|B, NULL, OUT): a call as in C."""
        function, arguments = re.fullmatch(r"(\w+)\((.*)\)", call.strip()).groups()

        def value(text):
            text = text.strip()
            if text.startswith('L"'):
                return fill_in(text[2:-1], setting)
            places = {"OUT": dismapi.OUT, "EVENT": dismapi.EVENT, "SESSION": dismapi.SESSION, "NULL": None,
                      "PROGRESS": dismapi.PROGRESS, "IMAGE": setting.image_path, "MOUNT": setting.point}
            if text in places:
                return places[text]
            number = 0
            for part in text.split("|"):
                number |= CONSTANTS[part] if part in CONSTANTS else int(part, 0)
            return number

        return [function, *map(value, arguments.split(",") if arguments else ())]

    def mount(self, words, values, setting):
        flags = int(values.get("flags", "0"), 0)
        for word, bit in (("read-only", 1), ("optimize", 2), ("check-integrity", 4), ("ea", 8)):
            flags |= bit if word in words else 0
        by_name = "name" in values or "name" in words
        yield ["DismMountImage", drive_path(setting.image_path, setting), drive_path(setting.point, setting),
               int(values.get("index", "1")), values.get("name"), int(by_name), flags, dismapi.EVENT, dismapi.PROGRESS,
               None]

    def _commit_bits(self, words):
        return (0x10000 if "check-integrity" in words else 0) | (0x20000 if "append" in words else 0)

    def unmount(self, words, _, setting):
        flags = (1 if "discard" in words else 0) | self._commit_bits(words)
        return [["DismUnmountImage", drive_path(setting.point, setting), flags, dismapi.EVENT, dismapi.PROGRESS, None]]

    def commit(self, words, _, setting):
        return [["DismOpenSession", setting.point, None, None, dismapi.OUT],
                ["DismCommitImage", dismapi.SESSION, self._commit_bits(words), dismapi.EVENT, dismapi.PROGRESS, None]]

    def remount(self, _, __, setting):
        return [["DismRemountImage", setting.point]]

    def cleanup(self, *_):
        return [["DismCleanupMountpoints"]]

    def info(self, _, __, setting):
        return [["DismGetImageInfo", drive_path(setting.image_path, setting), dismapi.OUT, dismapi.OUT]]

    def list(self, *_):
        return [["DismGetMountedImageInfo", dismapi.OUT, dismapi.OUT]]


class Dism:
    name = column = "dism"

    def __init__(self, world):
        self.world = world

    def close(self):
        pass

    def restart(self):
        pass

    @staticmethod
    def expects(text):
        """The number after "Error: "; of an HRESULT of Win32's that error, of others the HRESULT."""
        value = int(text, 0) if text[0].isdigit() else hresult(text)
        return value & 0xFFFF if value >> 16 == 0x8007 else value

    @staticmethod
    def show(result):
        return str(result) if result <= 0xFFFF else f"0x{result:08x}"

    def run(self, action, setting):
        if action.startswith("dism"):
            arguments = shlex.split(fill_in(action, setting))[1:]
        else:
            verb, words, values = parse(action)
            arguments = getattr(self, verb)(words, values, setting)
        environment = {**os.environ, "DISMD_ADDRESS": self.world.service.address, "XDG_STATE_HOME": self.world.home,
                       "TZ": "UTC", **setting.environment}
        drop = ("setpriv", f"--reuid={CALLER}", f"--regid={CALLER}", "--clear-groups", "--")
        process = subprocess.Popen([*setting.prefix, *drop, f"{BIN}/dism", *arguments], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/")
        if setting.seam:
            setting.cancel(lambda: process.send_signal(signal.SIGINT))
        out, err = process.communicate(timeout=120)
        assert err == "", f"on stderr: {err}"
        silent = "/Quiet" in arguments or "/?" in arguments
        assert silent or ("Error: " in out) != out.endswith("\nThe operation completed successfully.\n"), out
        return self._read(out, process.returncode)

    @staticmethod
    def _read(out, status):
        """As scripts do."""
        error = re.search(r"^Error: (0x[0-9a-f]{8}|\d+)\n\n(.*?)(?:\n\n|\Z)", out, re.MULTILINE | re.DOTALL)
        number = int(error[1], 0) if error else 0
        wanted = (number & 0xFF or 1) if error else 0
        assert status == wanted, f"exit status {status} after\n{out}"
        answer = []
        for block in out.split("\n\n"):
            fields = dict(re.findall(r"^([A-Z][\w/ ]*?) : (.*)$", block, re.MULTILINE))
            languages = re.search(r"^Languages :\n\t(.*)$", block, re.MULTILINE)
            if languages:
                fields["languages"] = languages[1]
            if "Index" in fields or "Mount Dir" in fields:
                answer.append({name.lower(): value for name, value in fields.items()})
        return Outcome(number, error[2] if error else out, answer)

    def mount(self, words, values, setting):
        yield from ("/Mount-Image", f"/ImageFile:{drive_path(setting.image_path, setting)}",
                    f"/MountDir:{drive_path(setting.point, setting)}")
        yield f"/Name:{values['name']}" if "name" in values else f"/Index:{values.get('index', '1')}"
        yield from self._flags(words, {"read-only": "/ReadOnly", "optimize": "/Optimize",
                                       "check-integrity": "/CheckIntegrity", "ea": "/SupportEa"})

    def unmount(self, words, _, setting):
        yield from ("/Unmount-Image", f"/MountDir:{drive_path(setting.point, setting)}")
        yield from self._flags(words, {"discard": "/Discard", "commit": "/Commit", "append": "/Append",
                                       "check-integrity": "/CheckIntegrity"})

    def commit(self, words, _, setting):
        yield from ("/Commit-Image", f"/MountDir:{setting.point}")
        yield from self._flags(words, {"append": "/Append", "check-integrity": "/CheckIntegrity"})

    def remount(self, _, __, setting):
        return ["/Remount-Image", f"/MountDir:{setting.point}"]

    def cleanup(self, *_):
        return ["/Cleanup-Mountpoints"]

    def info(self, _, values, setting):
        yield from ("/Get-ImageInfo", f"/ImageFile:{drive_path(setting.image_path, setting)}")
        if "index" in values:
            yield f"/Index:{values['index']}"

    def list(self, *_):
        return ["/Get-MountedImageInfo"]

    @staticmethod
    def _flags(words, options):
        return [option for word, option in options.items() if word in words]


class Grpc:
    name = column = "gRPC"

    def __init__(self, world):
        self.world = world

    def close(self):
        pass

    def restart(self):
        pass

    @staticmethod
    def expects(text):
        return text

    @staticmethod
    def show(result):
        return result

    def run(self, action, setting):
        if not setting.prefix and not self.world.service.process:  # it does not run: nor does the caller
            caller = Caller(self.world.service.address, CALLER)
        elif setting.prefix:
            drop = ("setpriv", f"--reuid={CALLER}", f"--regid={CALLER}", "--clear-groups", "--")
            caller = Caller(self.world.service.address, CALLER, prefix=(*setting.prefix, *drop))
        else:
            return self._run(self.world.caller, action, setting)
        with caller:
            return self._run(caller, action, setting)

    def _run(self, caller, action, setting):
        verb = verb_of(action)
        if verb[0].isupper():
            name, request = verb, json.loads(fill_in(action[len(verb):], setting))
        else:
            verb, words, values = parse(action)
            name, request = getattr(self, verb)(words, values, setting)
        pending = caller.start(name, request)
        try:
            if setting.seam:
                number = next(pending)["operation"]["operation_id"]
                setting.cancel(lambda: caller.call("CancelOperation", {"operation_id": number}))
            messages = list(pending)
        except RpcFailure as failure:
            return Outcome(failure.reason or failure.code, failure.message)
        return Outcome("OK", answer=self._read(name, messages[-1]))

    @staticmethod
    def _read(name, message):
        architectures = {0: "x86", 5: "ARM", 6: "IA64", 9: "x64", 12: "ARM64"}
        if name == "GetImageInfo":
            return [{"index": image["image_index"], "name": image.get("image_name", ""),
                     "architecture": architectures.get(image.get("architecture", 0)),
                     "edition": image.get("edition_id"), "installation": image.get("installation_type"),
                     "producttype": image.get("product_type"),
                     "version": f"{image.get('major_version', 0)}.{image.get('minor_version', 0)}.{image.get('build', 0)}",
                     "servicepack build": image.get("service_pack_build", 0),
                     "servicepack level": image.get("service_pack_level", 0),
                     "languages": f"{(image.get('languages') or ['?'])[image.get('default_language_index', 0)]} (Default)",
                     "files": image.get("file_count", 0)} for image in message["images"]]
        if name == "ListMounts":
            return [{"mount dir": mount["mount_path"], "image file": mount["image_path"],
                     "image index": mount["image_index"], "mounted read/write": "No" if mount.get("read_only") else "Yes",
                     "status": mount["status"].removeprefix("MOUNT_STATUS_").replace("_", " ").title()}
                    for mount in message.get("mounts", ())]
        return []

    def mount(self, words, values, setting):
        request = {"image_path": setting.image_path, "mount_path": setting.point, "read_only": "read-only" in words,
                   "check_integrity": "check-integrity" in words, "allow_other": "allow-other" in words,
                   "flags": int(values.get("flags", "0"), 0), "partition": int(values.get("partition", "0"))}
        if "name" in values or "name" in words:
            request["image_name"] = values.get("name", "")
        else:
            request["image_index"] = int(values.get("index", "1"))
        return "MountImage", request

    def _options(self, words):
        return {"append": "append" in words, "generate_integrity": "check-integrity" in words}

    def unmount(self, words, _, setting):
        if "discard" in words:
            return "UnmountImage", {"mount_path": setting.point, "changes": "CHANGES_DISCARD"}
        return "UnmountImage", {"mount_path": setting.point, "changes": "CHANGES_COMMIT", "commit": self._options(words)}

    def commit(self, words, _, setting):
        return "CommitImage", {"mount_path": setting.point, "options": self._options(words)}

    def remount(self, _, __, setting):
        return "RemountImage", {"mount_path": setting.point}

    def cleanup(self, *_):
        return "CleanupMountpoints", {}

    def info(self, _, __, setting):
        return "GetImageInfo", {"image_path": setting.image_path}

    def list(self, *_):
        return "ListMounts", {}


CLIENTS = (LibDismApi, Grpc, Dism)
