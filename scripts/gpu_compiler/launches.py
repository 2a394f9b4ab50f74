"""A count of what a compiled program launches on a GPU: kernels, copies, library calls."""

import re
from collections import Counter
from typing import NamedTuple

from scripts.program_text import COLLECTIVES, called, computations_of, parse, trips

# These name arrays, or wait for what was started before, and launch nothing.
_FREE = {
    "", "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all",
    "partition-id", "replica-id", "optimization-barrier", "add-dependency", "opt-barrier",
}  # fmt: skip
_INSIDE = {"while", "conditional", "call", "async-start"}
_LIBRARIES = (
    ("__cudnn$conv", "convolution"),
    ("__cublas$", "product"),
    ("__gpu$xla.gpu.triton", "pallas"),
)
_FUSION = re.compile(r'"fusion_backend_config":\{"kind":"([^"]*)"')


class Launches(NamedTuple):
    """The launches of a program by kind: convolution, product, pallas, fusion, copy and others."""

    kernels: Counter  # in the program's text
    launches: Counter  # in one run; bodies of loops count as often as they run
    open_loops: int  # their end depends on the data; their bodies count once


def count_launches(text: str) -> Launches:
    """Counts the launches of the entry computation and of all that it calls.

    Of several branches, the one with the most launches counts. The text does not show what a
    library launches within one call, such as changes of layout around a convolution.
    """
    computations, entry = computations_of(text)

    def inside(name: str) -> Launches:
        kernels, launches, open_loops = Counter(), Counter(), 0
        for line in computations[name]:
            _, _, operation, _, rest = parse(line)
            if operation in _INSIDE:
                turns = trips(rest, computations) if operation == "while" else 1
                inner = _called(operation, rest, turns, computations)
                parts = [inside(x) for x in inner]
                if operation == "conditional":
                    parts = [max(parts, key=lambda part: part.launches.total())]
                for part in parts:
                    kernels += part.kernels
                    for kind, number in part.launches.items():
                        launches[kind] += (turns or 1) * number
                    open_loops += part.open_loops
                open_loops += turns is None
            elif kind := _kind(operation, rest):
                kernels[kind] += 1
                launches[kind] += 1
        return Launches(kernels, launches, open_loops)

    return inside(entry)


def _called(operation, rest, turns, computations):
    """Returns the computations that run; a loop with a known number of turns has no condition."""
    names = [name for name in called(rest) if name in computations]
    if operation == "while" and turns is not None:
        return [re.search(r"body=%?([\w.\-]+)", rest)[1]]
    return names


def _kind(operation: str, rest: str) -> str | None:
    """Returns the kind of what an instruction launches, or None if it launches nothing."""
    if operation in _FREE or operation.endswith(("-done", "-update")):
        return None
    operation = operation.removesuffix("-start")
    if operation in COLLECTIVES:
        return operation
    if operation == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', rest)[1]
        for beginning, kind in _LIBRARIES:
            if target.startswith(beginning):
                return kind
        return target
    if operation == "fusion":
        found = _FUSION.search(rest)
        if found and "gemm" in found[1]:
            return "product"
    return operation
