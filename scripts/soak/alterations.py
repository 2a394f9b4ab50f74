"""Random changes of the bytes of a file, as failing disks, transfers and editors make them."""

import contextlib
import json
import struct
import zlib
from typing import Any

import numpy as np

_MOST = 3  # changes of one file
_EDGE = 400  # bytes at either end of a file, where headers and directories are


def altered(data: bytes, rng: np.random.Generator) -> tuple[bytes | None, str]:
    """Returns a changed file, None if it is deleted, and what was done in a few words."""
    if rng.random() < 0.01:
        return None, "deleted"
    if data[:1] == b"{" and rng.random() < 0.5:
        # Of JSON most changes of bytes make no JSON: here is one that does.
        with contextlib.suppress(ValueError):
            return _other_value(json.loads(data), rng)
    changed, done = data, []
    while changed == data:
        for _ in range(int(rng.integers(1, _MOST + 1))):
            change = _CHANGES[int(rng.integers(len(_CHANGES)))]
            start = _position(len(changed), rng)
            changed = change(changed, start, rng)
            done.append(f"{change.__name__.strip('_')} at {start}")
    return changed, ", ".join(done)


def mended_png(data: bytes) -> bytes:
    """Returns an altered PNG whose chunks have right checksums, as far as there are whole chunks.

    Programs that write nonsense write it with right checksums.
    """
    at, parts = 8, [data[:8]]
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join([*parts, data[at:]])


def _other_value(tree: Any, rng: np.random.Generator) -> tuple[bytes, str]:
    """Returns JSON with another value somewhere, or without one, and what was done."""
    node, path = tree, []
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[int(rng.integers(len(keys)))]
        path.append(str(key))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            break
        node = node[key]
    choice = int(rng.integers(len(_VALUES) + 1))
    if choice == len(_VALUES):
        del node[key]
        return json.dumps(tree).encode(), f"{'.'.join(path)} left out"
    node[key] = _VALUES[choice]
    return json.dumps(tree).encode(), f"{'.'.join(path)} is {str(node[key])[:40]}"


def _position(size: int, rng: np.random.Generator) -> int:
    """Draws a place in a file: near its begin, near its end, or anywhere."""
    where = int(rng.integers(4))
    if where == 0:
        return int(rng.integers(min(size, _EDGE) + 1))
    if where == 1:
        return size - int(rng.integers(min(size, _EDGE) + 1))
    return int(rng.integers(size + 1))


def _length(rng: np.random.Generator) -> int:
    """Draws a number of bytes, more often a small one."""
    return int(2 ** rng.uniform(0, 13))


def _flip(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    if not data:
        return b"\0"
    start = min(start, len(data) - 1)
    bit = 1 << int(rng.integers(8))
    return data[:start] + bytes([data[start] ^ bit]) + data[start + 1 :]


def _overwrite(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    noise = rng.bytes(int(rng.integers(1, 9)))
    return data[:start] + noise + data[start + len(noise) :]


def _cut(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    return data[:start] + data[start + _length(rng) :]


def _insert(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    return data[:start] + rng.bytes(_length(rng)) + data[start:]


def _zeros(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    length = min(_length(rng), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def _truncate(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    del rng
    return data[:start]


def _append(data: bytes, start: int, rng: np.random.Generator) -> bytes:
    del start
    return data + rng.bytes(_length(rng))


_VALUES = (
    None,
    True,
    0,
    -1,
    7,
    2.5,
    1e308,
    10**30,
    float("nan"),
    "",
    "text",
    "\x1b[2J\n",
    [],
    {},
    [[]],
)
_CHANGES = (_flip, _flip, _overwrite, _cut, _insert, _zeros, _truncate, _append)
