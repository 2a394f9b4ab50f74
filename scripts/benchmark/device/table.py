"""Tables of what was measured on accelerators; `scripts.benchmark.table` puts them on the page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.benchmark.table_cells import conditions, gigabytes, seconds
from scripts.markdown import table

Record = Mapping[str, Any]
_NETWORKS = ("inference", "train", "train_remat")
_DTYPES = ("float32", "tf32", "float16", "bfloat16")
_CHECKS = {
    "check_products": "matrix products and convolutions of float32 arrays beside float64",
    "check_deform_conv": "deformable convolutions and their gradients beside float32 on the CPU",
    "check_train": "training step, loss terms and gradient norm beside the release's",
}


def device_tables(records: Sequence[Record], others: Sequence[Record]) -> str:
    """Returns all tables in Markdown.

    Args:
        records: results of `python -m scripts.benchmark.gpu` and `python -m scripts.benchmark.tpu`.
        others: results of `python -m scripts.benchmark`. Their times on a CPU are shown beside the
            times of the same work on an accelerator.
    """
    parts = []
    if agreements := [r for r in records if r.get("task") == "agreement"]:
        parts += ["## Agreement with the release\n", _agreement(agreements)]
    for kind in ("GPU", "TPU", "CPU"):
        parts += _of_kind(kind, [r for r in records if _kind(r) == kind], others)
    return "\n".join(parts)


def _kind(record: Record) -> str:
    # A stage whose own process does not use the device may fail without knowing the device.
    device = record.get("device", "")
    if device.startswith("TPU"):
        return "TPU"
    return "CPU" if device.endswith((" core", " cores")) else "GPU"


def _of_kind(kind: str, records: Iterable[Record], others: Sequence[Record]) -> list[str]:
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.get("task", "failed"), []).append(record)
    networks = [r for task in _NETWORKS for r in by_task.get(task, [])]
    layers = by_task.get("deform_conv", []) + by_task.get("torch_deform_conv", [])
    checks = [r for task in _CHECKS for r in by_task.get(task, [])]
    parts = []
    if networks:
        parts += [f"## On a {kind}\n", _networks(networks, others)]
    if "first_mask" in by_task:
        parts += ["### The first mask of a new process\n", _first_masks(by_task["first_mask"])]
    if layers:
        parts += [f"### Single deformable convolutions on a {kind}\n", _layers(layers)]
    if "rows" in by_task:
        parts += [f"### Single rows on a {kind}\n", _rows(by_task["rows"])]
    if checks:
        parts += [f"### Errors on a {kind}\n", _checks(checks)]
    if "failed" in by_task:
        lines = [f"- {r['measurement']}: {r['error']}" for r in by_task["failed"]]
        parts += [f"### Failed on a {kind}\n", "\n".join(lines) + "\n"]
    return parts


def _agreement(records: Iterable[Record]) -> str:
    rows: dict[tuple, dict[str, str]] = {}
    for record in sorted(records, key=lambda r: (r["device"], _DTYPES.index(r["dtype"]))):
        cells = rows.setdefault((record["dtype"], conditions(record)), {})
        cells[record["model"]] = f"{100 * record['equal']:.4f} %"
    models = ("massformer_r50", "massformer_r18_lite")
    return table(
        ("dtype", "R50, 512x768", "R18-Lite, 256x512", "measured on"),
        [(d, *(c.get(m, "") for m in models), where) for (d, where), c in rows.items()],
    )


def _networks(records: Sequence[Record], others: Sequence[Record]) -> str:
    # Only of TPUs are floors counted, with their compiler.
    counted = any("counted" in record for record in records)

    def row(r):
        same = ("task", "model", "size", "batch")
        cpu = [
            seconds(o["seconds"])
            for o in others
            if o["device"].endswith("cores") and all(o[key] == r[key] for key in same)
        ]
        return (
            *(r["task"], r["model"].removeprefix("massformer_"), r["size"], str(r["batch"])),
            *(r["dtype"], seconds(r["seconds"]), seconds(r["fastest"]), cpu[0] if cpu else ""),
            *([seconds(r["counted"]["floor"]) if "counted" in r else ""] * counted),
            *(gigabytes(r["temp_bytes"]), gigabytes(r["argument_bytes"])),
            *(f"{r['compile_seconds']:.0f} s", conditions(r)),
        )

    head = ("task", "model", "size", "batch", "dtype", "time", "fastest", "CPU, float32")
    head += ("counted at least",) * counted
    head += ("temporaries", "arguments", "compiled in", "measured on")
    order = sorted(records, key=lambda r: (r["task"], r["model"], _pixels(r), r["dtype"]))
    return table(head, map(row, order))


def _pixels(record: Record) -> int:
    height, width = record["size"].split("x")
    return int(height) * int(width)


def _first_masks(records: Iterable[Record]) -> str:
    def row(r):
        parts = ", ".join(f"{name} {s:.1f}" for name, s in r["parts"].items())
        peak = gigabytes(r["peak_bytes"]) if r["peak_bytes"] else ""
        cache = "full" if r["warm"] else "empty"
        model = r["model"].removeprefix("massformer_")
        return (
            *(cache, model, r["size"], r["dtype"], seconds(r["seconds"])),
            *(parts, peak, conditions(r)),
        )

    head = ("cache", "model", "size", "dtype", "time", "seconds for", "most memory", "measured on")
    return table(head, map(row, sorted(records, key=lambda r: r["warm"])))


def _layers(records: Iterable[Record]) -> str:
    def row(r):
        rows = r.get("rows", r["height"])
        whose = r.get("implementation", "ours").partition(" with ")[0]
        forward, both = r["forward"], r["gradient"]
        memory = gigabytes(both["temp_bytes"]) if "temp_bytes" in both else ""
        return (
            r["layer"] if rows == r["height"] else f"{r['layer']}, {rows} rows",
            f"{r['height']}x{r['width']}",
            *(f"{r['features_in']} → {r['features_out']}", whose, r["dtype"]),
            *(_median_and_fastest(forward), _median_and_fastest(both), memory, conditions(r)),
        )

    head = ("layer", "map", "channels", "by", "dtype", "forward", "with backward", "temporaries")
    order = sorted(records, key=lambda r: (r["layer"], r["task"], _DTYPES.index(r["dtype"])))
    return table((*head, "measured on"), map(row, order))


def _median_and_fastest(found: Record) -> str:
    fastest = f" ({seconds(found['fastest'])})" if "fastest" in found else ""
    return seconds(found["seconds"]) + fastest


def _checks(records: Iterable[Record]) -> str:
    """Returns a table with the largest error of each check; `checks.py` says relative to what."""

    def row(r):
        errors = r["errors"]
        if r["task"] == "check_products":
            errors = {kind: by_dtype[r["dtype"]] for kind, by_dtype in errors.items()}
        elif r["task"] == "check_deform_conv":
            errors = {f"{layer}, {of}": e for layer, o in errors.items() for of, e in o.items()}
        worst = max(errors, key=errors.get)
        found = f"{errors[worst]:.1e} ({worst})" + (", too large" if "error" in r else "")
        return _CHECKS[r["task"]], r["dtype"], found, conditions(r)

    return table(("what", "dtype", "largest relative error", "measured on"), map(row, records))


def _rows(records: Iterable[Record]) -> str:
    def row(r):
        row = f"{r['nanoseconds_per_row']} ns"
        return r["what"], f"{r['count']:,}", row, str(r["bundles"] or ""), conditions(r)

    head = ("what", "rows", "time per row", "bundles per row, counted for a v5e", "measured on")
    return table(head, map(row, records))
