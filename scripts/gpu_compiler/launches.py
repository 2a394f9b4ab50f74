"""What a compiled program launches on a GPU, read from its text: kernels, copies, library calls."""

import re
from collections import Counter
from typing import NamedTuple

from scripts.program_text import COLLECTIVES, called, computations_of, parse, trips

# They name arrays, or wait for what was started before, and launch nothing.
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
    """What one program launches by kind: convolution, product, pallas, fusion, copy, and others."""

    kernels: Counter  # as written
    launches: Counter  # in one run: bodies of loops as often as they turn
    open_loops: int  # which end when their data says so; their bodies are counted once


def count_launches(text: str) -> Launches:
    """Adds up the entry computation and all that it calls; of branches, the longest.

    What a library launches within one call, such as changes of layout around a convolution, does
    not show.
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
    """Returns the computations that run: a counted loop does not ask its condition."""
    names = [name for name in called(rest) if name in computations]
    if operation == "while" and turns is not None:
        return [re.search(r"body=%?([\w.\-]+)", rest)[1]]
    return names


def _kind(operation: str, rest: str) -> str | None:
    """Returns what an instruction launches; None for nothing."""
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
