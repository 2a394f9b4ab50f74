"""Files of torch.save written opcode by opcode, so that they can be wrong in any way."""

import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np


def value(x) -> bytes:
    """Returns the opcodes that push a plain value."""
    return pickle.dumps(x, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def storage(key: str = "0", size: int = 6, kind: str = "FloatStorage") -> bytes:
    parts = (value("storage"), name("torch", kind), value(key), value("cpu"), value(size))
    return b"(" + b"".join(parts) + b"tQ"


def tensor(source: bytes | None = None, offset=0, shape=(2, 3), strides=(3, 1)) -> bytes:
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        source or storage(),
        *(value(x) for x in (offset, shape, strides, False)),
        call("collections", "OrderedDict"),
    )


def dictionary(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(value(key) + item for key, item in items.items()) + b"u"


def program(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


NUMBERS = struct.pack("<6f", *range(6))


def archive(opcodes: bytes, entries: dict[str, bytes] | None = None, **options) -> bytes:
    """Returns a zip file; `entries` are the storages, by default one of six numbers named `0`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as output:
        output.writestr("archive/data.pkl", program(opcodes))
        for key, data in ({"0": NUMBERS} if entries is None else entries).items():
            output.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def legacy(opcodes: bytes, keys=("0",), storages: bytes | None = None) -> bytes:
    """Returns a file in the format before torch 1.6."""
    if storages is None:
        storages = struct.pack("<q", 6) + NUMBERS
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join([*head, program(opcodes), pickle.dumps(list(keys), 2), storages])


KINDS = {"f4": "FloatStorage", "f2": "HalfStorage", "f8": "DoubleStorage", "i8": "LongStorage"}


def saved(tree: Any) -> bytes:
    """Returns the file that torch.save makes of dictionaries, arrays and plain values."""
    entries = {}

    def pushed(node) -> bytes:
        if isinstance(node, dict):
            return dictionary({key: pushed(item) for key, item in node.items()})
        if not isinstance(node, np.ndarray):
            return node if isinstance(node, bytes) else value(node)
        key = str(len(entries))
        entries[key] = node.tobytes()
        strides = tuple(stride // node.itemsize for stride in node.strides)
        source = storage(key, node.size, KINDS[node.dtype.str[1:]])
        return tensor(source, shape=node.shape, strides=strides)

    opcodes = pushed(tree)  # fills the entries
    return archive(opcodes, entries)
