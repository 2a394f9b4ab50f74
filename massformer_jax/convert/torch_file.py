"""Reads tensors and plain values from a PyTorch file, without PyTorch and without running the file.

`torch.save` has written two formats. Since version 1.6 it writes an uncompressed zip archive with a
pickle `NAME/data.pkl` and one entry `NAME/data/KEY` for each storage. Before that, and still on
request, it wrote several pickles one after the other and the storages behind them. The file is
mapped into memory: tensors are read-only views of it, and what nobody looks at is not read.
"""

import io
import mmap
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from massformer_jax.convert import torch_pickle
from massformer_jax.convert.torch_pickle import Opaque, PickleError, Storage, Tensor
from massformer_jax.errors import InputError

# mmengine keeps all logged numbers of a run in the pickle: some 50 MB after 80,000 steps.
MAX_PICKLE_BYTES = 96 * 2**20
_MAX_LINE_BYTES = 2**16  # lines hold only names and numbers
_MAX_DIRECTORY_BYTES = 8 * 2**20  # of a zip archive, enough for some 80,000 storages
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class TorchFile:
    """An open file of `torch.save`.

    Attributes:
        tree: what was saved. It is made of None, bool, int, float, str, bytes, list, tuple, dict
            (with keys that are str or int), `Tensor`, and `Opaque` for everything else. It may be
            cyclic.
    """

    tree: Any

    def __init__(self, path: str | os.PathLike):
        """Opens a file.

        Raises:
            InputError: the file cannot be read, has neither format, or is broken.
        """
        self._path = pathlib.Path(path)
        try:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            # An empty file is a ValueError of mmap, without a strerror.
            reason = getattr(error, "strerror", None) or "the file is empty"
            raise InputError(f"{path} cannot be read: {reason}") from error
        self._found: dict[str, tuple[int, bool]] = {}  # what `_find` returned for each storage
        try:
            if self._bytes[:4] == b"PK\x03\x04":
                self.tree, self._find = _open_zip(self._bytes)
            elif self._bytes[:1] == b"\x80":  # how a pickle begins
                self.tree, self._find = _open_legacy(self._bytes)
            else:
                raise PickleError(f"it is {_kind(self._bytes[:64])}, no file of torch.save")
        except PickleError as error:
            raise self._error(error) from error

    def array(self, tensor: Tensor) -> np.ndarray:
        """Returns a tensor as a read-only view of the file.

        Raises:
            InputError: the tensor reaches beyond its storage, the storage is missing, or its bytes
                differ from their checksum.
        """
        storage = tensor.storage
        # ml_dtypes makes bfloat16 known to NumPy.
        kind = ml_dtypes.bfloat16 if storage.dtype == "bfloat16" else storage.dtype
        dtype = np.dtype(kind)
        first = storage.start + tensor.offset
        try:
            if storage.key not in self._found:
                self._found[storage.key] = self._find(storage, dtype.itemsize)
            start, big_endian = self._found[storage.key]
            if 0 in tensor.shape:
                return np.zeros(tensor.shape, dtype)
            spans = zip(tensor.shape, tensor.strides, strict=True)
            last = first + sum((n - 1) * stride for n, stride in spans)
            if last >= storage.size:
                raise PickleError(f"a tensor reaches beyond its storage {storage.key[:40]!r}")
            try:
                return np.ndarray(
                    tensor.shape,
                    dtype.newbyteorder(">") if big_endian else dtype,
                    buffer=self._bytes,
                    offset=start + first * dtype.itemsize,
                    strides=[stride * dtype.itemsize for stride in tensor.strides],
                )
            except ValueError as error:  # a size that no array can have
                raise PickleError(f"a tensor of shape {tensor.shape}: {error}") from error
        except PickleError as error:
            raise self._error(error) from error

    def _error(self, error: PickleError) -> InputError:
        advice = "" if ";" in str(error) else "; download or save it again"
        return InputError(f"{self._path}: {error}{advice}")


_KINDS = {
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull brings the file itself)",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x1f\x8b": "a compressed file (gunzip it)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}  # how other files begin that are taken for weights


def _kind(start: bytes) -> str:
    """Returns what a file is that begins so."""
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "a web page"
    return next(
        (kind for magic, kind in _KINDS.items() if start.startswith(magic)), "of no known kind"
    )


def _pickled(tree: Any) -> str:
    """Returns what a pickle holds that is no file of torch.save."""
    keys = [key for key in tree if isinstance(key, str)] if isinstance(tree, dict) else []
    inner = tree.get("model") if keys else None
    values = [*(inner.values() if isinstance(inner, dict) else ()), *(tree[key] for key in keys)]
    arrays = any(isinstance(value, Opaque) and "numpy" in value.name for value in values)
    if "__author__" in keys or "matching_heuristics" in keys or "blobs" in keys:
        return "a pickle of NumPy arrays as detectron2 and Caffe2 keep them"
    return "a pickle of NumPy arrays" if arrays else "a plain pickle"


# Takes a storage and the size of one number in bytes. Returns where the storage begins in the file,
# and whether the bytes of its numbers are in big-endian order.
_Finder = Callable[[Storage, int], tuple[int, bool]]


class _Directory(io.RawIOBase):
    """The archive as zipfile sees it, which may not read more at once than a directory needs.

    zipfile makes an object of each entry, so a directory of 100 MB would take a gigabyte.
    """

    def __init__(self, data: mmap.mmap):
        self._data = data
        data.seek(0)

    def read(self, size: int = -1) -> bytes:
        left = len(self._data) - self._data.tell()
        size = left if size < 0 else min(size, left)
        if size > _MAX_DIRECTORY_BYTES:
            raise PickleError("its zip directory is larger than any checkpoint's")
        return self._data.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._data.seek(offset, whence)
        return self._data.tell()

    def tell(self) -> int:
        return self._data.tell()

    def seekable(self) -> bool:
        return True


class _Window:
    """A part of the file that pickles are read from, with a bound on how much they may read."""

    def __init__(self, data: mmap.mmap, start: int, stop: int):
        self._data, self._position, self._stop = data, start, stop
        self._allowed = start + MAX_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        start = self._position
        self._position = min(start + size, self._stop)
        if self._position > self._allowed:
            raise PickleError("its pickle is larger than any checkpoint's")
        return self._data[start : self._position]

    def readline(self) -> bytes:
        newline = self._data.find(b"\n", self._position, self._position + _MAX_LINE_BYTES)
        if newline < 0:
            raise PickleError("its pickle holds a line without an end")
        return self.read(newline + 1 - self._position)

    def tell(self) -> int:
        return self._position


def _open_zip(data: mmap.mmap) -> tuple[Any, _Finder]:
    try:
        entries = zipfile.ZipFile(_Directory(data)).infolist()
    except PickleError:
        raise
    # For damaged archives zipfile raises more than its own error.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError) as error:
        raise PickleError("its zip archive is incomplete or damaged") from error
    except struct.error as error:
        raise PickleError("its zip archive is incomplete or damaged") from error
    names = {entry.filename: entry for entry in entries}
    # Entries that overlap would let a small file stand for a large one.
    if sum(entry.compress_size for entry in entries) > len(data) or len(names) < len(entries):
        raise PickleError("entries of its zip archive overlap or have the same name")
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        what = (
            "an archive of NumPy arrays"
            if any(n.endswith(".npy") for n in names)
            else "a zip archive"
        )
        raise PickleError(f"it is {what} without the one data.pkl of torch.save")
    prefix = pickles[0].removesuffix("data.pkl")

    def locate(name: str) -> tuple[int, int]:
        """Checks an entry, and returns where it begins and its size."""
        if name not in names:
            raise PickleError(f"{name[:60]!r} is missing in its zip archive")
        entry = names[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise PickleError(f"{name[:60]!r} is compressed, which torch.save does not do")
        header = data[entry.header_offset : entry.header_offset + 30]
        if entry.header_offset < 0 or len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise PickleError(f"{name[:60]!r} is not where its zip directory says")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if start + entry.file_size > len(data):
            raise PickleError(f"{name[:60]!r} ends beyond the file")
        with memoryview(data) as view:
            if zlib.crc32(view[start : start + entry.file_size]) != entry.CRC:
                raise PickleError(f"the bytes of {name[:60]!r} differ from their checksum")
        return start, entry.file_size

    start, size = locate(pickles[0])
    tree, _ = torch_pickle.load(_Window(data, start, start + size))
    big_endian = False
    if prefix + "byteorder" in names:
        start, size = locate(prefix + "byteorder")
        big_endian = data[start : start + min(size, 3)] == b"big"

    def find(storage: Storage, itemsize: int) -> tuple[int, bool]:
        start, size = locate(f"{prefix}data/{storage.key}")
        if size < storage.size * itemsize:
            raise PickleError(
                f"the storage {storage.key[:40]!r} has {size} bytes, not {storage.size * itemsize}"
            )
        return start, big_endian

    return tree, find


def _open_legacy(data: mmap.mmap) -> tuple[Any, _Finder]:
    window = _Window(data, 0, len(data))
    first, _ = torch_pickle.load(window)
    if first != _LEGACY_MAGIC:
        raise PickleError(
            f"it is {_pickled(first)}, no file of torch.save; load it with what wrote it and save "
            "the tensors by torch.save"
        )
    if torch_pickle.load(window)[0] != _LEGACY_PROTOCOL:
        raise PickleError("its protocol version is unknown")
    system, _ = torch_pickle.load(window)
    little = isinstance(system, dict) and system.get("little_endian") is not False
    tree, storages = torch_pickle.load(window)
    keys, _ = torch_pickle.load(window)
    data.seek(window.tell())
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("it does not list its storages")
    starts = {}
    for key in keys:
        length = data.read(8)
        if key not in storages or key in starts or len(length) < 8:
            raise PickleError(f"the storage {key[:40]!r} is unknown, repeated or cut off")
        size, declared = int.from_bytes(length, "little" if little else "big"), storages[key].size
        if size != declared:
            raise PickleError(f"the storage {key[:40]!r} has {size} numbers, not {declared}")
        starts[key] = data.tell()
        end = starts[key] + size * _itemsize(storages[key])
        if end > len(data):
            raise PickleError(f"the storage {key[:40]!r} ends beyond the file")
        data.seek(end)

    def find(storage: Storage, itemsize: int) -> tuple[int, bool]:
        del itemsize
        if storage.key not in starts:
            raise PickleError(f"the storage {storage.key[:40]!r} is missing")
        return starts[storage.key], not little

    return tree, find


def _itemsize(storage: Storage) -> int:
    return 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize
