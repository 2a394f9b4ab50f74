"""Checks whether a GPU computes what it should.

Label maps are compared with those of the release, and deformable convolutions with the form without
kernels in float32 on the CPU. A training step is compared with that of the release, which was
recorded in float64 (tests/parity/README.md).
"""

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from massformer_jax.inference.network import network_labels
from massformer_jax.models.massformer import normalize
from massformer_jax.ops.precision import DTYPES, computing
from massformer_jax.parallel import sharding
from massformer_jax.training import losses
from massformer_jax.training.optimizer import gradient_norm, recipe_optimizer
from scripts.benchmark.gpu.measurement import Measurement
from scripts.benchmark.gpu.plan import R50, architecture
from scripts.benchmark.gpu.read_png import read_png
from scripts.benchmark.layers import gradient, layer_arguments, layers
from scripts.benchmark.values import make_values
from tests.helpers import release

FIXTURES = {"r50": ("infer_512x768", 2), "r18_lite": ("infer_lite_256x512", 3)}
# The weights of the recipe are random. So more pixels lie near a border between classes than with
# trained weights.
EQUAL = {"float32": 0.9999, "tf32": 0.98, "bfloat16": 0.85}  # the least share of pixels
KERNEL_ERROR = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 2**-5}  # relative to the largest
# The largest errors of the loss terms and of the gradient's norm. In float32 the last bit may
# decide which points are the least certain; on a CPU this changes them by 2e-3 and 3e-2. In float64
# they are equal to 1e-9 (tests/training/train_parity_test.py).
LOSS_ERROR, NORM_ERROR = 1e-2, 1e-1
# The recipe keeps its weights, so that a second measurement that needs them only waits.
_BUILDING = threading.Lock()
FAR = 60.0  # how many pixels away every seventh offset points


def measurements(stage: str, small: bool) -> list[Measurement]:
    """Returns the checks of a stage, the most important first."""
    found = []

    def add(name, function, *arguments):
        found.append(Measurement(name, functools.partial(function, *arguments)))

    def agreements(model, dtypes):
        for dtype in dtypes:
            add(f"agreement_{model}_{dtype}", _agreement, model, dtype)

    if stage == "main":
        agreements(*(("r18_lite", ("float32",)) if small else ("r50", DTYPES)))
        for dtype in ("float32", "bfloat16"):
            add(f"check_deform_conv_{dtype}", _deform_conv, dtype, small)
    elif not small:
        add("check_train_r50_float32", _training, "train_256x256", "r50", 9)
        agreements("r18_lite", DTYPES)
    return found


def _agreement(manifest: str, dtype: str):
    """Returns a function that measures the share of pixels with the label of the release."""
    name, seed = FIXTURES[manifest]
    with _BUILDING:
        graph, params, batch_stats = release.released_weights(manifest, seed, training=False)
    image = read_png(release.PARITY / name / "image.png")
    expected = read_png(release.PARITY / name / "prediction.png")
    function = jax.jit(network_labels(graph, dtype=dtype), static_argnums=3)
    arguments = params, batch_stats, jnp.asarray(image[None])
    compiled = function.lower(*arguments, image.shape[:2]).compile()

    def run():
        labels = np.asarray(compiled(*arguments))[0]
        equal = float((labels == expected).mean())
        result = {"task": "agreement", "model": f"massformer_{manifest}", "fixture": name}
        result |= {"dtype": dtype, "equal": equal, "summary": f"{100 * equal:.4f} % of the pixels"}
        return result | _problem(equal < EQUAL[dtype], f"only {equal} of the labels are equal")

    return run


def _deform_conv(dtype: str, small: bool):
    """Returns a function that measures the largest error of each result of each layer.

    The shapes are those for 1024x1024.
    """
    side = 128 if small else 1024
    mesh = sharding.make_mesh(jax.devices()[:1])
    cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    function = jax.jit(gradient(dtype))
    reference = jax.jit(gradient("float32"))
    cases = {}
    for layer in layers(architecture(R50)["decoder_width"]):
        rows = max(8, side // layer.stride)
        like = layer_arguments(layer, 1, rows, rows + 4, dtype, mesh)
        wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float32", sharding=cpu), like)
        programs = function.lower(like).compile(), reference.lower(wide).compile()
        cases[layer.name] = like, *programs

    def run():
        errors = {name: _errors(cpu, *case) for name, case in cases.items()}
        worst = max(max(found.values()) for found in errors.values())
        result = {"task": "check_deform_conv", "dtype": dtype, "errors": errors}
        result["summary"] = f"largest error {worst:.1e} of the largest value"
        bad = not worst <= KERNEL_ERROR[dtype]  # this is true also for NaN
        return result | _problem(bad, f"an error of {worst} of the largest value")

    return run


def _errors(cpu, like, compiled, reference) -> dict[str, float]:
    values = make_values(like)
    values["offsets"] = jax.device_put(
        values["offsets"].at[:, ::7].multiply(FAR / 2), like["offsets"].sharding
    )
    out, gradients = compiled(values)
    wide = {name: value.astype(jnp.float32) for name, value in values.items()}
    expected, expected_gradients = reference(jax.device_put(wide, cpu))
    names = ("forward", "x", "offsets", "modulation", "kernel")
    errors = {}
    for name, ours, theirs in zip(
        names, (out, *gradients), (expected, *expected_gradients), strict=True
    ):
        theirs = np.asarray(theirs)
        difference = np.abs(np.asarray(ours.astype(jnp.float32)) - theirs).max()
        errors[name] = float(f"{difference / np.abs(theirs).max():.3g}")
    return errors


def _training(name: str, manifest: str, seed: int):
    """Returns a function that checks loss terms and gradient norm of a training step in float32."""
    folder = release.PARITY / name
    recorded = dict(np.load(folder / "train.npz"))
    images = np.stack([read_png(folder / f"image{i}.png") for i in range(2)])
    labels = np.stack([read_png(folder / f"label{i}.png") for i in range(2)])
    classes = release.model_kwargs(manifest)["classes"]
    present = (labels[:, None] == np.arange(classes).reshape(1, -1, 1, 1)).any((2, 3))
    heads = [release.recorded_points(recorded, i, present) for i in range(7)]
    points = jax.tree.map(lambda *x: np.stack(x).astype(np.float32), *heads)
    graph, params, batch_stats = release.released_weights(manifest, seed, training=True)
    optimizer = recipe_optimizer(total_steps=10**9)

    @jax.jit
    def step(params, batch_stats, images, labels, points):
        def loss(params):
            outputs = nnx.merge(graph, params, batch_stats, copy=True)(normalize(images))
            # As in the release, there is an edge at every pixel.
            terms = losses.losses(outputs, labels, points, edge_target="ones")
            return losses.total(terms), terms

        with computing("float32"):
            gradients, terms = jax.grad(loss, has_aux=True)(params)
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        return terms, gradient_norm(state)

    arguments = params, batch_stats, images, labels, points
    compiled = step.lower(*arguments).compile()

    def run():
        terms, norm = jax.device_get(compiled(*arguments))
        errors = {
            term: _relative(value, recorded[f"loss/decode.{term}"]) for term, value in terms.items()
        }
        worst = max(errors.values())
        off = _relative(norm, recorded["grad_norm_total.1"])
        errors["gradient_norm"] = off
        result = {"task": "check_train", "model": f"massformer_{manifest}", "dtype": "float32"}
        result |= {"fixture": name, "errors": errors, "gradient_norm": float(norm)}
        result["summary"] = f"loss terms to {worst:.1e}, norm of the gradient to {off:.1e}"
        bad = not (worst <= LOSS_ERROR and off <= NORM_ERROR)  # this is true also for NaN
        return result | _problem(bad, f"too large errors: {result['summary']}")

    return run


def _relative(ours: Any, theirs: Any) -> float:
    return float(f"{abs(float(ours) - float(theirs)) / abs(float(theirs)):.3g}")


def _problem(wrong: bool, text: str) -> dict[str, str]:
    return {"error": text} if wrong else {}
