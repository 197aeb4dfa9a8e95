#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that means harm: HTTP/2 connections with streams that each begin a message and never end it.

  request_flood.py SOCKET UID CONNECTIONS STREAMS MIB

keeps to HTTP/2's flow control, and sends until the server takes no more for a while or has taken MIB; prints how many
MiB it has taken.
"""

import os
import select
import socket
import struct
import sys
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_HEADERS, ACK = 4, 1
INITIAL_WINDOW = 4  # of SETTINGS
FRAME = 16384
MESSAGE = 4 << 20
PATIENCE = 3.0


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def request_headers():
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/dismd.v1.Dismd/GetImageInfo"),
              (b":authority", b"x"), (b"te", b"trailers"), (b"content-type", b"application/grpc"))
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields)


class Connection:
    def __init__(self, path, streams):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.window, self.initial = 65535, 65535
        self.streams = {2 * i + 1: 0 for i in range(streams)}  # what was sent less what the window was opened by
        self.begun = set()
        self.received = b""
        self.out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
        self.out += b"".join(frame(HEADERS, END_HEADERS, stream, request_headers()) for stream in self.streams)

    def receive(self):
        """False: it was closed."""
        try:
            self.received += (data := self.socket.recv(1 << 20))
        except OSError:
            return False
        while len(self.received) >= 9:
            end = 9 + int.from_bytes(self.received[:3], "big")
            if len(self.received) < end:
                break
            kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
            if kind == GOAWAY:
                return False
            self.on_frame(kind, flags, stream, self.received[9:end])
            self.received = self.received[end:]
        return bool(data)

    def on_frame(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                setting, value = struct.unpack_from(">HI", payload, at)
                if setting == INITIAL_WINDOW:
                    self.initial = value
            self.out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.out += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            opened, = struct.unpack(">I", payload)
            if stream == 0:
                self.window += opened
            elif stream in self.streams:
                self.streams[stream] -= opened
        elif kind in (RST_STREAM, HEADERS):  # refused, or answered
            self.streams.pop(stream, None)

    def fill(self):
        """Adds what the windows allow; returns how much."""
        added = 0
        for stream, sent in self.streams.items():
            size = min(FRAME, self.window, self.initial - sent)
            if size <= 5 or len(self.out) > 1 << 20:
                continue
            data = bytes(size)
            if stream not in self.begun:  # the message's length
                self.begun.add(stream)
                data = b"\0" + struct.pack(">I", MESSAGE) + data[5:]
            self.out += frame(DATA, 0, stream, data)
            self.window -= size
            self.streams[stream] += size
            added += size
        return added

    def send(self):
        try:
            self.out = self.out[self.socket.send(self.out):]
            return True
        except BlockingIOError:
            return True
        except OSError:
            return False


def flood(path, connections, streams, most):
    by_socket = {connection.socket: connection for connection in (Connection(path, streams) for _ in range(connections))}
    sent, last = 0, time.monotonic()
    while by_socket and sent < most and time.monotonic() < last + PATIENCE:
        wants = [end for end, connection in by_socket.items() if connection.out]
        readable, writable, _ = select.select(list(by_socket), wants, [], 0.1)
        closed = {end for end in readable if not by_socket[end].receive()}
        for end, connection in by_socket.items():
            if added := connection.fill():
                sent, last = sent + added, time.monotonic()
        closed |= {end for end in writable if not by_socket[end].send()}
        for end in closed:
            end.close()
            del by_socket[end]
    return sent


def main():
    path, uid, connections, streams, mib = sys.argv[1], *map(int, sys.argv[2:])
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    print(flood(path, connections, streams, mib << 20) >> 20)


if __name__ == "__main__":
    main()
