"""Times of one row that is gathered or added, and of one sort: what the layers consist of.

The compiler tells how many bundles of instructions a row takes, but not how long the memory lets
them wait. So a time beside the count says what the layers wait for.

Each program repeats its work in a loop. It is run with few and with many turns: the difference is
what the turns take, without the start of the program and what comes before its loop.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.run import run_seconds
from scripts.pods.table import CHIPS

RUNS, SECONDS = 10, 1.0
FEW, MANY = 2, 16  # turns
GATHERED = 65536  # rows in one gather: what a chunk of positions takes


class Gather(NamedTuple):
    """Rows that are gathered from random places of a map."""

    dtype: str
    channels: int
    map_rows: int
    bundles: float | None = None  # of a row, see `plan.py`

    @property
    def name(self) -> str:
        """Returns what the measurement is called."""
        return f"gather_{self.dtype}_{self.channels}_of_{self.map_rows}"

    @property
    def count(self) -> int:
        """Returns how many rows a turn gathers."""
        return min(GATHERED, 4 * self.map_rows)

    def arguments(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Returns the map, and the places of each turn."""
        values = jnp.zeros((self.map_rows, self.channels), self.dtype)
        return values, rng.integers(0, self.map_rows, (MANY, self.count), np.int32)

    def run(self, turns: jax.Array, values: jax.Array, places: jax.Array) -> jax.Array:
        """Gathers in each turn, and keeps one of the rows."""

        def turn(i, kept):
            rows = values.at[places[i]].get(mode="promise_in_bounds")
            # The barrier keeps the compiler from gathering that row alone.
            return kept + lax.optimization_barrier(rows)[0]

        return lax.fori_loop(0, turns, turn, jnp.zeros(self.channels, self.dtype))


class Scatter(NamedTuple):
    """Rows of float32 numbers that are added at random places of a map."""

    channels: int
    map_rows: int
    count: int  # of rows in one turn
    bundles: float | None = None  # of a row, see `plan.py`

    @property
    def name(self) -> str:
        """Returns what the measurement is called."""
        return f"scatter_{self.channels}_of_{self.count}"

    def arguments(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Returns the rows, and the places of each turn."""
        rows = rng.standard_normal((self.count, self.channels), np.float32)
        return rows, rng.integers(0, self.map_rows, (MANY, self.count), np.int32)

    def run(self, turns: jax.Array, rows: jax.Array, places: jax.Array) -> jax.Array:
        """Adds the rows in each turn."""

        def turn(i, total):
            return total.at[places[i]].add(rows, mode="promise_in_bounds")

        return lax.fori_loop(0, turns, turn, jnp.zeros((self.map_rows, self.channels)))


class Sort(NamedTuple):
    """Places that are sorted, as they are before many rows are added."""

    count: int
    bundles: float | None = None  # of a place, see `plan.py`

    @property
    def name(self) -> str:
        """Returns what the measurement is called."""
        return f"sort_of_{self.count}"

    def arguments(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Returns the places of each turn."""
        return (rng.integers(0, 2**18, (MANY, self.count), np.int32),)

    def run(self, turns: jax.Array, places: jax.Array) -> jax.Array:
        """Sorts in each turn, together with the numbers that the places had."""

        def turn(i, total):
            numbers = jnp.arange(self.count, dtype=jnp.int32)
            _, numbers = lax.optimization_barrier(lax.sort((places[i], numbers), num_keys=1))
            return total + numbers[0]

        return lax.fori_loop(0, turns, turn, jnp.int32(0))


def measurement(what: Gather | Scatter | Sort) -> Measurement:
    """Returns the measurement of the time of one row."""
    return Measurement(f"rows_{what.name}", functools.partial(_prepare, what))


def program(what: Gather | Scatter | Sort, sharding: jax.sharding.Sharding) -> jax.stages.Compiled:
    """Returns the compiled program: it takes the number of turns, and then the arguments."""
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, _arguments(what)))
    like = (jax.ShapeDtypeStruct((), jnp.int32), *like)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
    return jax.jit(what.run).lower(*like).compile()


def _prepare(what: Gather | Scatter | Sort) -> Callable[[], dict[str, Any]]:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    compiled = program(what, device)

    def run():
        values = jax.device_put(_arguments(what), device)

        def seconds(turns):
            turns = jax.device_put(np.int32(turns), device)
            times = run_seconds(
                lambda: jax.block_until_ready(compiled(turns, *values)), RUNS, SECONDS
            )
            return min(times)

        turn = (seconds(MANY) - seconds(FEW)) / (MANY - FEW)
        row = 1e9 * turn / what.count
        result = {
            **{"task": "rows", "what": what.name, **what._asdict(), "count": what.count},
            **{"seconds": turn, "nanoseconds_per_row": float(f"{row:.4g}")},
            "summary": f"{row:.2f} ns per row, {1e3 / row:.1f} rows per µs",
        }
        if what.bundles:
            floor = 1e9 * what.bundles / CHIPS["v5e"].clock
            result["summary"] += f"; counted for a v5e: {floor:.2f} ns per row at the least"
        if turn <= 0:
            result["error"] = "more turns took less time: something else runs here"
        return result

    return run


def _arguments(what: Gather | Scatter | Sort) -> tuple[Any, ...]:
    return what.arguments(np.random.default_rng(0))
