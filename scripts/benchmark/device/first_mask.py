"""Measures how long the first mask of a new process takes, with and without kept programs.

    python -m scripts.benchmark.device.first_mask MODEL HxW DTYPE BEGIN

prints one JSON object: the seconds from BEGIN (when the process was started, in seconds since 1970)
until the mask is in the host's memory, and the seconds of each part. Weights and photograph are
made up. Compiled programs are kept in the folder JAX_COMPILATION_CACHE_DIR. The stage `first_mask`
runs the command, for GPUs twice: the second time, all programs are already compiled.
"""

import functools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from scripts import ROOT
from scripts.arguments import parse_size
from scripts.bare_machine import replace_jaxtyping
from scripts.benchmark.device.measurement import Measurement


def first_mask(
    name: str,
    small: bool,
    environment: Mapping[str, str],
    cache: pathlib.Path,
    deadline: float,
) -> Measurement:
    """Returns a measurement of R50 on 12 megapixels, or of something tiny.

    Its result says by `warm` whether the programs were there already.

    Args:
        name: of the measurement.
        small: whether a tiny network is to run on a tiny photograph.
        environment: of the process.
        cache: the folder for compiled programs.
        deadline: when the process must have ended, in seconds since 1970.
    """
    what = ("tiny", "256x256", "float32") if small else ("massformer_r50", "3072x4096", "bfloat16")
    environment = {**environment, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    if small:
        # Tiny programs compile in less than a second, and jax keeps only slower ones by default.
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return Measurement(name, lambda: functools.partial(_run, what, environment, cache, deadline))


def _run(
    what: tuple[str, ...], environment: Mapping[str, str], cache: pathlib.Path, deadline: float
) -> dict[str, Any]:
    before = _programs(cache)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.device.first_mask", *what, str(time.time())],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=max(1, deadline - time.time()),
    )
    record = json.loads(done.stdout.splitlines()[-1])
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in record["parts"].items())
    warm = bool(before) and _programs(cache) == before
    return {**record, "warm": warm, "summary": f"{record['seconds']:.1f} s ({parts})"}


def _programs(cache: pathlib.Path) -> set[str]:
    """Returns the names of the kept programs, without the files that say when each was read."""
    return {path.name for path in cache.glob("*-cache")}


def main(model: str, size: str, dtype: str, begin: str) -> None:
    """Runs the command."""
    parts, last = {}, float(begin)

    def lap(part: str) -> None:
        nonlocal last
        now = time.time()
        parts[part], last = round(now - last, 2), now

    # These imports are here because they are part of what is timed; a stage imports this module,
    # too.
    replace_jaxtyping()
    import jax
    import numpy as np

    from massformer_jax.parallel import sharding
    from scripts.benchmark.device.models import architecture
    from scripts.benchmark.networks import inference
    from scripts.benchmark.values import make_values
    from scripts.conditions import conditions

    mesh = sharding.make_mesh(jax.devices()[:1])
    lap("imports")
    height, width = parse_size(size)
    function, arguments = inference(architecture(model), (height, width), 1, dtype, mesh)
    values = [make_values(tree) for tree in arguments]
    lap("weights and photograph")
    lowered = function.lower(*arguments)
    lap("tracing")
    compiled = lowered.compile()
    lap("compiling or reading")
    labels = np.asarray(compiled(*values))
    lap("running")
    assert labels.shape == (1, height, width)
    memory = jax.devices()[0].memory_stats() or {}
    record = {
        **{"task": "first_mask", "model": model, "size": size, "batch": 1, "dtype": dtype},
        **{"seconds": round(last - float(begin), 2), "parts": parts},
        "peak_bytes": memory.get("peak_bytes_in_use"),
        **conditions(),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
