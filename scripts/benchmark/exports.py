"""Measures exported programs beside inference in this package, for docs/export.md.

    python -m scripts.benchmark.exports --checkpoint RUN --output FOLDER [--sizes 512x512 1024x1024]

Each program is run in a process of its own on one core, which has the image, the program and its
library and nothing else. Measured are the CPU seconds that it takes to open the program, for the
first call, and for the fastest later one, which other work on the machine changes little; and the
largest memory that the process ever had. Labels are compared with those of `Segmenter.predict`.
FOLDER keeps the programs and what was measured, so that a run that was interrupted goes on.

Two ways are left out unless `--ways` names them. IREE needs its compiler and its runtime. The page
runs in Chromium and needs onnxruntime-web's files, in the folder that ONNXRUNTIME_WEB names; the
clock tells its time, of reading the picture and saving the mask, too, and its memory is not
measured. It makes pictures smaller whose longer side is more than 1024.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from scripts.arguments import parse_count, parse_size
from scripts.benchmark.export_page import of_page
from scripts.markdown import table

# How the program is made, if it is exported: its format, its size, and other flags.
WAYS = {
    "Segmenter.predict": None,
    "StableHLO": ("stablehlo", "fixed"),
    "StableHLO, any": ("stablehlo", "any"),
    "StableHLO, int8": ("stablehlo", "fixed", "--weights", "int8"),
    "ONNX": ("onnx", "fixed"),
    "ONNX, any": ("onnx", "any"),
    "ONNX, any, float16": ("onnx", "any", "--weights", "float16"),
    "ONNX, any, int8": ("onnx", "any", "--weights", "int8"),
    "IREE": ("mlir", "fixed"),
    "page": ("onnx", "any", "--weights", "int8", "--page"),
}
_USUAL = [way for way in WAYS if way not in ("IREE", "page")]
_LIBRARIES = ("jax", "onnx", "onnxruntime")


def picture(size: tuple[int, int]) -> np.ndarray:
    """Returns a rendered scene, uint8 [rows, columns, 3]."""
    from massformer_jax.data.sample.scenes import render_scene

    return render_scene(np.random.default_rng(1), *size, water=True)[0]


def export(
    folder: pathlib.Path, checkpoint: str, form: str, size: str, flags: Sequence[str]
) -> pathlib.Path:
    """Returns the folder of an exported program, and writes it if it is not there."""
    output = folder / "_".join([form, size, *(flag.strip("-") for flag in flags)])
    if not output.exists():
        command = [sys.executable, "-m", "massformer_jax.export", "--checkpoint", checkpoint]
        command += ["--output", str(output), "--format", form, "--size", size]
        command += ["--platforms", "cpu"] if form == "stablehlo" else []
        command += flags
        subprocess.run(command, check=True)
    return output


def of_segmenter(checkpoint: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns inference in this package."""
    from massformer_jax import Segmenter

    return Segmenter.load(checkpoint).predict


def of_stablehlo(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a program of StableHLO."""
    import jax
    from jax import export
    from safetensors.numpy import load_file

    data = (pathlib.Path(folder) / "model.stablehlo").read_bytes()
    answer = jax.jit(export.deserialize(bytearray(data)).call)
    weights = jax.device_put(load_file(pathlib.Path(folder) / "weights.safetensors"))
    return lambda image: np.asarray(answer(weights, image[None]))[0]


def of_onnx(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a program of ONNX."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.intra_op_num_threads = 1
    file = pathlib.Path(folder) / "model.onnx"
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image[None]})[0][0]


def of_mlir(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a program that IREE compiles, which may take minutes."""
    import iree.compiler
    import iree.runtime
    from safetensors.numpy import load_file

    files = {name: pathlib.Path(folder) / f"model.{name}" for name in ("mlir", "vmfb")}
    if not files["vmfb"].exists():
        flags = ["--iree-hal-target-device=local"]
        flags += ["--iree-hal-local-target-device-backends=llvm-cpu"]
        flags += ["--iree-llvmcpu-target-cpu=host"]
        source, output = (str(file) for file in files.values())
        iree.compiler.compile_file(source, output_file=output, input_type="auto", extra_args=flags)
    module = iree.runtime.load_vm_flatbuffer_file(files["vmfb"], driver="local-sync")
    weights = load_file(pathlib.Path(folder) / "weights.safetensors")
    sorted_weights = [weights[name] for name in sorted(weights)]
    return lambda image: module.main(*sorted_weights, image[None]).to_host()[0]


def measure(kind: str, source: str, image: pathlib.Path, labels: pathlib.Path, runs: int) -> None:
    """Measures one program in this process, and prints what it found as JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pixels = np.load(image)
    makers = {"segmenter": of_segmenter, "stablehlo": of_stablehlo, "onnx": of_onnx}
    makers |= {"mlir": of_mlir, "page": of_page}
    # The browser is other processes.
    clock = time.perf_counter if kind == "page" else time.process_time
    begin = clock()
    run = makers[kind](source)
    times = [clock() - begin]
    for _ in range(1 + runs):
        begin = clock()
        found = run(pixels)
        times.append(clock() - begin)
    np.save(labels, found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if kind != "page" else None
    later = min(times[2:], default=None)
    print(json.dumps({"open": times[0], "first": times[1], "later": later, "peak": peak}))


def measured(folder: pathlib.Path, checkpoint: str, way: str, size: tuple[int, int], runs: int):
    """Returns what a process of its own measures of one program at one size."""
    text = "x".join(map(str, size))
    image, labels = folder / f"image_{text}.npy", folder / f"{way}_{text}.npy"
    if not image.exists():
        np.save(image, picture(size))
    found = {}
    kind, source = "segmenter", checkpoint
    if WAYS[way]:
        kind, sides, *flags = WAYS[way]
        exported = export(folder, checkpoint, kind, text if sides == "fixed" else "any", flags)
        source = str(exported)
        kind = "page" if way == "page" else kind
        files = [exported / name for name in ("model." + WAYS[way][0], "weights.safetensors")]
        found["bytes"] = sum(path.stat().st_size for path in files if path.exists())
    command = [sys.executable, "-m", "scripts.benchmark.exports", "--one", kind, source]
    command += [str(image), str(labels), str(runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found |= json.loads(done.stdout.splitlines()[-1])
    wanted = folder / f"Segmenter.predict_{text}.npy"
    if wanted.exists():
        found["agree"] = float((np.load(labels) == np.load(wanted)).mean())
    return found


def rows(results: dict[str, dict], sizes: list[str]) -> str:
    """Returns the table of the page."""
    head = ["size", "", "files", "memory", "opens in", "first call", "later", "labels that agree"]
    lines = []
    for size in sizes:
        for way in WAYS:
            if (found := results.get(f"{way} {size}")) is None:
                continue
            files = f"{found['bytes'] / 1e6:.1f} MB" if "bytes" in found else ""
            seconds = [
                "" if found[key] is None else f"{found[key]:.2f} s"
                for key in ("open", "first", "later")
            ]
            agree = f"{100 * found['agree']:.4f} %" if "agree" in found else ""
            memory = "" if found["peak"] is None else f"{found['peak'] / 1e9:.2f} GB"
            lines.append([size, way, files, memory, *seconds, agree])
    return table(head, lines)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument(
        "--sizes", type=parse_size, nargs="+", default=[(512, 512), (1024, 1024), (3072, 4096)]
    )
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=_USUAL, help="which of them")
    parser.add_argument("--runs", type=parse_count, default=3, help="calls after the first")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, source, image, labels, runs = args.one
        measure(kind, source, pathlib.Path(image), pathlib.Path(labels), int(runs))
        return
    if not args.checkpoint or not args.output:
        parser.error("--checkpoint and --output are needed")
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for size in args.sizes:
        text = "x".join(map(str, size))
        # Of a large image, most of the first call is not what happens only once.
        runs = args.runs if size[0] * size[1] < 1 << 22 else 0
        for way in args.ways:
            if f"{way} {text}" not in results:
                found = measured(args.output, args.checkpoint, way, size, runs)
                results[f"{way} {text}"] = found
                kept.write_text(json.dumps(results, indent=1))
                print(way, text, found, flush=True)
    print(rows(results, ["x".join(map(str, size)) for size in args.sizes]))
    print({name: importlib.metadata.version(name) for name in _LIBRARIES})


if __name__ == "__main__":
    main()
