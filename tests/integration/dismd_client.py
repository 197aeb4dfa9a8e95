#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public API in Python, with stubs made of proto/ by protoc.

In a test:

  client = Client("unix:/path/dismd.sock")
  mount = client.mount("/x.wim", "/mnt")            raises RpcFailure(reason="MOUNT_POINT_NOT_EMPTY", ...)
  with Caller(address, uid=1234) as caller: ...     the same calls, made by a process of that uid

Run as a program it is the other end of Caller: a JSON object a line on stdin and stdout.
"""

import atexit
import functools
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading

# Or a fork (that execs at once) waits for gRPC's threads, for ever while a stream is open.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # noqa: E402
from google.protobuf import json_format  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STUBS_VARIABLE = "DISMD_TEST_PYTHON_STUBS"

# gRPC's own services and error details, as far as they are used here.
GRPC_PROTOS = {
    "grpc_health.proto": """
        syntax = "proto3"; package grpc.health.v1;
        message HealthCheckRequest { string service = 1; }
        message HealthCheckResponse { enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; } ServingStatus status = 1; }
        service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
                         rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse); }""",
    "grpc_reflection.proto": """
        syntax = "proto3"; package grpc.reflection.v1alpha;
        message ServerReflectionRequest { string host = 1;
          oneof message_request { string file_containing_symbol = 4; string list_services = 7; } }
        message ServerReflectionResponse { oneof message_response { FileDescriptorResponse file_descriptor_response = 4;
          ListServiceResponse list_services_response = 6; ErrorResponse error_response = 7; } }
        message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
        message ListServiceResponse { repeated ServiceResponse service = 1; }
        message ServiceResponse { string name = 1; }
        message ErrorResponse { int32 error_code = 1; string error_message = 2; }
        service ServerReflection { rpc ServerReflectionInfo(stream ServerReflectionRequest)
                                     returns (stream ServerReflectionResponse); }""",
    "grpc_status.proto": """
        syntax = "proto3"; package google.rpc; import "google/protobuf/any.proto";
        message Status { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }""",
}


@functools.cache
def stubs_directory():
    """Where the generated modules are; made once and handed down to Callers."""
    if STUBS_VARIABLE in os.environ:
        return os.environ[STUBS_VARIABLE]
    directory = tempfile.mkdtemp(prefix="stubs-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.chmod(directory, 0o755)
    for name, text in GRPC_PROTOS.items():
        with open(os.path.join(directory, name), "w", encoding="ascii") as file:
            file.write(text)
    ours = [f"dismd/v1/{name}.proto" for name in ("dismd", "types", "errors")]
    subprocess.run(["protoc", f"-I{ROOT}/proto", f"-I{directory}", f"--python_out={directory}",
                    f"--grpc_out={directory}", "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin",
                    *ours, *GRPC_PROTOS], check=True)
    return directory


@functools.cache
def stubs():
    """The generated modules, as attributes."""
    sys.path.insert(0, stubs_directory())
    import importlib
    modules = {"dismd": "dismd.v1.dismd_pb2", "rpc": "dismd.v1.dismd_pb2_grpc", "types": "dismd.v1.types_pb2",
               "errors": "dismd.v1.errors_pb2", "health": "grpc_health_pb2", "health_rpc": "grpc_health_pb2_grpc",
               "reflection": "grpc_reflection_pb2", "reflection_rpc": "grpc_reflection_pb2_grpc",
               "status": "grpc_status_pb2"}
    return type("Stubs", (), {key: importlib.import_module(module) for key, module in modules.items()})


class RpcFailure(Exception):
    """A failed call: code ("NOT_FOUND"), reason ("IMAGE_NOT_FOUND") and message."""

    def __init__(self, code, reason, message):
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message = code, reason, message

    @staticmethod
    def of(error):
        reason = ""
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status = stubs().status.Status.FromString(value)
                for detail in status.details:
                    found = stubs().errors.ErrorReason()
                    if detail.Unpack(found):
                        reason = stubs().errors.Reason.Name(found.reason)
        return RpcFailure(error.code().name, reason, error.details())


def to_dict(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class Calls:
    """What both ends offer: call(name, request) and stream(name, request), and short forms."""

    def mount(self, image, directory, index=1, read_only=True, **fields):
        """Mounts and returns the Mount as a dict."""
        request = {"image_path": str(image), "mount_path": str(directory), "read_only": read_only, **fields}
        if "image_name" not in fields and index is not None:
            request["image_index"] = index
        return list(self.stream("MountImage", request))[-1]["operation"]["mount"]

    def unmount(self, directory, changes="CHANGES_DISCARD", **commit):
        request = {"mount_path": str(directory), "changes": changes}
        if commit:
            request["commit"] = commit
        return list(self.stream("UnmountImage", request))[-1]

    def commit(self, directory, **options):
        return list(self.stream("CommitImage", {"mount_path": str(directory), "options": options}))[-1]

    def remount(self, directory):
        return list(self.stream("RemountImage", {"mount_path": str(directory)}))[-1]

    def mounts(self):
        return self.call("ListMounts").get("mounts", [])

    def get_mount(self, directory):
        return self.call("GetMount", {"mount_path": str(directory)})["mount"]


class Client(Calls):
    """Calls of this process. Not to be used across fork."""

    def __init__(self, address):
        # Each client its own connection: the service knows callers by connection.
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = stubs().rpc.DismdStub(self.channel)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, name, request=None):
        """The running gRPC call: cancel() it, iterate a stream's messages, or result() a unary one (with future)."""
        module = stubs().dismd
        message = json_format.ParseDict(request or {}, getattr(module, f"{name}Request")())
        method = getattr(self.stub, name)
        return method(message, timeout=120) if self.is_stream(name) else method.future(message, timeout=60)

    def is_stream(self, name):
        return isinstance(getattr(self.stub, name), grpc.UnaryStreamMultiCallable)

    def call(self, name, request=None):
        try:
            return to_dict(self.start(name, request).result())
        except grpc.RpcError as error:
            raise RpcFailure.of(error) from None

    def stream(self, name, request=None):
        try:
            for message in self.start(name, request):
                yield to_dict(message)
        except grpc.RpcError as error:
            raise RpcFailure.of(error) from None


class Pending:
    """A call that a Caller has begun: iterate its messages; cancel() ends it."""

    def __init__(self, caller, number):
        self.caller, self.number, self.messages = caller, number, queue.Queue()

    def cancel(self):
        self.caller.send({"cancel": self.number})

    def has_ended(self):
        """Whether the call's end has come, read or not."""
        return any("code" in answer for answer in list(self.messages.queue))

    def __iter__(self):
        return self

    def __next__(self):
        try:
            answer = self.messages.get(timeout=150)
        except queue.Empty:
            raise AssertionError("no answer from the service for 150 s") from None
        if "message" in answer:
            return answer["message"]
        self.messages.put(answer)  # who asks again gets the end again
        if answer["code"] == "OK":
            raise StopIteration
        raise RpcFailure(answer["code"], answer["reason"], answer["text"])


class Caller(Calls):
    """A process of another uid that makes calls. `pid` is what the service sees.

    `prefix`: a command that runs it, as the one who asks; it is that command's to change to the uid.
    """

    def __init__(self, address, uid, gid=None, groups=(), prefix=()):
        self.uid, self.gid, self.groups = uid, uid if gid is None else gid, list(groups)
        environment = {**os.environ, STUBS_VARIABLE: stubs_directory(), "PYTHONDONTWRITEBYTECODE": "1"}
        # The source on the command line: the uid need not be able to read this file.
        with open(__file__, encoding="utf-8") as file:
            source = file.read()
        user = {} if prefix else {"user": self.uid, "group": self.gid, "extra_groups": self.groups}
        self.process = subprocess.Popen(
            [*prefix, "/usr/bin/python3", "-c", f"__file__ = {__file__!r}\n{source}", address], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment, cwd="/", **user)
        self.pid = self.process.pid
        self.numbers = itertools.count(1)
        self.pending = {}
        self.lock = threading.Lock()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self.pending[answer["number"]].messages.put(answer)
        for pending in list(self.pending.values()):
            pending.messages.put({"code": "CALLER_GONE", "reason": "", "text": "the calling process has ended"})

    def send(self, message):
        with self.lock:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def start(self, name, request=None):
        pending = Pending(self, next(self.numbers))
        self.pending[pending.number] = pending
        self.send({"number": pending.number, "call": name, "request": request or {}})
        return pending

    def call(self, name, request=None):
        return next(self.start(name, request))

    def stream(self, name, request=None):
        yield from self.start(name, request)

    def run(self, *command, **options):
        """A program as this uid; returns the CompletedProcess."""
        return subprocess.run(command, user=self.uid, group=self.gid, extra_groups=self.groups, cwd="/",
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              **{"timeout": 60, **options})

    def make_directory(self, path):
        os.mkdir(path)
        os.chown(path, self.uid, self.gid)
        return path

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def serve_caller(address):
    """The far end of Caller."""
    client = Client(address)
    running = {}
    lock = threading.Lock()

    def answer(number, **fields):
        with lock:
            print(json.dumps({"number": number, **fields}), flush=True)

    def watch(number, name, call):
        try:
            if not client.is_stream(name):
                answer(number, message=to_dict(call.result()))
            else:
                for message in call:
                    answer(number, message=to_dict(message))
            answer(number, code="OK", reason="", text="")
        except grpc.RpcError as error:
            failure = RpcFailure.of(error)
            answer(number, code=failure.code, reason=failure.reason, text=failure.message)
        except grpc.FutureCancelledError:
            answer(number, code="CANCELLED", reason="", text="")
        except Exception as error:  # the test must not wait for an answer that never comes
            answer(number, code="TEST_ERROR", reason="", text=repr(error))

    for line in sys.stdin:
        command = json.loads(line)
        if "cancel" in command:
            running[command["cancel"]].cancel()
            continue
        call = client.start(command["call"], command["request"])
        running[command["number"]] = call
        threading.Thread(target=watch, args=(command["number"], command["call"], call), daemon=True).start()
    # Closed by the test: leave at once, as a killed program would.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    serve_caller(sys.argv[1])
