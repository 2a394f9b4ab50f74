"""Writes the tables of docs/pods.md from the results in benchmarks/pods/.

    python -m scripts.pods.table

Each result is what `python -m scripts.pods` wrote. Text outside the two comments is kept.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scripts import ROOT
from scripts.markdown import table, write_tables
from scripts.pods.collectives import Collective, wire_seconds
from scripts.pods.programs import PROGRAMS, RESULTS

PAGE = ROOT / "docs/pods.md"
BEGIN = "<!-- From here on written by scripts/pods/table.py: change benchmarks/pods/ instead. -->"


class Chip(NamedTuple):
    """The published figures of one chip, from docs.cloud.google.com/tpu/docs/v5e, /v5p and /tpu7x.

    The page of 7x has those of v6e, too. A chip of 7x is two devices, which share its links; here
    are the figures of one device.
    """

    flops: float  # per second, in bfloat16
    memory: float  # bytes
    memory_bandwidth: float  # bytes per second
    links: float  # bytes per second in one direction; published is the sum of both
    # The clock is not published. It is the peak divided by the FLOPs that the matrix units do per
    # cycle, 2 · 128 · 128 each; v5e has four units, v5p eight. v6e and a device of 7x have units of
    # 256 · 256. Two are published, and four are assumed here: the compiler expects a product of
    # 8192x8192 matrices to do 369,000 (v6e) and 422,000 (7x) FLOPs per cycle, and two could do no
    # more than 262,144.
    clock: float


CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, 197e12 / (4 * 2 * 128 * 128)),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, 459e12 / (8 * 2 * 128 * 128)),
    "v6e": Chip(918e12, 32 * 2**30, 1638e9, 400e9, 918e12 / (4 * 2 * 256 * 256)),
    "tpu7x": Chip(2307e12 / 2, 96 * 2**30, 7380e9 / 2, 300e9, 2307e12 / 2 / (4 * 2 * 256 * 256)),
}
# Slices whose opposite sides are linked: whole pods of v5e and v6e, cubes of v5p and 7x. In other
# slices a ring through all chips uses two of the four links of each chip.
WRAPPED = {"v5e:16x16", "v6e:16x16", "v5p:4x4x4", "tpu7x:4x4x4"}
HOP_SECONDS = 1e-6  # assumed time from one chip to the next; small collectives take only latency


class Estimate(NamedTuple):
    """The estimated seconds of one run, each part by itself."""

    products: float  # matrix products and convolutions at the chip's peak
    memory: float  # traffic at the memory's bandwidth
    compiler: float  # the compiler's estimate, without collectives
    # Floors of what the compiler's estimate leaves out: one cycle for each bundle of instructions.
    gathers: float
    scatters: float  # and sorts
    others: float  # other kernels, and the program around the kernels
    waits: float  # for copies between memories, each of an assumed length
    links: float  # bytes of the collectives over the links
    latency: float  # hops of the collectives

    @property
    def core(self) -> float:
        """Returns the seconds of the chip's core, without waits."""
        return self.compiler + self.gathers + self.scatters + self.others

    @property
    def apart(self) -> float:
        """Returns the seconds if nothing overlaps."""
        computed = max(self.core + self.waits, self.products, self.memory)
        return computed + self.links + self.latency

    @property
    def together(self) -> float:
        """Returns the seconds if waits and collectives overlap with computation if they can."""
        return max(self.core, self.products, self.memory, self.links + self.latency)


def main() -> None:
    """Writes the page."""
    write_tables(PAGE, BEGIN, tables(load()))


def load() -> dict[str, dict[str, Any]]:
    """Returns the results by name, in the order of PROGRAMS."""
    paths = {name: RESULTS / f"{name}.json" for name in PROGRAMS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def chip_of(topology: str) -> Chip:
    """Returns the kind of chip that a slice consists of."""
    return CHIPS[topology.split(":")[0]]


def estimate(record: Mapping[str, Any], topology: str | None = None) -> Estimate:
    """Estimates the seconds of a run.

    Every collective is counted as if all devices took part in it. What was not counted is zero.

    Args:
        record: a result.
        topology: another slice, whose chips do the same; by default the slice that the program was
            compiled for.
    """
    topology = topology or record["topology"]
    chip, devices = chip_of(topology), devices_in(topology)
    found = [Collective(x["kind"], x["bytes"], devices, 1, "", "") for x in record["collectives"]]
    found = found if devices > 1 else []
    links = chip.links if topology in WRAPPED else chip.links / 2
    count = sum(x["count"] for x in record["collectives"])
    counted = record["counted"] or {}

    def floor(*kinds: str) -> float:
        return sum(counted[kind]["bundles"] for kind in kinds if kind in counted) / chip.clock

    return Estimate(
        record["flops"] / math.prod(record["mesh"].values()) / chip.flops,
        record["hbm_bytes"] / chip.memory_bandwidth,
        record["cycles"] / chip.clock,
        floor("gathers"),
        floor("scatters", "sorts"),
        floor("others", "program"),
        sum(one["stalls"] for one in counted.values()) / chip.clock,
        wire_seconds(found, links),
        count * 2 * diameter(topology) * HOP_SECONDS,
    )


def devices_in(topology: str) -> int:
    """Returns how many devices a slice has: two for each chip of 7x, otherwise one."""
    return math.prod(_sides(topology)) * (2 if topology.startswith("tpu7x:") else 1)


def diameter(topology: str) -> int:
    """Returns the hops between the two chips that lie farthest apart."""
    return sum(side // 2 if topology in WRAPPED else side - 1 for side in _sides(topology))


def _sides(topology: str) -> list[int]:
    return [int(side) for side in topology.split(":")[1].split("x")]


def chip_bytes(record: Mapping[str, Any]) -> int:
    """Returns the bytes that the program takes of one chip's memory."""
    parts = record["memory"]
    return sum(parts.values()) - 2 * parts["aliased"]


def tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns tables in Markdown: what was compiled, its times, and weak scaling."""
    rows = [_memory_row(record) for record in records.values()]
    times = [_time_row(record) for record in records.values() if record["cycles"] is not None]
    conditions = sorted({_conditions(record) for record in records.values()})
    return "\n".join(
        [
            table(_MEMORY_HEAD, rows),
            *(_legend(record) for record in list(records.values())[:1]),
            table(_TIME_HEAD, times),
            *_scaling(records),
            "Compiled with " + "; ".join(conditions) + ".",
            "",
        ]
    )


_MEMORY_HEAD = (
    "program", "slice", "mesh", "memory per chip", "arguments", "temporaries", "code",
    "GFLOP per chip", "memory traffic", "collectives per chip",
)  # fmt: skip
_TIME_HEAD = (
    "program", "slice", "products", "memory", "compiler (estimate)", "gathers (floor)",
    "scatters and sorts (floor)", "others (floor)", "sum of these four", "waits", "links",
    "latency", "nothing overlaps", "all overlaps",
)  # fmt: skip


def _name(record: Mapping[str, Any]) -> str:
    model = record["model"].removeprefix("massformer_")
    name = f"{record['task']}, {model}, {record['size']}, batch {record['batch']}"
    return name if record["dtype"] == "bfloat16" else f"{name}, {record['dtype']}"


def _memory_row(record: Mapping[str, Any]) -> Sequence[str]:
    parts = record["memory"]
    chip = chip_of(record["topology"])
    mesh = ", ".join(f"{name} {size}" for name, size in record["mesh"].items() if size > 1)
    found = record["collectives"]
    collectives = ", ".join(f"{x['count']} {x['kind']} {_size(x['bytes'])}" for x in found or ())
    return (
        _name(record),
        record["topology"],
        mesh or "one chip",
        f"{_size(chip_bytes(record))} of {_size(chip.memory)}",
        _size(parts["arguments"]),
        _size(parts["temporaries"]),
        _size(parts["code"]),
        f"{record['flops'] / math.prod(record['mesh'].values()) / 1e9:,.0f}",
        "unreadable" if found is None else _size(record["hbm_bytes"]),
        "unreadable" if found is None else collectives or "none",
    )


def _legend(record: Mapping[str, Any]) -> str:
    return (
        "The compiler's column is the sum of its own estimates. Floors are one cycle for each "
        "bundle of instructions in the final programs of what it does not estimate: gathers; "
        "scatters and sorts; others, which are some changes of layout and the program around all "
        "these. What depends on data counts once. Waits are those for copies between memories, how "
        f"many there are, and their time if a copy takes {record['copy_cycles']:,} cycles, which "
        "is an assumption.\n"
    )


def _time_row(record: Mapping[str, Any]) -> Sequence[str]:
    times = estimate(record)
    floors = times.gathers, times.scatters, times.others, times.core
    counted = record["counted"]
    if counted is None:
        cells = ["not counted"] * 5
    else:
        waits = sum(one["waits"] for one in counted.values())
        cells = [*map(_milliseconds, floors), f"{waits:,}: {_milliseconds(times.waits)}"]
    return (
        _name(record),
        record["topology"],
        *map(_milliseconds, (times.products, times.memory, times.compiler)),
        *cells,
        *map(_milliseconds, (times.links, times.latency, times.apart, times.together)),
    )


def _scaling(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines that show the weak scaling of training on v5e, with one crop per chip."""
    largest = records.get("train_v5e_256")
    if largest is None or largest["counted"] is None:
        return []
    rows = []
    alone = estimate(largest, "v5e:1x1")
    for sides in (1, 2, 4, 8, 16):
        topology, chips = f"v5e:{sides}x{sides}", sides * sides
        record = records.get(f"train_v5e_{chips}") if chips > 1 else None
        times = estimate(record or largest, topology)
        cells = [f"{chips}", topology, "this slice" if record else "16x16"]
        cells += map(_milliseconds, times[2:])  # from the compiler's estimate to the latency
        cells += [_milliseconds(times.apart), f"{chips / times.apart:,.1f}"]
        shares = alone.apart / times.apart, alone.together / times.together
        cells += [f"{100 * share:.1f} %" for share in shares]
        rows.append(cells)
    head = (
        "chips", "slice", "compiled for", "compiler (estimate)", "gathers (floor)",
        "scatters and sorts (floor)", "others (floor)", "waits", "links", "latency", "step",
        "images per second", "efficiency", "if all overlaps",
    )  # fmt: skip
    return [
        "### Weak scaling: one crop of 1024x1024 per chip\n",
        table(head, rows),
        _arithmetic(largest),
    ]


def _arithmetic(record: Mapping[str, Any]) -> str:
    times, chip = estimate(record), chip_of(record["topology"])
    (reduced,) = record["collectives"]
    counted = record["counted"].values()
    bundles, stalls = (sum(one[x] for one in counted) / 1e6 for x in ("bundles", "stalls"))
    return (
        f"For 256 chips: ({record['cycles'] / 1e6:,.1f} million cycles + {bundles:,.1f} million "
        f"bundles + {stalls:,.1f} million cycles of waits) / {chip.clock / 1e9:.3f} GHz "
        f"= {_milliseconds(times.core + times.waits)}; "
        f"2 · 255/256 · {_size(reduced['bytes'])} / {chip.links / 1e9:.0f} GB/s "
        f"= {_milliseconds(times.links)}; "
        f"{reduced['count']} collectives · 2 · {diameter(record['topology'])} hops · 1 µs "
        f"= {_milliseconds(times.latency)}; together {_milliseconds(times.apart)}.\n"
    )


def _conditions(record: Mapping[str, Any]) -> str:
    versions = record["versions"]
    return (
        f"jax {versions['jax']}, libtpu {versions['libtpu']}, {record['dtype']}, {record['date']}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"


def _size(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return (
                f"{count / scale:,.2f} {unit}" if unit == "GB" else f"{count / scale:,.1f} {unit}"
            )
    return f"{count:.0f} B"


if __name__ == "__main__":
    main()
