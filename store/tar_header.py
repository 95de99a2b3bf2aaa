"""The tar header of one regular file, in exactly one form, so that a reader can compare instead of interpret.

Format: POSIX.1-1988 ustar fields with GNU's two extensions where ustar has no room: a name over 100 bytes in a record
of its own (type L), a size from 8 GiB on in base 256. Owner, time and mode are constants. Pure; knows no archive.
"""

from __future__ import annotations

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)

_NAME_BYTES = 100
_OCTAL_SIZE_MAX = 8**11 - 1
_LONG_NAME = "././@LongLink"
_CHECKSUM_AT = slice(148, 156)
_REGULAR, _GNU_LONG_NAME = b"0", b"L"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a fifo",
    b"g": "a pax record",
    b"x": "a pax record",
    b"K": "a long link",
    b"L": "a long name",
    b"S": "a sparse file",
}


def header(name: str, size: int) -> bytes:
    """The header of the file `name` of `size` bytes: one block, three where the name is long.

    >>> len(header("model.safetensors", 800))
    512
    """
    encoded = name.encode("ascii")
    if len(encoded) <= _NAME_BYTES:
        return _block(encoded, size, _REGULAR)
    data = encoded + b"\0"
    long_name = _block(_LONG_NAME.encode(), len(data), _GNU_LONG_NAME) + data + padding(len(data))
    return long_name + _block(encoded[:_NAME_BYTES], size, _REGULAR)


def padding(size: int) -> bytes:
    """What follows the `size` bytes of a file, up to the next block."""
    return bytes(-size % BLOCK_BYTES)


def size_of(block: bytes) -> int:
    """The size that a header's last block says; -1 if it says none. The caller compares the whole header then."""
    field = block[124:136]
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.rstrip(b"\0 ")
    return int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else -1


def describe(block: bytes) -> str:
    """What a header that is not the expected one seems to say, for an error message."""
    if not block.strip(b"\0"):
        return "nothing more"
    kind = _KINDS.get(block[156:157], "an entry" if block[257:262] == b"ustar" else "something that is no tar entry")
    name = block[:_NAME_BYTES].rstrip(b"\0").decode("ascii", "backslashreplace")
    return f"{kind} {name!r} of {size_of(block)} bytes"


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    octal = b"%011o\0" % size if size <= _OCTAL_SIZE_MAX else b"\x80" + size.to_bytes(11, "big")
    fields = [
        name.ljust(_NAME_BYTES, b"\0"),
        b"0000600\0",  # mode
        b"0000000\0" * 2,  # owner, group
        octal,
        b"00000000000\0",  # time
        b" " * 8,  # checksum, as it counts itself
        kind,
        bytes(100),  # target of a link
        b"ustar  \0",
    ]
    block = bytearray(b"".join(fields).ljust(BLOCK_BYTES, b"\0"))
    block[_CHECKSUM_AT] = b"%06o\0 " % sum(block)
    return bytes(block)
