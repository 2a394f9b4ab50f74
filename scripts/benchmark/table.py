"""Writes the tables of docs/performance.md from the results in benchmarks/.

    python -m scripts.benchmark.table

Each result is what `python -m scripts.benchmark --json` printed, or what
`python -m scripts.benchmark.gpu` or `.tpu` wrote. Text outside the two comments is kept.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scripts import ROOT
from scripts.benchmark.device.table import device_tables
from scripts.benchmark.table_cells import conditions, gigabytes, seconds
from scripts.markdown import table, write_tables

PAGE = ROOT / "docs/performance.md"
BEGIN = "<!-- From here on written by scripts/benchmark/table.py: change benchmarks/ instead. -->"


def main() -> None:
    """Writes the page."""
    write_tables(PAGE, BEGIN, tables(load()))


def load() -> list[dict[str, Any]]:
    """Returns all results: networks before layers, small before large, accelerators last."""
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks").glob("*.json"))]
    plain = [record for record in found if "measurement" not in record]
    plain.sort(key=lambda r: (r["task"], r["model"] != "massformer_r50", _pixels(r)))
    return plain + [record for record in found if "measurement" in record]


def _pixels(record: Mapping[str, Any]) -> int:
    height, width = record["size"].split("x")
    return record["batch"] * int(height) * int(width)


def tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns tables in Markdown: networks, each comparison of layers, and accelerators."""
    on_devices = [record for record in records if "measurement" in record]
    records = [record for record in records if "measurement" not in record]
    networks = [record for record in records if "layers" not in record]
    parts = ["## The network\n", table(_NETWORK_HEAD, map(_network_row, networks))]
    for record in records:
        if "layers" in record:
            parts.append("\n## Deformable convolutions of `{model}` at {size}\n".format(**record))
            pytorch = next(
                (" PyTorch: " + layer["pytorch"]["implementation"] + "."
                 for layer in record["layers"] if "pytorch" in layer), "")  # fmt: skip
            parts.append(f"{conditions(record)}.{pytorch}\n")
            parts.append(table(_LAYER_HEAD, map(_layer_row, record["layers"])))
    if on_devices:
        parts.append("\n" + device_tables(on_devices, networks))
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
        seconds(record["seconds"]),
        gigabytes(record["temp_bytes"]),
        f"{record['flops'] / 1e9:,.0f}",
        conditions(record),
    )


def _layer_row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    ours, pytorch = layer["ours"], layer.get("pytorch")
    cells = [
        layer["layer"],
        f"{layer['height']}x{layer['width']}",
        f"{layer['features_in']} → {layer['features_out']}",
    ]
    for part in ("forward", "gradient"):
        cells.append(seconds(ours[part]["seconds"]))
        cells.append(seconds(pytorch[part]["seconds"]) if pytorch else "")
    return (*cells, gigabytes(ours["gradient"]["temp_bytes"]))


if __name__ == "__main__":
    main()
