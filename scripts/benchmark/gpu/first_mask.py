"""Measures how long the first mask of a new process takes, with and without kept programs.

    python -m scripts.benchmark.gpu.first_mask MODEL HxW DTYPE BEGIN

prints one JSON object: the seconds from BEGIN (when the process was started, in seconds since 1970)
until the mask is in the host's memory, and the seconds of each part. Weights and photograph are
made up. Compiled programs are kept in the folder JAX_COMPILATION_CACHE_DIR. The stage `first_mask`
runs the command twice: the second time, all programs are already compiled.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from scripts import ROOT
from scripts.arguments import parse_size
from scripts.bare_machine import replace_jaxtyping
from scripts.benchmark.gpu.measurement import Measurement


def measurements(small: bool, environment: dict[str, str], deadline: float) -> list[Measurement]:
    """Returns two measurements of R50 on 12 megapixels: with an empty and with a full cache."""
    model, size, dtype = "massformer_r50", "3072x4096", "bfloat16"
    if small:
        model, size, dtype = "tiny", "256x256", "float32"
    cache = tempfile.TemporaryDirectory()
    environment = {**environment, "JAX_COMPILATION_CACHE_DIR": cache.name}
    if small:
        # Tiny programs compile in less than a second, and jax keeps only slower ones by default.
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def run(warm: bool):
        if warm != any(pathlib.Path(cache.name).iterdir()):
            raise ValueError(f"the cache should be {'full' if warm else 'empty'} and is not")
        command = [sys.executable, "-m", "scripts.benchmark.gpu.first_mask"]
        command += [model, size, dtype, str(time.time())]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=max(1, deadline - time.time()),
        )
        record = json.loads(done.stdout.splitlines()[-1])
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in record["parts"].items())
        return {**record, "warm": warm, "summary": f"{record['seconds']:.1f} s ({parts})"}

    return [
        Measurement(f"first_mask_{name}", lambda warm=warm: lambda: run(warm))
        for name, warm in (("cold", False), ("warm", True))
    ]


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
    from scripts.benchmark.gpu.plan import architecture
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
