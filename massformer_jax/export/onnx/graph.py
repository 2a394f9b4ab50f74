"""A graph of ONNX that is being written, and the values that a program computes in it."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from jax.typing import DTypeLike
from onnx import helper, numpy_helper

from massformer_jax.ops.open_sizes import known

Side = Any  # an int, or of a size that is left open an expression such as 128*h
END = np.iinfo(np.int64).max  # of a slice that goes to the end


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A value of the program: numbers, or the name of a tensor in the graph.

    Attributes:
        shape: its sides.
        dtype: of its elements.
        source: the numbers, or the name.
        held: the sides of the numbers or of the tensor: 1 where all along a side they are equal and
            held once. Operators of ONNX repeat such sides by themselves.
    """

    shape: tuple[Side, ...]
    dtype: np.dtype
    source: np.ndarray | str
    held: tuple[Side, ...]

    @property
    def numbers(self) -> np.ndarray | None:
        """The numbers, if they are known, of the sides that are held."""
        return self.source if isinstance(self.source, np.ndarray) else None

    @property
    def number(self) -> Any:
        """The number that all elements are, if it is known."""
        return self.source.item() if self.numbers is not None and self.source.size == 1 else None

    @property
    def whole(self) -> bool:
        """Whether every side is held."""
        return self.held == self.shape


def constant(numbers: np.ndarray) -> Value:
    """Returns numbers as a value."""
    return Value(numbers.shape, numbers.dtype, numbers, numbers.shape)


def tensor_type(dtype: DTypeLike) -> int:
    """Returns ONNX's number of a dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Scope:
    """The nodes of a graph, or of the body of a loop."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.seen: dict[Any, str] = {}


class Graph:
    """A graph and, while the body of a loop is written, that body.

    Nodes that would compute the same twice are written once, and what a loop would compute again
    and again is written before it.
    """

    def __init__(self):
        self._scopes = [_Scope()]
        # The bodies around what is not computed outside of all loops.
        self._depths: dict[str, int] = {}
        self._constants: dict[Any, str] = {}
        self._numbers: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._open: dict[str, str] = {}
        self._count = 0

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the innermost scope."""
        return self._scopes[-1].nodes

    def name_numbers(self, numbers: np.ndarray, name: str) -> None:
        """Names numbers, should they become part of the graph."""
        self._names[id(numbers)] = name

    def name_side(self, letter: str, name: str) -> None:
        """Says which tensor, int64 [1], holds what a letter stands for in open sides."""
        self._open[letter] = name

    def new(self, what: str) -> str:
        """Returns a name that nothing has yet."""
        self._count += 1
        return f"{what}.{self._count}"

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output, and returns that output's name."""
        depth = max((self._depths.get(name, 0) for name in inputs), default=0)
        scope = self._scopes[depth]
        key = operator, inputs, repr(sorted(attributes.items()))
        if key not in scope.seen:
            name = scope.seen[key] = self.new(operator)
            self._depths[name] = depth
            scope.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return scope.seen[key]

    def begin_body(self) -> None:
        """Begins the body of a loop, which nodes belong to that use its inputs."""
        self._scopes.append(_Scope())

    def body_input(self, what: str) -> str:
        """Returns a new name for an input of the body."""
        name = self.new(what)
        self._depths[name] = len(self._scopes) - 1
        return name

    def body_output(self, name: str) -> str:
        """Returns a name for an output of the body, which is no tensor from outside."""
        output = self.new("Identity")
        self.nodes.append(helper.make_node("Identity", [name], [output], output))
        return output

    def end_body(self) -> list[onnx.NodeProto]:
        """Ends the body, and returns its nodes."""
        return self._scopes.pop().nodes

    def add_loop(self, inputs: Sequence[str], body: onnx.GraphProto) -> list[str]:
        """Adds a loop, and returns the names of its outputs."""
        # The first output of a body says whether it goes on.
        outputs = [self.new("Loop") for _ in body.output[1:]]
        self._depths |= dict.fromkeys(outputs, len(self._scopes) - 1)
        self.nodes.append(helper.make_node("Loop", inputs, outputs, outputs[0], body=body))
        return outputs

    def constant(self, numbers: np.ndarray) -> str:
        """Returns the name of numbers, which become part of the graph."""
        # Of large ones only those are shared that are one array, perhaps in other shapes.
        small = numbers.size <= 1024
        key = numbers.tobytes() if small else (numbers.ctypes.data, numbers.strides)
        key = key, numbers.dtype.str, numbers.shape
        if key not in self._constants:
            name = self._names.get(id(numbers)) or self.new("constant")
            self._constants[key] = name
            self._numbers[name] = numbers
        return self._constants[key]

    def integers(self, *numbers: int) -> str:
        """Returns the name of a list of numbers, int64."""
        return self.constant(np.array(numbers, np.int64))

    def name(self, value: Value) -> str:
        """Returns the name of a value, with the sides that it holds."""
        return value.source if value.numbers is None else self.constant(value.source)

    def expanded(self, value: Value) -> str:
        """Returns the name of a value with all of its sides."""
        if value.whole:
            return self.name(value)
        if value.numbers is not None and known(value.shape) and np.prod(value.shape) <= 1024:
            return self.constant(np.broadcast_to(value.source, value.shape).copy())
        return self.add("Expand", self.name(value), self.sides(value.shape))

    def sides(self, shape: Sequence[Side]) -> str:
        """Returns the name of a shape, int64."""
        if known(shape):
            return self.integers(*shape)
        parts = [self.side(side) for side in shape]
        return self.add("Concat", *parts, axis=0)

    def side(self, side: Side) -> str:
        """Returns the name of a side, int64 [1]."""
        # jax reads what it prints of open sides, in a language that is Python's but for powers.
        return self._side(ast.parse(str(side).replace("^", "**"), mode="eval").body)

    def _side(self, node: ast.AST) -> str:
        match node:
            case ast.Constant(value=int(number)):
                return self.integers(number)
            case ast.Name(id=letter):
                return self._open[letter]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.add("Neg", self._side(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
                total = base = self._side(left)
                for _ in range(power - 1):
                    total = self.add("Mul", total, base)
                return total
            case ast.BinOp(left=left, op=operation, right=right):
                return self.add(_BINARY[type(operation)], self._side(left), self._side(right))
            case ast.Call(func=ast.Name(id=function), args=[left, right]):
                return self.add(_CALLS[function], self._side(left), self._side(right))
        raise ValueError(f"no expression of sides: {ast.unparse(node)}")

    def initializers(self, names: set[str]) -> list[onnx.TensorProto]:
        """Returns those numbers of the graph that have one of these names."""
        return [
            numpy_helper.from_array(np.ascontiguousarray(numbers).reshape(numbers.shape), name)
            for name, numbers in self._numbers.items()
            if name in names
        ]


_BINARY = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
# Sides are not negative, so that division that rounds to zero rounds down.
_CALLS = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}
