"""Compiles functions and times them."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from massformer_jax.errors import InputError
from massformer_jax.models.flops import count_flops
from scripts.benchmark.values import make_values


def measure(
    function: Callable, arguments: Sequence[Any], *, runs: int, donated: int | None = None
) -> dict[str, Any]:
    """Compiles `function` for `arguments` without values, and runs it with made-up values.

    Args:
        function: a jitted function.
        arguments: trees of ShapeDtypeStructs with shardings.
        runs: the number of timed runs, after one run that is not timed; 0 only compiles.
        donated: the index of the argument that is used up and replaced by the first result, if any.

    Returns:
        A dictionary with `seconds` (the median, or None if nothing was run), `compile_seconds`
        (including tracing), `temp_bytes` and `argument_bytes` of one device, and `flops` of all
        devices (see `massformer_jax.models.flops`).

    Raises:
        InputError: the program does not fit into the device's memory.
    """
    program = compile_program(function, arguments)
    times = time_program(program, arguments, runs=runs, donated=donated)[0] if runs else []
    return {"seconds": median(times), **program.report}


class Program(NamedTuple):
    """A compiled function and what the compiler says of it."""

    compiled: Callable
    report: dict[str, Any]  # compile_seconds, temp_bytes, argument_bytes, flops: see `measure`


def compile_program(function: Callable, arguments: Sequence[Any]) -> Program:
    """Compiles a jitted function for arguments without values.

    Raises:
        InputError: the program does not fit into the device's memory.
    """
    start = time.perf_counter()
    traced = function.trace(*arguments)
    with out_of_memory_in_one_line():
        compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    report = {
        "compile_seconds": round(seconds, 2),
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "flops": count_flops(traced.jaxpr),
    }
    return Program(compiled, report)


def time_program(
    program: Program,
    arguments: Sequence[Any],
    *,
    runs: int,
    within: float = float("inf"),
    donated: int | None = None,
) -> tuple[list[float], Any]:
    """Returns the seconds of each run with made-up values, see `run_seconds`, and the last result.

    Arguments and results stay on the device.

    Raises:
        InputError: the program does not fit into the device's memory.
    """
    values = [make_values(tree) for tree in arguments]
    result = None

    def run():
        nonlocal result
        result = None  # so that there are never two of them
        result = jax.block_until_ready(program.compiled(*values))
        if donated is not None:
            values[donated] = result[0]

    with out_of_memory_in_one_line():
        return run_seconds(run, runs, within), result


@contextlib.contextmanager
def out_of_memory_in_one_line():
    """Turns the compiler's error about memory into an InputError with one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise
        raise InputError(f"the device has too little memory: {reason}") from error


def run_seconds(run: Callable[[], None], runs: int, within: float = float("inf")) -> list[float]:
    """Returns the seconds of each of `runs` calls; one call before them does not count.

    There are fewer calls, but at least three, if all would take longer than `within` seconds.
    """
    run()
    times = []
    while len(times) < runs and (len(times) < 3 or sum(times) < within):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def median(times: Sequence[float]) -> float | None:
    """Returns the median with four digits, or None if there are no times."""
    return _four_digits(statistics.median(times)) if times else None


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Returns the median and the smallest of the times in seconds, and their number."""
    return {"seconds": median(times), "fastest": _four_digits(min(times)), "runs": len(times)}


def _four_digits(seconds: float) -> float:
    return float(f"{seconds:.4g}")
