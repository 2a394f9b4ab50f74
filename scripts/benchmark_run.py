"""What `benchmark.py` measures: inference and training steps of the network, compiled and timed."""

import contextlib
import importlib.util
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_flops import count_flops
from jax.experimental import topologies
from jax.sharding import Mesh

from massformer_jax import sharding
from massformer_jax.errors import InputError
from massformer_jax.inference import label_function
from massformer_jax.models.massformer import STRIDE
from massformer_jax.optim import optimizer
from massformer_jax.step import training_step
from massformer_jax.train_state import TrainState, abstract_weights, model_graph

# Arguments of MaSSFormer, as in configs/, which need ml_collections to be read.
_RELEASED = {"layers": 6, "queries": 100, "classes": 7}
MODELS = {
    "massformer_r50": {"encoder_depth": 50, "decoder_width": 128, "ffn_width": 2048, **_RELEASED},
    "massformer_r18_lite": {
        "encoder_depth": 18,
        "decoder_width": 64,
        "ffn_width": 1024,
        **_RELEASED,
    },
}
POINTS = 12544  # at which masks are compared in training, as in configs/
OFFSET_PIXELS = 2.0  # standard deviation of the offsets of the deformable convolutions


def devices(topology: str | None, batch: int) -> list[jax.Device]:
    """Those that share the batch: as many as divide it, of this machine or of a TPU topology.

    Raises:
        InputError: there is no such topology, or no compiler for it.
    """
    found = topology_devices(topology) if topology else jax.devices()
    return found[: max(n for n in range(1, len(found) + 1) if batch % n == 0)]


def topology_devices(name: str) -> list[jax.Device]:
    """The chips of a slice that need not be there; see `devices`."""
    if not importlib.util.find_spec("libtpu"):
        raise InputError("--topology needs the TPU compiler, not a TPU: pip install libtpu")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # whatever the compiler's plugin raises
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no topology {name!r}; libtpu says: {reason}") from error


def describe(devices: Sequence[jax.Device]) -> str:
    """The processor, and how much of it: "AMD EPYC, 2 cores", "NVIDIA H100 80GB HBM3, 1 device"."""
    if devices[0].platform != "cpu":
        return f"{devices[0].device_kind}, {len(devices)} device{'s' * (len(devices) > 1)}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has it, and tells more
        found = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
        name = found[1].strip() if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def measure_network(
    task: str,
    model: str,
    size: tuple[int, int],
    batch: int,
    dtype: str,
    devices: Sequence[jax.Device],
    *,
    runs: int,
) -> dict[str, Any]:
    """Measures `inference` or `train` of one of MODELS; see `measure`.

    Raises:
        InputError: the network cannot be trained with this size or batch.
    """
    mesh = sharding.make_mesh(list(devices))
    if task == "train":
        function, arguments = train(MODELS[model], size, batch, dtype, mesh)
        return measure(function, arguments, runs=runs, donated=0)
    return measure(*inference(MODELS[model], size, batch, dtype, mesh), runs=runs)


def inference(
    model: Mapping[str, Any], size: tuple[int, int], batch: int, dtype: str, mesh: Mesh
) -> tuple[Callable, tuple]:
    """The function from photographs to label maps and its arguments, without values.

    The photographs are uint8 [batch, *size, 3] and split over the mesh, their rows too if it has an
    axis for them; the labels have their size.
    """
    find = label_function(model_graph(model, training=False), dtype=dtype, mesh=mesh)

    def labels(params, batch_stats, images):
        return find(params, batch_stats, images, size)

    whole, split = sharding.replicated(mesh), sharding.photographs_sharded(mesh)
    function = jax.jit(labels, in_shardings=(whole, whole, split), out_shardings=split)
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8, sharding=split)
    return function, (*_shard(abstract_weights(model), whole), images)


def train(
    model: Mapping[str, Any],
    size: tuple[int, int],
    batch: int,
    dtype: str,
    mesh: Mesh,
    *,
    remat: bool = False,
) -> tuple[Callable, tuple]:
    """The training step of the released recipe and its arguments, without values."""
    sharding.check_batch_size(batch, mesh)
    if any(side % STRIDE for side in size):
        raise InputError(f"size is {size[0]}x{size[1]}; to train, use multiples of {STRIDE}")
    tx = optimizer()
    step = training_step(
        *(model, tx, mesh),
        seed=0,
        points=POINTS,
        edge_target="edges",
        dtype=dtype,
        remat=remat,
    )
    whole, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)
    params, batch_stats = abstract_weights(model)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(number, params, batch_stats, jax.eval_shape(tx.init, params), number)
    examples = {
        "image": jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch, *size), jnp.uint8),
    }
    return step, (_shard(state, whole), _shard(examples, split))


def measure(
    function: Callable, arguments: Sequence[Any], *, runs: int, donated: int | None = None
) -> dict[str, Any]:
    """Compiles `function` for `arguments` without values, and runs it with values made up.

    Args:
        function: jitted.
        arguments: trees of ShapeDtypeStructs with shardings.
        runs: how many are timed, after one that is not; 0 only compiles.
        donated: which argument is used up and replaced by the first result, if any.

    Returns:
        `seconds` (median, None if not run), `compile_seconds` (with tracing), `temp_bytes` and
        `argument_bytes` of one device, `flops` of all devices (see `benchmark_flops`).

    Raises:
        InputError: it does not fit into the device's memory.
    """
    program = compile_program(function, arguments)
    times = time_program(program, arguments, runs=runs, donated=donated) if runs else []
    return {"seconds": median(times), **program.report}


class Program(NamedTuple):
    """A compiled function and what the compiler says of it."""

    compiled: Callable
    report: dict[str, Any]  # compile_seconds, temp_bytes, argument_bytes, flops: see `measure`


def compile_program(function: Callable, arguments: Sequence[Any]) -> Program:
    """Compiles a jitted function for arguments without values.

    Raises:
        InputError: it does not fit into the device's memory.
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
) -> list[float]:
    """Seconds of each run with values made up, see `run_seconds`.

    Arguments and results stay on the device. Raises what `compile_program` does.
    """
    values = [make_values(tree) for tree in arguments]

    def run():
        result = jax.block_until_ready(program.compiled(*values))
        if donated is not None:
            values[donated] = result[0]

    with out_of_memory_in_one_line():
        return run_seconds(run, runs, within)


@contextlib.contextmanager
def out_of_memory_in_one_line():
    """Turns the compiler's complaint into an InputError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise
        raise InputError(f"the device has too little memory: {reason}") from error


def run_seconds(run: Callable[[], None], runs: int, within: float = float("inf")) -> list[float]:
    """Of each of `runs` calls, after one that does not count; fewer, but three, if together they
    would take longer than `within` seconds."""
    run()
    times = []
    while len(times) < runs and (len(times) < 3 or sum(times) < within):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def median(times: Sequence[float]) -> float | None:
    """To four digits; None of no times."""
    return float(f"{statistics.median(times):.4g}") if times else None


def make_values(tree: Any) -> Any:
    """Arrays for a tree of ShapeDtypeStructs: weights of sensible size, noise for images.

    A fresh network predicts offsets of zero, which would read the maps in order. Here the biases
    that predict them are normal, so every tap reads somewhere else.
    """
    rng = np.random.default_rng(0)

    def make(path, like):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.device_put(_values(rng, name, like.shape, like.dtype), like.sharding)

    return jax.tree_util.tree_map_with_path(make, tree)


def _values(rng: np.random.Generator, path: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    name = path.rsplit("/", 1)[-1]
    if dtype == np.uint8:
        # Labels in blocks, so that every image has every class and edges between them.
        if name == "label":
            blocks = rng.integers(0, 7, (shape[0], 1 + shape[1] // 64, 1 + shape[2] // 64))
            return blocks.repeat(64, 1).repeat(64, 2)[:, : shape[1], : shape[2]].astype(dtype)
        return rng.integers(0, 256, shape, dtype)
    if "opt_state" in path or not jnp.issubdtype(dtype, jnp.floating):
        return np.zeros(shape, dtype)
    if path.endswith("dcn_offset/bias") or name == "offsets":
        return (OFFSET_PIXELS * rng.standard_normal(shape, np.float32)).astype(dtype)
    if name in ("x", "cotangent"):
        return rng.standard_normal(shape, np.float32).astype(dtype)
    if name == "modulation":
        return rng.random(shape, np.float32).astype(dtype)
    if name in ("scale", "var"):
        return np.ones(shape, dtype)
    if name in ("kernel", "embedding"):
        fan_in = np.prod(shape[:-1]) if name == "kernel" else 1
        return (fan_in**-0.5 * rng.standard_normal(shape, np.float32)).astype(dtype)
    return np.zeros(shape, dtype)


def _shard(tree: Any, where) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
