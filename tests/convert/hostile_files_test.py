"""Hostile and broken files end in a clear error, soon, in little memory, and execute nothing."""

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import warnings
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from massformer_jax.convert.weights_file import read_weights
from massformer_jax.errors import InputError
from tests.helpers.pickles import (
    archive,
    call,
    dictionary,
    legacy,
    name,
    program,
    storage,
    tensor,
    value,
)

SECONDS, BYTES = 5, 10**9
READ = """
import sys
from massformer_jax.errors import InputError
from massformer_jax.convert.weights_file import read_weights
try:
    read_weights(sys.argv[1])
except InputError as error:
    sys.exit(f"error: {error}")
"""
CANARY = "canary"  # relative: every program runs in a folder of its own
TOUCH = value(f"touch {CANARY}")
OPEN = value(f"open({CANARY!r}, 'w')")
OS = call("builtins", "__import__", value("os"))

# Each of these really executes when it is unpickled: see `test_the_canary_sings`.
EXECUTING = {
    "os.system": call("os", "system", TOUCH),
    "eval": call("builtins", "eval", OPEN),
    "exec": call("builtins", "exec", OPEN),
    "getattr chain": name("builtins", "getattr")
    + (b"(" + OS + value("system") + b"tR")
    + (b"(" + TOUCH + b"tR"),
    "INST": b"(" + TOUCH + b"ios\nsystem\n",
    "OBJ": b"(" + name("subprocess", "Popen") + value(["touch", CANARY]) + b"o",
    "NEWOBJ": call(
        "builtins", "list", name("builtins", "map") + b"(" + name("os", "system")
        + b"]" + TOUCH + b"at\x81",
    ),
    "STACK_GLOBAL": value("posix") + value("system") + b"\x93(" + TOUCH + b"tR",
    "dotted STACK_GLOBAL": b"\x80\x04" + value("os") + value("path.os.system") + b"\x93("
    + TOUCH + b"tR",
    "pickle in a pickle": call(
        "pickle", "loads", b"C" + bytes([len(p := program(call("os", "system", TOUCH)))]) + p
    ),
    "runpy": call("runpy", "_run_code", OPEN, value({})),
    "a key": b"}" + call("os", "system", TOUCH) + tensor() + b"s",
    "a tensor's argument": tensor(call("os", "system", TOUCH)),
    "below a popped value": call("os", "system", TOUCH) + b"0}",
    "BUILD": call("types", "SimpleNamespace") + dictionary({"x": call("os", "system", TOUCH)})
    + b"b",
    "the tensor's type": call(
        "torch._tensor", "_rebuild_from_type_v2", name("os", "system"), b"N", b"(" + TOUCH + b"t",
        b"N",
    ),
}  # fmt: skip
ONE = dictionary({"w": tensor()})


def old_without_storages(opcodes: bytes) -> bytes:
    return legacy(opcodes, keys=(), storages=b"")


def directory_of(entries: int) -> bytes:
    """Returns a zip archive whose directory has so many entries."""
    record = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, 1, *[0] * 6) + b"x"
    size = entries * len(record)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, size, 30, 0)
    return b"PK\3\4" + bytes(26) + record * entries + end


def damaged(data: bytes, part: bytes, by: bytes) -> bytes:
    assert data.count(part) >= 1
    return data.replace(part, by)


def safetensors_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _with_two_pickles() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w") as output:
        output.writestr("archive/data.pkl", program(ONE))
        output.writestr("archive/data.pkl", program(b"}"))
    return file.getvalue()


SAFE = b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,%d]}}'
# name: (bytes, part of the message)
BROKEN = {
    "empty": (b"", "the file is empty"),
    "a web page": (b"<!DOCTYPE html><html>", "no file of torch.save"),
    "zip cut off": (archive(ONE)[:-30], "incomplete or damaged"),
    "zip of the first half": (archive(ONE)[:200], "incomplete or damaged"),
    "no data.pkl": (damaged(archive(ONE), b"data.pkl", b"data.pkx"), "without the one data.pkl"),
    "compressed": (archive(ONE, compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a bit of a storage": (
        damaged(archive(ONE), struct.pack("<f", 5), struct.pack("<f", 4)),
        "differ from their checksum",
    ),
    "two pickles": (_with_two_pickles, "have the same name"),
    "huge directory": (lambda: directory_of(600_000), "zip directory is larger"),
    "pickle cut off": (archive(ONE[:-20]), "broken"),
    "storage too short": (archive(ONE, {"0": bytes(20)}), "has 20 bytes, not 24"),
    "storage missing": (archive(ONE, {}), "is missing"),
    "path traversal": (
        archive(dictionary({"w": tensor(storage("../../../../etc/passwd"))}), {"../../x": b""}),
        "'archive/data/../../../../etc/passwd' is missing",
    ),
    "offset beyond": (archive(dictionary({"w": tensor(offset=1)})), "beyond its storage"),
    "stride beyond": (archive(dictionary({"w": tensor(strides=(4, 1))})), "beyond its storage"),
    "negative size": (archive(dictionary({"w": tensor(shape=(-2, 3))})), "no state dict"),
    "negative stride": (archive(dictionary({"w": tensor(strides=(-1, 1))})), "no state dict"),
    "terabytes by stride 0": (
        archive(dictionary({"w": tensor(shape=(2**40,), strides=(0,))})),
        "would fill",
    ),
    "beyond any array": (
        archive(dictionary({"w": tensor(shape=(2**40, 2**40), strides=(0, 0))})),
        "a tensor of shape",
    ),
    "a storage of two types": (
        archive(dictionary({"w": tensor(), "v": tensor(storage(kind="LongStorage"))})),
        "declares the storage '0' in two ways",
    ),
    "cyclic": (archive(b"}q\x01" + value("state_dict") + b"h\x01s"), "no state dict"),
    "list in itself": (archive(b"]q\x01h\x01a"), "no state dict"),
    "nested without end": (archive(b")" + b"\x85" * 900_000), "no state dict"),
    "exponential hash": (
        archive(b"}" + b")" + b"2\x86" * 300_000 + b"Ns"), "no state dict",
    ),
    "colliding keys": (
        archive(
            b"}(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N"
                             for i in range(300_000)) + b"u"
        ),
        "no state dict",
    ),
    "opcodes": (lambda: archive(b"}" * 1_000_001), "opcodes"),
    "larger than any": (lambda: archive(b"T" + struct.pack("<i", 97 << 20) + bytes(97 << 20)),
                        "larger than any"),
    "four bytes a character": (
        lambda: archive(b"X" + struct.pack("<i", 90 << 20) + "\U0001f600".encode()
                        + b"a" * ((90 << 20) - 4)),
        "no state dict",
    ),
    "text of 2^62 bytes": (archive(b"\x8d" + struct.pack("<Q", 2**62)), "broken"),
    "memo number": (archive(b"Nr\xff\xff\xff\xff"), "memo number"),
    "unset memo number": (archive(b"h\x07"), "unset memo number"),
    "number of a million digits": (archive(b"L" + b"9" * 10**6 + b"\n"), "line without an end"),
    "line without an end": (archive(b"c" + b"a" * 10**6), "line without an end"),
    "stack too short": (archive(b"R"), "more from the stack"),
    "mark missing": (archive(b"u"), "more from the stack"),
    "unknown opcode": (archive(b"\xff"), "broken"),
    "old format cut off": (legacy(ONE)[:-1], "ends beyond the file"),
    "old format, wrong size": (legacy(ONE, storages=struct.pack("<q", 5)), "5 numbers, not 6"),
    "old format, no storages": (legacy(ONE, keys=()), "is missing"),
    "old format, unknown storage": (legacy(ONE, keys=("7",)), "unknown, repeated or cut off"),
    "old format, keys": (legacy(ONE, keys=(7,)), "does not list its storages"),
    "safetensors, header": (safetensors_file(b"", length=2**60), ".safetensors file, or broken"),
    "safetensors, no JSON": (safetensors_file(b"{'a'"), ".safetensors file, or broken"),
    "safetensors, nested": (safetensors_file(b"[" * 10**6), ".safetensors file, or broken"),
    "safetensors, out of range": (safetensors_file(SAFE % 24, bytes(8)), "or broken"),
    "safetensors, wrong size": (safetensors_file(SAFE % 20, bytes(20)), "or broken"),
}  # fmt: skip


def read_apart(path) -> subprocess.CompletedProcess:
    """Reads a file in a process that has the time and memory it may use, and no more."""

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))

    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", READ, path.name],
        cwd=path.parent, env=environment, preexec_fn=limit, capture_output=True, text=True,
    )  # fmt: skip


def refused(path) -> str:
    """Returns the one line of the error, and checks that nothing else happened."""
    result = read_apart(path)
    assert os.listdir(path.parent) == [path.name]
    assert result.returncode == 1, result
    line = result.stderr.removesuffix("\n")
    assert line.startswith("error: ") and path.name in line and line.isprintable(), line
    return line


@pytest.mark.parametrize("case", [case for case in EXECUTING if "tensor" not in case])
def test_the_canary_sings(case, tmp_path, monkeypatch):
    """What must not run does run when it is unpickled. Cases with tensors would need PyTorch."""
    monkeypatch.chdir(tmp_path)
    code = f"import pickle; pickle.loads({program(EXECUTING[case])!r})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True)
    # Some programs fail after they have run, so the status tells nothing.
    del process
    for _ in range(100):
        if (tmp_path / CANARY).exists():
            return
        subprocess.run(["sleep", "0.02"])
    pytest.fail("nothing was executed")


@pytest.mark.parametrize("case", EXECUTING)
@pytest.mark.parametrize("layout", [archive, old_without_storages])
def test_nothing_is_executed(case, layout, tmp_path):
    path = tmp_path / "hostile.pth"
    path.write_bytes(layout(EXECUTING[case]))
    assert "holds no state dict" in refused(path)


@pytest.mark.parametrize("case", BROKEN)
def test_clear_error(case, tmp_path):
    data, message = BROKEN[case]
    suffix = ".safetensors" if case.startswith("safetensors") else ".pth"
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(data() if callable(data) else data)
    assert message in refused(path)


@pytest.mark.parametrize("case", EXECUTING)
def test_what_is_unknown_beside_the_weights_is_inert(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(archive(dictionary({"state_dict": ONE, "meta": EXECUTING[case]})))
    assert read_weights(path).tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not (tmp_path / CANARY).exists()


OPCODES = [bytes([code]) for code in range(256)] + [
    *(value(x) for x in ("w", "state_dict", "storage", 0, 3, -1, (2, 3), None, 2**70)),
    *(ONE, tensor(), storage(), call("collections", "OrderedDict"), b"q\x01", b"h\x01"),
    *(name("torch._utils", "_rebuild_tensor_v2"), name("torch", "FloatStorage")),
    call("os", "system", TOUCH),
]


@st.composite
def mutated(draw):
    """Draws a sound pickle in which pieces are replaced, or a row of opcodes."""
    if draw(st.booleans()):
        return b"".join(draw(st.lists(st.sampled_from(OPCODES), max_size=40)))
    data = bytearray(dictionary({"state_dict": ONE, "meta": value({"iter": 5, "CLASSES": ["a"]})}))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 4))] = draw(
            st.one_of(st.binary(max_size=8), st.sampled_from(OPCODES))
        )
    return bytes(data)


def fuzz(folder):
    path = folder / "fuzz.pth"

    @given(mutated(), st.sampled_from([archive, legacy]), st.lists(st.tuples(
        st.integers(0, 2000), st.integers(0, 255)), max_size=3))  # fmt: skip
    def run(opcodes, layout, flips):
        data = bytearray(layout(opcodes))
        for position, byte in flips:
            data[position % len(data)] = byte
        path.write_bytes(data)
        try:
            weights = read_weights(path)
        except InputError as error:
            assert str(error).isprintable()
        else:
            assert all(tensor.nbytes <= 8 * len(data) for tensor in weights.tensors.values())
        assert os.listdir(folder) == [path.name]

    return run


SETTINGS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def test_any_bytes_are_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings(max_examples=300, **SETTINGS)(fuzz(tmp_path))()


@pytest.mark.slow
def test_many_bytes_are_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings(max_examples=4_000, **SETTINGS)(fuzz(tmp_path))()


def test_sound_files_are_read(tmp_path):
    """The writers of this file write what the reader reads, so the errors above are those meant."""
    for layout in (archive, legacy):
        path = tmp_path / "sound.pth"
        path.write_bytes(layout(ONE))
        result = read_apart(path)
        assert result.returncode == 0, result.stderr
    assert pickle.loads(program(value({"w": 1}))) == {"w": 1}
