"""Writes the tables of docs/performance.md from the results in benchmarks/.

    python scripts/benchmark_table.py

Each result is what `benchmark.py --json` printed. Text outside of the two comments is kept.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
BEGIN = "<!-- From here on written by scripts/benchmark_table.py: change benchmarks/ instead. -->"
END = "<!-- Up to here. -->"


def main() -> None:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + "\n\n" + tables(load()) + "\n" + END + after)


def load() -> list[dict[str, Any]]:
    """The results, networks before layers, small before large."""
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks").glob("*.json"))]
    return sorted(found, key=lambda r: (r["task"], r["model"] != "massformer_r50", _pixels(r)))


def _pixels(record: Mapping[str, Any]) -> int:
    height, width = record["size"].split("x")
    return record["batch"] * int(height) * int(width)


def tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one table of networks, one for each comparison of layers."""
    networks = [record for record in records if "layers" not in record]
    parts = ["## The network\n", _table(_NETWORK_HEAD, map(_network_row, networks))]
    for record in records:
        if "layers" in record:
            parts.append("\n## Deformable convolutions of `{model}` at {size}\n".format(**record))
            pytorch = next(
                (" PyTorch: " + layer["pytorch"]["implementation"] + "."
                 for layer in record["layers"] if "pytorch" in layer), "")  # fmt: skip
            parts.append(f"{_conditions(record)}.{pytorch}\n")
            parts.append(_table(_LAYER_HEAD, map(_layer_row, record["layers"])))
    return "\n".join(parts)


_NETWORK_HEAD = (
    "task", "model", "size", "batch", "dtype", "time", "temporaries", "GFLOP", "measured on",
)  # fmt: skip
_LAYER_HEAD = (
    "layer", "map", "channels", "forward", "PyTorch", "with backward", "PyTorch",
    "temporaries",
)  # fmt: skip


def _network_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        record["task"],
        record["model"].removeprefix("massformer_"),
        record["size"],
        str(record["batch"]),
        record["dtype"],
        _seconds(record["seconds"]),
        _gigabytes(record["temp_bytes"]),
        f"{record['flops'] / 1e9:,.0f}",
        _conditions(record),
    )


def _layer_row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    ours, pytorch = layer["ours"], layer.get("pytorch")
    cells = [
        layer["layer"],
        f"{layer['height']}x{layer['width']}",
        f"{layer['features_in']} → {layer['features_out']}",
    ]
    for part in ("forward", "gradient"):
        cells.append(_seconds(ours[part]["seconds"]))
        cells.append(_seconds(pytorch[part]["seconds"]) if pytorch else "")
    return (*cells, _gigabytes(ours["gradient"]["temp_bytes"]))


def _conditions(record: Mapping[str, Any]) -> str:
    device, versions = record["device"], record["versions"]
    if record["topology"]:
        device = f"{record['topology']} ({device}), compiled only, libtpu {versions['libtpu']}"
    return f"{device}; jax {versions['jax']}, {record['date']}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "not run"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
