"""What is taken from a finished run: text, report, pictures. Every byte may be forged, so it is checked and cut, and never unpickled."""

import json
import os
import re
import stat
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twofold.sandbox import child

PLOTS, PLOT_BYTES, PLOT_SIDE = 12, 4 << 20, 6000
"""How many pictures, how large a file, how many pixels along a side."""
REPORT_BYTES = 4 << 20
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True, slots=True)
class Table:
    """A DataFrame that the code made: its name, its shape and its first rows as text. The head's rows begin with the index."""

    name: str
    shape: tuple[int, int]
    columns: tuple[str, ...]
    head: tuple[tuple[str, ...], ...]


def text(value: object, limit: int = child.TEXT + 100) -> str:
    """A string fit to be shown: of the right type, cut, without lone surrogates and without control characters that steer a terminal."""
    return _CONTROL.sub("\ufffd", child.cut(value, limit).encode("utf-8", "replace").decode()) if isinstance(value, str) else ""


def report(line: bytes, token: str) -> dict[str, Any] | None:
    """The run's report with every field of its right type, or None when it is not one that belongs to this run."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or raw.get("token") != token:
        return None
    fields: dict[str, Any] = {name: text(raw.get(name)) for name in ("error", "result", "after", "after_error")}
    number = raw.get("line")
    fields["line"] = number if isinstance(number, int) and 0 < number < 1 << 31 else 0
    fields["ok"] = raw.get("ok") is True and not fields["error"]
    frames = raw.get("frames")
    fields["frames"] = tuple(filter(None, map(_table, frames[: child.FRAMES] if isinstance(frames, list) else ())))
    return fields


def _table(raw: object) -> Table | None:
    if not isinstance(raw, Mapping):
        return None
    shape, columns, head = raw.get("shape"), raw.get("columns"), raw.get("head")
    if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(one, int) and 0 <= one < 1 << 62 for one in shape)):
        return None
    if not (isinstance(columns, list) and isinstance(head, list) and all(isinstance(row, list) for row in head)):
        return None
    rows = tuple(tuple(text(cell, 300) for cell in row[: child.WIDTH + 1]) for row in head[: child.HEAD])
    return Table(text(raw.get("name"), 200), (shape[0], shape[1]), tuple(text(one, 300) for one in columns[: child.WIDTH]), rows)


def png(data: bytes) -> bytes | None:
    """The picture without its optional chunks; None when it is no whole PNG of bearable size with as many pixels as its header says."""
    if not data.startswith(_SIGNATURE) or len(data) > PLOT_BYTES:
        return None
    place, kept, unpack, size, room = 8, [_SIGNATURE], zlib.decompressobj(), 0, -1
    try:
        while True:
            length, kind = struct.unpack_from(">I4s", data, place)
            body = data[place + 8 : place + 8 + length]
            if len(body) != length or struct.unpack_from(">I", data, place + 8 + length)[0] != zlib.crc32(kind + body):
                return None
            if (kind == b"IHDR") != (place == 8):
                return None
            if kind == b"IHDR":
                width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
                channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
                if not (0 < width <= PLOT_SIDE and 0 < height <= PLOT_SIDE and depth in (1, 2, 4, 8, 16) and interlace == 0):
                    return None
                room = height * (1 + (width * depth * channels + 7) // 8)
            elif kind == b"IDAT":
                size += len(unpack.decompress(body, room - size + 1))
                if size > room:
                    return None
            if kind in _KEPT:
                kept.append(data[place : place + 12 + length])
            if kind == b"IEND":
                return b"".join(kept) if size == room else None
            place += 12 + length
    except (struct.error, zlib.error, KeyError):
        return None


def _read(folder: int, name: str, limit: int) -> bytes | None:
    """A regular file's bytes, if it is one with one name and no more than `limit` bytes. Follows no link and waits for no fifo."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > limit:
            return None
        return file.read(limit)


def _listing(scratch: int, name: str, most: int = 100) -> tuple[int, list[str]]:
    """A descriptor of a real folder in the scratch (-1: there is none) and the first names in it."""
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=scratch)
    except OSError:
        return -1, []
    with os.scandir(folder) as entries:
        return folder, sorted(entry.name for _, entry in zip(range(most), entries, strict=False))


def pictures(scratch: int) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """The PNGs of the figures left open, or else those that the code saved itself; and the names in its working directory."""
    figures, drawn = _listing(scratch, child.FIGURES)
    work, names = _listing(scratch, "work")
    try:
        found = _pictures(figures, drawn) or _pictures(work, [name for name in names if name.lower().endswith(".png")])
    finally:
        for one in (figures, work):
            if one >= 0:
                os.close(one)
    return tuple(found), tuple(text(name, 300) for name in names)


def _pictures(folder: int, names: list[str]) -> list[bytes]:
    found = []
    for name in names[:PLOTS]:
        data = _read(folder, name, PLOT_BYTES)
        if data is not None and (picture := png(data)) is not None:
            found.append(picture)
    return found
