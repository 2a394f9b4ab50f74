"""What a network is exported as, and the result: programs with their weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from massformer_jax.errors import InputError
from massformer_jax.export import stored
from massformer_jax.models.massformer import STRIDE
from massformer_jax.ops.precision import computation

FORMATS = ("stablehlo", "mlir", "onnx")
ANSWERS = ("labels", "scores")
PLATFORMS = ("cpu", "cuda", "tpu")
SIZE = (1024, 1024)  # of the images that a MaSSFormer takes, if nothing else is said


@dataclasses.dataclass(frozen=True)
class Form:
    """What a program is made for.

    Attributes:
        size: (height, width) of the images that a MaSSFormer takes, multiples of 256, or "any" for
            all such sides; None for `SIZE`, or for a CoordFormer, whose size is its own.
        answer: "labels", uint8, or "scores" of all classes, float32.
        format: "stablehlo", for jax; "mlir", StableHLO as text for compilers; or "onnx".
        platforms: those that a program of StableHLO runs on, of `PLATFORMS`, by default all, and
            for "mlir" the CPU. Where ONNX runs is a matter of who runs it.
        dtype: that it computes in, of `massformer_jax.ops.precision.DTYPES`.
        weights: the dtype that most of the weights are stored in, of
            `massformer_jax.export.stored.DTYPES`.
        page: whether a page for browsers lies beside it.

    Raises:
        InputError: a side is no multiple of 256; there is no such answer, format, platform, dtype
            or dtype of weights, or the format cannot have it.
    """

    size: tuple[int, int] | Literal["any"] | None = None
    answer: str = "labels"
    format: str = "stablehlo"
    platforms: tuple[str, ...] | None = None
    dtype: str = "float32"
    weights: str = "float32"
    page: bool = False

    def __post_init__(self):
        sides = self.sides or ()
        if any(side < STRIDE or side % STRIDE for side in sides):
            h, w = sides
            near = "x".join(str(max(STRIDE, side + -side % STRIDE)) for side in sides)
            raise InputError(
                f"size is {h}x{w}; sides are multiples of {STRIDE}: use {near}, and pad photographs"
            )
        if self.answer == "alpha":
            raise InputError(
                "answer is alpha, which is made of scores after the network; export scores, or use "
                "massformer predict --write alpha"
            )
        if self.answer not in ANSWERS:
            raise InputError(f"answer is {self.answer!r}; use one of {', '.join(ANSWERS)}")
        if self.format not in FORMATS:
            raise InputError(f"format is {self.format!r}; use one of {', '.join(FORMATS)}")
        computation(self.dtype)
        if self.weights not in stored.DTYPES:
            raise InputError(f"weights are {self.weights!r}; use one of {', '.join(stored.DTYPES)}")
        if self.page and (self.format, self.answer) != ("onnx", "labels"):
            raise InputError("a page shows labels of a program of ONNX; use --format onnx")
        if self.format == "onnx":
            self._check_onnx()
        elif self.platforms is not None:
            self._check_platforms(self.platforms)
        if self.format == "mlir":
            self._check_mlir()

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of the images that a MaSSFormer takes; None if they are left open."""
        return None if self.size == "any" else self.size or SIZE

    def _check_onnx(self):
        if self.dtype != "float32":
            raise InputError(f"dtype is {self.dtype}; programs of ONNX compute in float32")
        if self.platforms is not None:
            raise InputError("a program of ONNX runs wherever ONNX does; leave out the platforms")

    def _check_mlir(self):
        if self.sides is None:
            raise InputError("a program of MLIR is of a fixed size; give its size, as HxW")
        if self.platforms is not None and len(self.platforms) > 1:
            raise InputError(f"platforms is {','.join(self.platforms)}; MLIR is for one of them")

    def _check_platforms(self, platforms):
        if not platforms:
            raise InputError(f"platforms is empty; use some of {', '.join(PLATFORMS)}")
        for name in platforms:
            if name not in PLATFORMS:
                raise InputError(
                    f"there is no platform {name!r}; use some of {', '.join(PLATFORMS)}"
                )
        if len(set(platforms)) < len(platforms):
            raise InputError(f"platforms is {','.join(platforms)}; name each once")


@dataclasses.dataclass(frozen=True)
class Part:
    """A function of a network that becomes a program.

    Attributes:
        call: from the weights by name, and the inputs in their order, to the output, or a tuple.
        inputs: shapes and dtypes by name; sides that are left open are expressions.
        outputs: their names.
    """

    call: Callable[..., Any]
    inputs: dict[str, jax.ShapeDtypeStruct]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program, and what it is called with.

    Attributes:
        serialized: the file.
        inputs: shapes and dtypes by name, of StableHLO after the weights; sides that are left open
            are expressions.
        outputs: shapes and dtypes by name.
        facts: what `export.json` says of a program of this format.
    """

    serialized: bytes
    inputs: dict[str, jax.ShapeDtypeStruct]
    outputs: dict[str, jax.ShapeDtypeStruct]
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Exported:
    """The programs of a network.

    Attributes:
        programs: by the names of their files, in the order in which they are called.
        weights: by name, as they are stored. Of StableHLO they are the first arguments of each
            program, in this order; of ONNX they are part of the programs.
    """

    programs: dict[str, Program]
    weights: dict[str, np.ndarray]
