"""Tests that the traced program fixes each product's precision, whatever jax's setting is."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core
from jax.lax import DotAlgorithmPreset, Precision

from massformer_jax.errors import InputError
from massformer_jax.evaluation.evaluate import evaluation_function
from massformer_jax.inference.network import network_labels
from massformer_jax.models.build import abstract_weights, model_graph
from massformer_jax.ops import precision
from massformer_jax.ops.by_image import by_image
from massformer_jax.parallel import sharding
from massformer_jax.training.config import validate
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import abstract_state
from massformer_jax.training.step import training_step
from tests.helpers import tiny_config

# Two layers: the finest memory, whose keys are attended to in blocks, comes third.
MODEL = {**tiny_config.get_config().architecture.to_dict(), "layers": 3}
OFFSETS = 8  # convolutions that predict coordinates
ASKED = {"float32": Precision.HIGHEST, "tf32": Precision.HIGH, "bfloat16": Precision.DEFAULT}


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Sets what users have, where conftest.py asks for exact products and refuses promotion."""
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", None)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_default_matmul_precision", before)


def products(jaxpr, dtypes=("bfloat16", "float32"), kernels=False) -> Counter:
    """Returns how often (primitive, precision) occurs with an operand of `dtypes`.

    Loops are searched, too. Only products outside kernels count, or with `kernels` those inside.
    """
    return _products(jaxpr, dtypes, kernels, False)


def _products(jaxpr, dtypes, kernels, in_kernel) -> Counter:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    found = Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated") and in_kernel == kernels:
            asked = equation.params["precision"]
            one, other = asked if isinstance(asked, tuple) else (asked, asked)
            assert one == other
            if any(x.aval.dtype in dtypes for x in equation.invars):
                found[name, one or Precision.DEFAULT] += 1
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                    within = in_kernel or name == "pallas_call"
                    found += _products(item, dtypes, kernels, within)
    return found


def inference(dtype, mesh=None, size=(512, 512)):
    """Traces the labels of an image so large that strips and blocks of keys are loops."""
    labels = network_labels(
        model_graph(MODEL, training=False), dtype=dtype, strip_rows=64, mesh=mesh
    )
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    return jax.make_jaxpr(labels, static_argnums=3)(*abstract_weights(MODEL), images, (500, 400))


def training(dtype):
    optimizer = recipe_optimizer()
    mesh = sharding.make_mesh(jax.devices()[:2])
    step = training_step(
        MODEL, optimizer, mesh, seed=0, points=64, edge_target="edges", dtype=dtype
    )
    batch = {
        "image": jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((2, 256, 256), jnp.uint8),
    }
    return jax.make_jaxpr(step)(abstract_state(MODEL, optimizer), batch)


def evaluation(dtype):
    step = evaluation_function(MODEL, sharding.make_mesh(jax.devices()[:1]), dtype=dtype)
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((1, 256, 256), jnp.uint8)
    return jax.make_jaxpr(step)(*abstract_weights(MODEL), images, labels)


def by_rows(dtype):
    mesh = sharding.make_mesh(jax.devices()[:2], {sharding.SPATIAL: 2})
    return inference(dtype, mesh)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("tf32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("program", [inference, by_rows, evaluation, training])
def test_every_product_of_float32_arrays(program, dtype):
    found = products(program(dtype))
    assert {asked for _, asked in found} == {ASKED[dtype]}
    assert found["conv_general_dilated", ASKED[dtype]] > 20
    assert found["dot_general", ASKED[dtype]] > 20


@pytest.mark.parametrize("program", [inference, training])
def test_every_product_of_bfloat16_arrays(program):
    found = products(program("bfloat16"), dtypes=("bfloat16",))
    assert {asked for _, asked in found} == {Precision.DEFAULT}
    assert sum(found.values()) > 40


def test_float32_products_of_a_bfloat16_network():
    """Coordinates and matching costs are not rounded to bfloat16 on a TPU."""
    found = products(inference("bfloat16"))
    assert found["conv_general_dilated", Precision.HIGH] == OFFSETS
    assert found["dot_general", Precision.HIGH] == 0
    found = products(training("bfloat16"), dtypes=("float32",))
    assert found["conv_general_dilated", Precision.HIGH] >= OFFSETS
    # Three of the matching in each of two groups of heads, those at 1/4 and that at 1/2.
    assert found["dot_general", Precision.HIGH] == 2 * 3


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        # Three products of TF32 keep 22 bits of mantissa, as float32 does but for the last two.
        ("float32", DotAlgorithmPreset.TF32_TF32_F32_X3),
        ("tf32", Precision.HIGH),
        ("bfloat16", Precision.DEFAULT),
    ],
)
def test_kernels_of_gpus(dtype, expected):
    """This holds forward and backward, and on a mesh, where the compiler traces them again."""
    found = products(training(dtype), kernels=True)
    assert {asked for _, asked in found} == {expected}
    assert sum(found.values()) > 16


def test_a_kernel_on_a_mesh():
    seen = []

    def kernel(x):
        seen.append(precision.products())
        return (2 * x,)

    def run(x):
        with precision.computing("float32"), sharding.training_on(mesh):
            return by_image(kernel, (True,))(x)[0]

    mesh = sharding.make_mesh(jax.devices()[:2])
    where = sharding.batch_sharded(mesh)
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=where)
    jax.jit(run, out_shardings=where).lower(x).compile()
    assert set(seen) == {Precision.HIGHEST}


def test_the_setting_of_jax_changes_nothing():
    with jax.default_matmul_precision("bfloat16"):
        assert {asked for _, asked in products(inference("float32"))} == {Precision.HIGHEST}


@pytest.mark.parametrize("dtype", precision.DTYPES)
def test_what_kernels_are_told(dtype):
    assert precision.products() == Precision.DEFAULT
    with precision.computing(dtype) as arrays:
        assert arrays == ("bfloat16" if dtype == "bfloat16" else "float32")
        assert precision.products() == ASKED[dtype]
        expected = Precision.HIGHEST if dtype == "float32" else Precision.HIGH
        assert precision.float32_products() == expected
    assert precision.products() == Precision.DEFAULT


def test_a_wrong_name_is_one_line():
    mesh = sharding.make_mesh(jax.devices()[:1])
    config = tiny_config.get_config()
    config.dtype = "float16"
    graph = model_graph(MODEL, training=False)
    for call in (
        lambda: network_labels(graph, dtype="float16"),
        lambda: evaluation_function(MODEL, mesh, dtype="float16"),
        lambda: validate(config, mesh),
        lambda: training_step(
            MODEL, recipe_optimizer(), mesh, seed=0, points=64, edge_target="edges", dtype="float16"
        ),
    ):
        with pytest.raises(
            InputError, match=r"^dtype is 'float16'; use one of float32, tf32, b.*$"
        ):
            call()
