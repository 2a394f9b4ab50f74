"""Operations of programs, converted to ONNX, against what jax and their definitions say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from massformer_jax.errors import InputError
from massformer_jax.ops import attention
from massformer_jax.ops.deform_conv import deform_conv
from massformer_jax.ops.resize import resize_bilinear
from massformer_jax.ops.shifted_conv import shifted_conv
from tests.helpers.deform_conv_inputs import by_definition, random_inputs
from tests.helpers.onnx_models import answer, converted

NAMES = "x", "offsets", "modulation", "kernel"


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("reach", [0, 1.7, 30])
def test_deformable_convolutions_are_the_definition(k, reach):
    inputs = random_inputs(k, reach=reach, batch=1, dtype=np.float32)
    named = dict(zip(NAMES, inputs, strict=True))
    found = converted(deform_conv, **named)
    assert operators(found).count("DeformConv") == 1
    expected = by_definition(*inputs)
    np.testing.assert_allclose(answer(found, **named), expected, rtol=0, atol=2e-5)


def test_a_layer_that_would_copy_much_is_several_operators():
    """Their inputs are parts of the channels: 75 channels at 25 taps are two parts, 37 and 38."""
    inputs = random_inputs(5, reach=1.7, features=(75, 3), batch=1, dtype=np.float32)
    named = dict(zip(NAMES, inputs, strict=True))
    found = converted(deform_conv, **named)
    assert operators(found).count("DeformConv") == 2
    expected = by_definition(*inputs)
    np.testing.assert_allclose(answer(found, **named), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("rows, first_row", [(4, 0), (4, 5), (3, -2), (5, 9), (12, 0), (12, -3)])
def test_a_strip_samples_from_all_rows(rows, first_row, k):
    """Its operator takes steps of several rows, and offsets lead back. The first row is traced."""
    x, *_, kernel = random_inputs(k, reach=0, size=(12, 7), batch=1, dtype=np.float32)
    _, offsets, modulation, _ = random_inputs(k, reach=9, size=(rows, 7), batch=1, dtype=np.float32)

    def strip(x, offsets, modulation, kernel, first_row):
        return deform_conv(x, offsets, modulation, kernel, first_row=first_row)

    inputs = dict(zip(NAMES, (x, offsets, modulation, kernel), strict=True))
    inputs["first_row"] = np.array(first_row, np.int32)
    expected = strip(*map(jnp.asarray, inputs.values()))
    found = answer(converted(strip, **inputs), **inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(16, 24), (4, 6), (2, 3), (8, 12), (5, 31)])
def test_resizing(size):
    x = np.random.default_rng(0).standard_normal((1, 8, 12, 5), np.float32)
    found = converted(lambda x: resize_bilinear(x, size), x=x)
    assert ("Resize" in operators(found)) == (size != x.shape[1:3])
    expected = resize_bilinear(jnp.asarray(x), size)
    np.testing.assert_allclose(answer(found, x=x), expected, rtol=0, atol=4e-6)


def test_shifted_convolutions():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 1, 9, 11), np.float32)
    kernel = rng.standard_normal((7, 7, 2), np.float32)
    found = converted(shifted_conv, maps=maps, kernel=kernel)
    assert "Conv" in operators(found) and "Add" not in operators(found)
    result = answer(found, maps=maps, kernel=kernel)
    expected = shifted_conv(jnp.asarray(maps), jnp.asarray(kernel))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_names_are_kept_where_a_model_is_written_only():
    x = jnp.zeros((1, 8, 12, 5))
    assert "resize_bilinear" not in str(jax.make_jaxpr(lambda x: resize_bilinear(x, (4, 6)))(x))


X = np.random.default_rng(1).standard_normal((3, 4, 5), np.float32)
ROWS = np.arange(3, dtype=np.int32)


def loop(x):
    """Adds up rows, and keeps the sums; rows of a map are written over, too."""

    def step(carry, inputs):
        i, total, kept = carry
        row, factor = inputs
        total = total + row * factor.astype(row.dtype)
        kept = lax.dynamic_update_slice_in_dim(kept, total[None], 2 - i, 0)
        return (i + 1, total, kept), total.sum(-1)

    start = jnp.int32(0), jnp.zeros(x.shape[1:]), jnp.zeros(x.shape)
    (_, total, kept), sums = lax.scan(step, start, (x, jnp.asarray(ROWS)))
    return jnp.concatenate([total[None], kept, jnp.broadcast_to(sums[..., None], kept.shape)])


CASES = {
    "broadcast and reduce": lambda x: (x + jnp.ones((1, 4, 1))).sum(1) + x.max((0, 1))[None],
    "sum of what is held once": lambda x: (
        x + jnp.broadcast_to(x[:1, :, :1], x.shape).sum((0, 2), keepdims=True)
    ),
    "reshape": lambda x: jnp.broadcast_to(x[:, :1], x.shape).reshape(6, 10) * 2.0,
    "transpose": lambda x: x.transpose(2, 0, 1)[None, 1:4:2, :, ::3],
    "product of batches": lambda x: jnp.einsum("bqe,bne->bqn", x, x),
    "product of heads": lambda x: jnp.einsum("bqhd,bnhd->bhqn", x[None], x[None]),
    "product over more axes": lambda x: jnp.einsum("bhwe,bqe->bhwq", x[None], x[:1]),
    "sum over several axes": lambda x: jnp.einsum("abc,abd->cd", x, x),
    "product with several free axes": lambda x: jnp.einsum(
        "abc,adec->abde", x, x.reshape(3, 2, 2, 5)
    ),
    "product over no axis": lambda x: jnp.einsum("ab,c->acb", x[0], x[0, 0]),
    "product with a vector": lambda x: jnp.einsum("abc,c->ab", x, x[0, 0]),
    "padding": lambda x: lax.pad(x, jnp.float32(7), ((1, -1, 0), (-2, 0, 0), (0, 3, 0))),
    "comparisons": lambda x: jnp.where((x < 0.5) & ~(x == 0) | (x != x), -x, x % 2.0),
    "all": lambda x: (x < 3).all(-1) & (x < 0.2).any(-1),
    "functions": lambda x: (
        jax.nn.gelu(x, approximate=False)
        + jnp.exp(x)
        + lax.rsqrt(jnp.square(x) + 1)
        + jnp.floor(x)
        + jnp.tanh(x) ** 3
    ),
    "softmax": lambda x: jax.nn.softmax(x, -1) + jax.nn.sigmoid(x),
    "integers": lambda x: x + ((jnp.arange(4)[None, :, None] - 2) // 3 % 3).astype(x.dtype),
    "reading along an axis": lambda x: jnp.take_along_axis(
        x[:1], jnp.argmax(x, -1)[:1, ::2, None] % 4, 1, mode="promise_in_bounds"
    ),
    "reading where it is known": lambda x: x[..., jnp.array([3, 0])] + x[..., 1][..., None],
    "largest": lambda x: jnp.argmax(x, -1).astype(jnp.uint8),
    "stacks": lambda x: jnp.stack([x, 2.0 * x], 1) + jnp.split(x, [1, 3], 1)[1].sum(),
    "clipped": lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:, 0, 0]) + 2, 0, 1), (2, 4, 3)),
    "pool": lambda x: lax.reduce_window(
        x[None],
        -jnp.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    ),
    "choice by platform": lambda x: lax.platform_dependent(
        x, tpu=lambda x: jnp.sort(x), default=lambda x: x + 1
    ),
    "what is computed again for gradients": jax.checkpoint(lambda x: jnp.sin(x) * x),
    "loop": loop,
}


@pytest.mark.parametrize("name", CASES)
def test_operations_answer_as_in_jax(name):
    function = CASES[name]
    with jax.numpy_rank_promotion("allow"):
        expected = np.asarray(jax.jit(function)(X))
        found = answer(converted(function, x=X), x=X)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda x: jnp.sort(x), "the operation 'sort', not known in ONNX"),
        (lambda x: lax.scan(lambda c, x: (c, x), 0, x, reverse=True)[1], "'scan' backwards"),
        (lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x), "'while'"),
        (lambda x: lax.pad(x, jnp.float32(0), ((0, 0, 1),) * 3), "with padding between elements"),
        (lambda x: jnp.take(x, jnp.argmax(x[0, 0]), 1), "'gather' at places that may lie outside"),
        (lambda x: x[jnp.argmax(x[0], 0), jnp.argmax(x[1], 0)], "'gather' along several axes"),
    ],
)
def test_what_is_not_known_is_named(function, words):
    with pytest.raises(InputError) as error:
        converted(function, x=X)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_attention_in_blocks_of_queries(monkeypatch):
    """The last block is filled up."""
    monkeypatch.setattr(attention, "AT_ONCE", 8)
    monkeypatch.setattr(attention, "QUERIES", 8)
    rng = np.random.default_rng(0)
    named = {name: rng.standard_normal((1, 21, 2, 4), np.float32) for name in "qkv"}
    expected = attention.attend(*map(jnp.asarray, named.values()))
    found = converted(attention.attend, **named)
    assert operators(found).count("Loop") == 1
    np.testing.assert_allclose(answer(found, **named), expected, rtol=0, atol=2e-6)


def test_numbers_that_are_known_are_computed_once():
    """So are nodes that would compute the same."""

    def function(x):
        factor = lax.rsqrt(jnp.arange(1.0, 6.0)).reshape(1, 1, 5)
        return x * factor + x * factor

    assert sorted(operators(converted(function, x=X))) == ["Add", "Identity", "Mul"]
