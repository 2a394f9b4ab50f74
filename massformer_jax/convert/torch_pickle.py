"""Reads the pickles inside PyTorch files without running them.

A pickle is a program for a small stack machine. Unpickling runs it, and it may import and call
anything. The machine here can neither import nor call. Names of functions and classes stay names.
The few functions that rebuild tensors and plain containers are in a table (`_REBUILDERS`). All
others become an inert `Opaque`, whatever the pickle then does with them. `pickletools`, from the
standard library, splits the bytes into opcodes and executes nothing.

Each opcode takes a bounded time, and a bounded amount of memory beyond the bytes it is read from.
Their number is limited, so hostile pickles end soon. What is returned may still be cyclic or nested
without end: walk into it only by known keys.
"""

import dataclasses
import pickletools
from typing import Any, Protocol, runtime_checkable

# A training checkpoint of MaSSFormer, with the optimizer's state, has some 60,000.
MAX_OPCODES = 1_000_000
MAX_DIMENSIONS = 16

# The dtypes of torch's typed storages, by names that NumPy knows; bfloat16 it knows from ml_dtypes.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class PickleError(ValueError):
    """An error of a broken or hostile pickle; the message is one line that says what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A placeholder for a function, a class, or whatever the pickle would have made with one."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A row of numbers that lies elsewhere in the file."""

    dtype: str
    key: str
    size: int  # how many numbers the storage `key` has in all
    start: int = 0  # which of them is the first of this view of it


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage, not yet checked; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@runtime_checkable
class Readable(Protocol):
    """The part of a file's interface that `load` needs."""

    def read(self, size: int) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


def load(file: Readable) -> tuple[Any, dict[str, Storage]]:
    """Returns what the pickle at the file's position describes.

    Args:
        file: what the pickle is read from; it has to bound what its methods return. Its position is
            then behind the pickle.

    Returns:
        The object, made of None, bool, int, float, str, bytes, list, tuple, dict, `Tensor`,
        `Storage` and `Opaque`; and the storages that it names, by key.

    Raises:
        PickleError: the pickle is broken, or longer than that of any checkpoint.
    """
    machine = _Machine()
    opcodes = 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            opcodes += 1
            if opcodes > MAX_OPCODES:
                raise PickleError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            machine.apply(opcode.name, argument)
    except PickleError:
        raise
    except ValueError as error:
        # pickletools raises this for unknown opcodes, missing bytes and bad numbers.
        message = " ".join(str(error)[:120].split())
        raise PickleError(f"its pickle is broken after {opcodes} opcodes ({message})") from error
    return machine.pop(), machine.storages


class _Machine:
    """The state of the stack machine: the stack, the marks in it, and the memo."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError("its pickle takes more from the stack than there is")
        return self.stack.pop()

    def top(self) -> Any:
        self.stack.append(value := self.pop())
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("its pickle takes more from the stack than there is")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index: int, value: Any) -> None:
        # Without the bound, a file could choose integers whose hashes collide.
        if not 0 <= index < 2**31:
            raise PickleError(f"its pickle uses the memo number {str(index)[:20]}")
        self.memo[index] = value

    def apply(self, name: str, argument: Any) -> None:
        """Changes the state as one opcode says."""
        push = self.stack.append
        if name in _LITERALS:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name]())
        elif name in _PUTS:
            self.put(len(self.memo) if argument is None else argument, self.top())
        elif name in ("BINGET", "GET", "LONG_BINGET"):
            if argument not in self.memo:
                raise PickleError(
                    f"its pickle refers to the unset memo number {str(argument)[:20]}"
                )
            push(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            push(tuple(reversed(items)))
        elif name == "TUPLE":
            push(tuple(self.pop_to_mark()))
        elif name == "LIST":
            push(self.pop_to_mark())
        elif name == "DICT":
            items = self.pop_to_mark()
            push({})
            self.set_items(items)
        elif name == "FROZENSET":
            self.pop_to_mark()
            push(Opaque("frozenset"))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            target = self.top()
            if isinstance(target, list):
                target.extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            if name == "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            else:
                self.set_items(self.pop_to_mark())
        elif name == "GLOBAL":
            push(Opaque(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            if not isinstance(attribute, str) or not isinstance(module, str):
                raise PickleError("its pickle names a global by something that is no text")
            push(Opaque(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = self.pop(), self.pop()
            push(_rebuild(function, arguments))
        elif name in _MAKERS:
            for _ in range(_MAKERS[name]):
                self.pop()
            push(Opaque(name))
        elif name in ("INST", "OBJ"):
            self.pop_to_mark()
            push(Opaque(name))
        elif name == "BUILD":
            # It sets the state of an object. The state of a state dict is torch's `_metadata`.
            self.pop()
            self.top()
        elif name == "BINPERSID":
            push(self.storage(self.pop()))
        elif name == "POP":
            # As in pickle, it takes the mark if nothing is above it.
            if self.marks and len(self.stack) == self.marks[-1]:
                self.marks.pop()
            else:
                self.pop()
        elif name == "POP_MARK":
            self.pop_to_mark()
        elif name == "DUP":
            push(self.top())
        elif name not in ("PROTO", "FRAME", "STOP", "READONLY_BUFFER"):
            raise PickleError(f"its pickle uses {name}, which no PyTorch file does")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            raise PickleError("its pickle sets a key without a value")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value

    def storage(self, identity: Any) -> Storage | Opaque:
        """Returns the storage that torch names ("storage", type, key, location, size[, view])."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            return Opaque("persistent object")
        _, kind, key, _, size, *view = identity
        dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Opaque) else None
        if dtype is None or not isinstance(key, str) or not _is_count(size):
            return Opaque("storage")
        start = 0
        # A view is (key, offset, size); torch wrote it before version 0.4.
        if view and view[0] is not None:
            if not isinstance(view[0], tuple) or len(view[0]) != 3 or not _is_count(view[0][1]):
                return Opaque("storage")
            start = view[0][1]
        known = self.storages.setdefault(key, Storage(dtype, key, size))
        if (known.dtype, known.size) != (dtype, size):
            raise PickleError(f"its pickle declares the storage {key[:40]!r} in two ways")
        return Storage(dtype, key, size, start)


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Opaque("set"),
    "EXT1": lambda: Opaque("extension"),
    "EXT2": lambda: Opaque("extension"),
    "EXT4": lambda: Opaque("extension"),
    "NEXT_BUFFER": lambda: Opaque("buffer"),
    "PERSID": lambda: Opaque("persistent object"),
}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAKERS = {"NEWOBJ_EX": 3}  # opcodes that call with so many values from the stack


def _key(key: Any) -> Any:
    """Returns a key whose hash is cheap and cannot be made to collide; replaces other keys."""
    if isinstance(key, str) or (isinstance(key, int) and -(2**31) < key < 2**31):
        return key
    return Opaque("key")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor | Opaque:
    sides = (shape, strides)
    if (
        not isinstance(storage, Storage)
        or not _is_count(offset)
        or not all(isinstance(side, tuple) and len(side) <= MAX_DIMENSIONS for side in sides)
        or not all(_is_count(number) for side in sides for number in side)
        or len(shape) != len(strides)
    ):
        return Opaque("tensor")
    return Tensor(storage, offset, shape, strides)


def _dictionary(pairs: Any = (), *_: Any) -> dict:
    """Rebuilds a collections.OrderedDict, to which old pickles pass its items."""
    if not isinstance(pairs, list):
        return {}
    return {_key(p[0]): p[1] for p in pairs if isinstance(p, (list, tuple)) and len(p) == 2}


def _first(value: Any, *_: Any) -> Any:
    return value


def _typed(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Rebuilds a tensor with Python attributes or of a subclass, as its own function does."""
    del kind
    if not isinstance(function, Opaque) or function.name == "torch._tensor._rebuild_from_type_v2":
        return Opaque("tensor")
    return _rebuild(function, arguments)


_REBUILDERS = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": _first,
}


def _rebuild(function: Any, arguments: Any) -> Any:
    """Returns what REDUCE makes: a tensor or a container if there is a rebuilder, else `Opaque`."""
    if not isinstance(function, Opaque):
        return Opaque("object")
    rebuilder = _REBUILDERS.get(function.name)
    if rebuilder is None or not isinstance(arguments, tuple):
        return Opaque(function.name)
    try:
        return rebuilder(*arguments)
    except TypeError:
        # The pickle passes too few arguments.
        return Opaque(function.name)
