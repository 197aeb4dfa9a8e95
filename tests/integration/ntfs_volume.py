# SPDX-License-Identifier: GPL-3.0-or-later
"""An NTFS volume in a sparse file, filled with what Windows images have and other test images lack.

make(path) fills it through ntfs-3g. What is in it stands in fill(): names at the limits, unpaired surrogates, named
streams, hard links, short names, extended attributes, object ids, security descriptors, sparse and compressed files,
and reparse points of several kinds (LINKS tells where each link must lead).
"""

import contextlib
import os
import select
import struct
import subprocess
import tempfile

import processes

VOLUME_BYTES = 8 << 30  # sparse
HUGE_BYTES = 5 << 30

ATTRIBUTE_READONLY = 0x1
ATTRIBUTE_HIDDEN = 0x2
ATTRIBUTE_SYSTEM = 0x4
ATTRIBUTE_DIRECTORY = 0x10
ATTRIBUTE_ARCHIVE = 0x20
ATTRIBUTE_COMPRESSED = 0x800
ATTRIBUTE_NOT_CONTENT_INDEXED = 0x2000

TAG_MOUNT_POINT = 0xA0000003
TAG_SYMLINK = 0xA000000C
TAG_APPEXECLINK = 0x8000001B
TAG_LX_SYMLINK = 0xA000001D

# Path of each link: where it leads, from the root of the image. None: wherever it leads, it must not be out of the image.
LINKS = {
    "links/relative": "plain.txt",
    "links/relative-up-and-down": "Windows/System32/deep.txt",
    "links/absolute": "Windows/System32/deep.txt",
    "links/directory": "Windows",
    "links/junction": "Windows/System32",
    "Windows/junction-to-root": "",
    "links/other-case": "Windows/System32/deep.txt",
    "links/escapes": None,
    "links/app-execution-alias": None,
}


def run(*command, **options):
    """Runs a program quietly; its output is in the exception when it fails."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            check=False, **options)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.stdout[-2000:].decode(errors='replace')}")
    return result.stdout


def create(path, size=VOLUME_BYTES):
    """An empty NTFS volume."""
    with open(path, "wb") as file:
        file.truncate(size)
    run("/sbin/mkntfs", "-F", "-Q", "-q", "-s", "512", "-p", "0", "-H", "0", "-S", "0", path)


@contextlib.contextmanager
def mounted(path, *options):
    """The volume in a temporary mount point, through ntfs-3g; unmounted (and so written) at the end."""
    directory = tempfile.mkdtemp(prefix="ntfs-")
    try:
        run("ntfs-3g", "-o", ",".join(("efs_raw", "compression") + options), path, directory)
        try:
            yield directory
        finally:
            run("umount", directory)
            wait_for_ntfs_3g(path)
    finally:
        os.rmdir(directory)


def wait_for_ntfs_3g(path):
    """umount returns before ntfs-3g has closed the volume; who opens it then may find it half written."""
    path = os.path.realpath(path)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if processes.has_open(pid, path):
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(int(pid))
                try:
                    select.select([descriptor], [], [], 30)
                finally:
                    os.close(descriptor)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def link_data(tag, target, shown, flags=None):
    """A symbolic link's (flags: 1 relative, 0 absolute) or a junction's reparse data."""
    target_bytes = target.encode("utf-16-le")
    shown_bytes = shown.encode("utf-16-le")
    gap = b"" if flags is not None else b"\0\0"
    body = struct.pack("<HHHH", 0, len(target_bytes), len(target_bytes + gap), len(shown_bytes))
    if flags is not None:
        body += struct.pack("<I", flags)
    body += target_bytes + gap + shown_bytes + gap
    return struct.pack("<IHH", tag, len(body), 0) + body


def extended_attributes(*pairs):
    """The FULL_EA list that system.ntfs_ea takes: each entry begins with its own padded length."""
    out = b""
    for name, value in pairs:
        entry = struct.pack("<BBH", 0, len(name), len(value)) + name + b"\0" + value
        length = (4 + len(entry) + 3) & ~3
        out += struct.pack("<I", length) + entry.ljust(length - 4, b"\0")
    return out


def security_descriptor(sid_tail):
    """Self-relative, owner and group S-1-5-21-1-2-3-TAIL, full access for that one."""
    sid = struct.pack(">BB6s", 1, 5, b"\0\0\0\0\0\5") + struct.pack("<5I", 21, 1, 2, 3, sid_tail)
    ace = struct.pack("<BBHI", 0, 3, 8 + len(sid), 0x1F01FF) + sid
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(ace), 1, 0) + ace
    owner = 20
    group = owner + len(sid)
    dacl = group + len(sid)
    return struct.pack("<BBHIIII", 1, 0, 0x8004, owner, group, 0, dacl) + sid + sid + acl


def words(count, seed):
    """`count` bytes of text that compresses, but not to nothing; the same for the same seed."""
    state = seed
    out = bytearray()
    while len(out) < count:
        state = (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        out += b"%x " % (state >> 33)
        if state >> 61 == 0:
            out += out[-200:]
    return bytes(out[:count])


def fill(root):
    """Fills a mounted volume. ntfs-3g must have been given streams_interface=windows."""

    def at(name):
        return os.path.join(root, name)

    def attribute(name, key, value):
        os.setxattr(at(name), f"system.ntfs_{key}", value)

    for name in ("Windows/System32/config", "Windows/empty", "links", "names", "meta", "many", "compressed"):
        os.makedirs(at(name))
    write(at("plain.txt"), b"plain\r\n")
    write(at("empty.txt"), b"")
    write(at("Windows/System32/deep.txt"), b"deep\r\n" * 100)

    # Contents: sizes around the chunk sizes, one blob under several names, one that does not compress.
    for size in (1, 4095, 4096, 4097, 32767, 32768, 32769, 65536, 131073, 1 << 20, (5 << 20) + 13):
        write(at(f"Windows/System32/size-{size}.bin"), words(size, size))
    write(at("Windows/System32/incompressible.bin"), os.urandom(300_000))
    write(at("Windows/copy-1.bin"), words(70_000, 7))
    write(at("Windows/copy-2.bin"), words(70_000, 7))
    for i in range(1500):
        write(at(f"many/file-{i:04}.txt"), words(20 + i % 400, i))
    deep = at("names/d")
    for level in range(40):
        deep = os.path.join(deep, f"level-{level:02}-of-a-deep-path")
    os.makedirs(deep)
    write(os.path.join(deep, "bottom.txt"), b"bottom")

    # Names.
    write(at("names/" + "n" * 255), b"255 units, 255 bytes")
    write(at("names/Gr\u00f6\u00dfe \u0130\u0131 \u03a3\u03c2.txt"), b"case folding")
    write(at("names/e\u0301 decomposed"), b"not normalised")
    write(at("names/MixedCase.TXT"), b"mixed")
    write(os.fsencode(at("names/")) + b"lone-high-\xed\xa0\xbd.txt", b"unpaired high surrogate")
    write(os.fsencode(at("names/")) + b"lone-low-\xed\xb8\x80.txt", b"unpaired low surrogate")
    write(at("names/A long name with a short one.text"), b"short")
    attribute("names/A long name with a short one.text", "dos_name", b"ALONGN~1.TEX")
    os.makedirs(at("names/A long directory name"))
    attribute("names/A long directory name", "dos_name", b"ALONGD~1")
    write(at("names/A long directory name/inside.txt"), b"inside")

    # Streams, hard links.
    write(at("meta/streams.txt"), b"unnamed")
    write(at("meta/streams.txt:second"), b"second stream")
    write(at("meta/streams.txt:Zone.Identifier"), b"[ZoneTransfer]\r\nZoneId=3\r\n")
    write(at("meta/streams.txt:\u00fcml\u00e4ut"), b"named beyond ASCII")
    write(at("meta/streams.txt:empty"), b"")
    write(at("meta/streams.txt:large"), words(50_000, 50))
    os.makedirs(at("meta/directory-with-stream"))
    write(at("meta/directory-with-stream:ondir"), b"a stream of a directory")
    write(at("meta/only-a-stream.txt"), b"")
    write(at("meta/only-a-stream.txt:s"), b"the only content")
    os.link(at("plain.txt"), at("meta/hard link.txt"))
    os.link(at("plain.txt"), at("Windows/third name.txt"))

    # Links and other reparse points.
    def reparse(name, data, directory=False):
        if directory:
            os.mkdir(at(name))
        else:
            write(at(name), b"")
        attribute(name, "reparse_data", data)

    reparse("links/relative", link_data(TAG_SYMLINK, "..\\plain.txt", "..\\plain.txt", 1))
    up_down = "..\\links\\..\\Windows\\.\\System32\\deep.txt"
    reparse("links/relative-up-and-down", link_data(TAG_SYMLINK, up_down, up_down, 1))
    absolute = "C:\\Windows\\System32\\deep.txt"
    reparse("links/absolute", link_data(TAG_SYMLINK, "\\??\\" + absolute, absolute, 0))
    reparse("links/directory", link_data(TAG_SYMLINK, "\\??\\C:\\Windows", "C:\\Windows", 0), directory=True)
    reparse("links/junction", link_data(TAG_MOUNT_POINT, "\\??\\C:\\Windows\\System32", "C:\\Windows\\System32"),
            directory=True)
    reparse("Windows/junction-to-root", link_data(TAG_MOUNT_POINT, "\\??\\C:\\", "C:\\"), directory=True)
    reparse("links/other-case", link_data(TAG_SYMLINK, "..\\windows\\SYSTEM32\\DEEP.TXT", "", 1))
    escapes = "..\\..\\..\\..\\..\\etc\\passwd"
    reparse("links/escapes", link_data(TAG_SYMLINK, escapes, escapes, 1))
    reparse("links/app-execution-alias", struct.pack("<IHH", TAG_APPEXECLINK, 12, 0) + b"\3\0\0\0" + b"a\0b\0c\0\0\0")
    reparse("links/lx", struct.pack("<IHH", TAG_LX_SYMLINK, 4 + 9, 0) + b"\2\0\0\0plain.txt")

    # Metadata.
    write(at("meta/ea.txt"), b"with EAs")
    attribute("meta/ea.txt", "ea", extended_attributes((b"FIRST", b"value one"), (b"SECOND.EA", bytes(range(200)))))
    write(at("meta/object-id.txt"), b"with an object id")
    attribute("meta/object-id.txt", "object_id", bytes(range(1, 17)))
    write(at("meta/secret.txt"), b"security")
    attribute("meta/secret.txt", "acl", security_descriptor(1001))
    os.makedirs(at("meta/secret-directory"))
    attribute("meta/secret-directory", "acl", security_descriptor(1002))
    write(at("meta/attributes.txt"), b"attributes")
    attribute("meta/attributes.txt", "attrib",
              struct.pack("<I", ATTRIBUTE_READONLY | ATTRIBUTE_HIDDEN | ATTRIBUTE_SYSTEM | ATTRIBUTE_NOT_CONTENT_INDEXED))
    attribute("compressed", "attrib", struct.pack("<I", ATTRIBUTE_COMPRESSED | ATTRIBUTE_DIRECTORY))
    write(at("compressed/compressed.txt"), words(200_000, 3))
    with open(at("meta/sparse.bin"), "wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    for name, created in (("plain.txt", 0x01D4000000000001), ("Windows", 0x01C0123456789ABC), ("meta/ea.txt", 1)):
        modified = max(created, 0x01C0000000000000) + 10_000_003
        os.setxattr(at(name), "system.ntfs_times", struct.pack("<QQQ", created, modified, modified + 20_000_005))


def fill_long_names(root):
    """Names of 255 UTF-16 units, the limit, that no directory of Linux' own can hold: more than 255 bytes in UTF-8."""
    os.mkdir(os.path.join(root, "names"))
    write(os.path.join(root, "names", "\u6587" * 255), b"255 units, 765 bytes")
    write(os.path.join(root, "names", "\U0001F600" * 127 + "a"), b"255 units, 127 of them pairs")


def fill_huge(root):
    """A sparse file of 5 GiB with data at its start, around 4 GiB and at its end."""
    with open(os.path.join(root, "huge.bin"), "wb") as file:
        file.truncate(HUGE_BYTES)
        for offset, data in HUGE_ISLANDS:
            file.seek(offset)
            file.write(data)


HUGE_ISLANDS = (
    (0, b"the first bytes"),
    ((1 << 32) - 9, b"across four GiB"),
    (HUGE_BYTES - 14, b"the last bytes"),
)
