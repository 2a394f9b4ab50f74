"""Checks whether an accelerator computes what it should.

Label maps are compared with those of the release, and deformable convolutions with the plain form
in float32 on the CPU. Matrix products are compared with those of NumPy in float64. A training step
is compared with that of the release, which was recorded in float64 (tests/parity/README.md).
"""

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

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
from scripts.benchmark.device.measurement import Measurement
from scripts.benchmark.device.models import R50, architecture
from scripts.benchmark.device.read_png import read_png
from scripts.benchmark.layers import INPUTS, gradient, layer_arguments, layer_named
from scripts.benchmark.values import make_values
from tests.helpers import release

FIXTURES = {"r50": ("infer_512x768", 2), "r18_lite": ("infer_lite_256x512", 3)}
# The weights of the recipe are random. So more pixels lie near a border between classes than with
# trained weights.
EQUAL = {"float32": 0.9999, "tf32": 0.98, "bfloat16": 0.85}  # the least share of pixels
LAYER_ERROR = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 2**-5}  # relative to the largest
# Of the products of float32 arrays, relative to the largest. One product in TF32 is off by up to
# 2^-11, and one in bfloat16 by up to 2^-8; sums of many are off by less.
PRODUCT_ERROR = {"float32": 2e-6, "tf32": 1e-3, "bfloat16": 2e-2}
# The largest errors of the loss terms and of the gradient's norm. In float32 the last bit may
# decide which points are the least certain; on a CPU this changes them by 2e-3 and 3e-2. In float64
# they are equal to 1e-9 (tests/training/train_parity_test.py).
LOSS_ERROR, NORM_ERROR = 1e-2, 1e-1
# The recipe keeps its weights, so that a second measurement that needs them only waits.
_BUILDING = threading.Lock()
# Every seventh offset points about this many pixels away, and some of them beyond what an int32
# can hold.
FAR, BEYOND = 60.0, 4e9


class Case(NamedTuple):
    """A deformable convolution of R50 that is checked."""

    layer: str  # its name, see `scripts.benchmark.layers`
    size: tuple[int, int]  # rows and columns of the input
    images: int = 1
    rows: int | None = None  # of the output, if that is a strip
    first_row: int = 0

    def described(self) -> str:
        """Returns the case in words."""
        words = self.layer + f" of {self.images} images" * (self.images > 1)
        return words if self.rows is None else f"{words}, {self.rows} rows from {self.first_row}"


def agreements(manifest: str, dtypes: Iterable[str]) -> list[Measurement]:
    """Returns measurements of the share of pixels with the label of the release.

    Args:
        manifest: the network, `r50` or `r18_lite`.
        dtypes: in which it computes.
    """
    return [
        Measurement(f"agreement_{manifest}_{dtype}", functools.partial(_agreement, manifest, dtype))
        for dtype in dtypes
    ]


def deform_conv(name: str, dtype: str, cases: Sequence[Case]) -> Measurement:
    """Returns a measurement of the largest error of each result of some layers.

    Args:
        name: of the measurement.
        dtype: in which they compute.
        cases: the layers.
    """
    return Measurement(name, functools.partial(_deform_conv, dtype, cases))


def products() -> Measurement:
    """Returns a measurement of how exactly matrices and convolutions are multiplied."""
    return Measurement("check_products", _products)


def training() -> Measurement:
    """Returns a measurement of the errors of a training step of R50 in float32."""
    prepare = functools.partial(_training, "train_256x256", "r50", 9)
    return Measurement("check_train_r50_float32", prepare)


def _agreement(manifest: str, dtype: str) -> Callable[[], dict[str, Any]]:
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


def _deform_conv(dtype: str, cases: Sequence[Case]) -> Callable[[], dict[str, Any]]:
    """Returns a function that measures the largest error of each result of each layer."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    function = jax.jit(gradient(dtype))
    reference = jax.jit(gradient("float32"))
    prepared = []
    for case in cases:
        layer = layer_named(case.layer, architecture(R50)["decoder_width"])
        like = layer_arguments(layer, case.images, *case.size, dtype, mesh, rows=case.rows)
        wide = {
            name: jax.ShapeDtypeStruct(x.shape, _wide(x.dtype), sharding=cpu)
            for name, x in like.items()
        }
        programs = function.lower(like).compile(), reference.lower(wide).compile()
        prepared.append((case, like, *programs))

    def run():
        errors = {case.described(): _errors(cpu, case, *rest) for case, *rest in prepared}
        # Unlike Python's, this maximum is NaN if one of them is.
        worst = float(np.max([[*found.values()] for found in errors.values()]))
        result = {"task": "check_deform_conv", "dtype": dtype, "errors": errors}
        result["summary"] = f"largest error {worst:.1e} of the largest value"
        bad = not worst <= LAYER_ERROR[dtype]  # this is true also for NaN
        return result | _problem(bad, f"an error of {worst} of the largest value")

    return run


def _wide(dtype: np.dtype) -> np.dtype:
    return np.dtype("float32") if jnp.issubdtype(dtype, jnp.floating) else dtype


def _errors(cpu, case, like, compiled, reference) -> dict[str, float]:
    values = make_values(like)
    far = values["offsets"].at[:, ::7].multiply(FAR / 2)
    far = far.at[:, ::7, ::8, ::2].set(BEYOND).at[:, ::7, 1::8, ::2].set(-BEYOND)
    values["offsets"] = jax.device_put(far, like["offsets"].sharding)
    first_row = np.asarray(case.first_row, np.int32)
    values["first_row"] = jax.device_put(first_row, like["first_row"].sharding)
    out, gradients = compiled(values)
    wide = {name: value.astype(_wide(value.dtype)) for name, value in values.items()}
    expected, expected_gradients = reference(jax.device_put(wide, cpu))
    errors = {}
    for name, ours, theirs in zip(
        ("forward", *INPUTS), (out, *gradients), (expected, *expected_gradients), strict=True
    ):
        theirs = np.asarray(theirs)
        difference = np.abs(np.asarray(ours.astype(jnp.float32)) - theirs).max()
        errors[name] = float(f"{difference / np.abs(theirs).max():.3g}")
    return errors


def _products() -> Callable[[], dict[str, Any]]:
    """Returns a function that measures the errors of products of float32 arrays."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256), np.float32) for _ in range(2))
    image = rng.standard_normal((1, 32, 32, 64), np.float32)
    kernel = rng.standard_normal((3, 3, 64, 64), np.float32)
    wide = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (3, 3), (1, 2))
    expected = {
        "matrices": a.astype(np.float64) @ b.astype(np.float64),
        "convolution": np.einsum("bhwcyx,yxco->bhwo", wide, kernel.astype(np.float64)),
    }

    def multiply(dtype):
        def run(a, b, image, kernel):
            with computing(dtype):
                convolved = jax.lax.conv_general_dilated(
                    image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                return {"matrices": a @ b, "convolution": convolved}

        return jax.jit(run).lower(a, b, image, kernel).compile()

    programs = {dtype: multiply(dtype) for dtype in DTYPES}

    def run():
        errors, too_large = {}, []
        for dtype, program in programs.items():
            for kind, found in program(a, b, image, kernel).items():
                difference = np.abs(np.asarray(found, np.float64) - expected[kind]).max()
                error = float(f"{difference / np.abs(expected[kind]).max():.3g}")
                errors.setdefault(kind, {})[dtype] = error
                if not error <= PRODUCT_ERROR[dtype]:  # this is true also for NaN
                    too_large.append(f"{kind} under {dtype}: {error}")
        result = {"task": "check_products", "dtype": "float32", "errors": errors}
        worst = max(kind["float32"] for kind in errors.values())
        result["summary"] = f"under float32 an error of {worst:.1e} of the largest value"
        return result | _problem(bool(too_large), "; ".join(too_large))

    return run


def _training(name: str, manifest: str, seed: int) -> Callable[[], dict[str, Any]]:
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
