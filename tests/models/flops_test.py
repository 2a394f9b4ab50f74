"""Tests that the FLOPs which are counted are those which are computed."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas

from massformer_jax.inference.network import network_labels
from massformer_jax.models.build import abstract_weights, architecture, model_graph
from massformer_jax.models.flops import count_flops, network_size
from massformer_jax.models.resnet import ResNet
from massformer_jax.parallel import sharding
from scripts.benchmark.layers import layers


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def flops(function, *args):
    return count_flops(jax.jit(function).trace(*args).jaxpr)


def matmul(x, y):
    return x @ y


def convolve(x, kernel, **kwargs):
    kwargs = {"window_strides": (1, 1), "padding": "VALID", **kwargs}
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **kwargs
    )


def test_flops_of_matrix_products():
    assert flops(matmul, array(3, 4), array(4, 5)) == 2 * 3 * 4 * 5
    assert flops(functools.partial(jnp.einsum, "bij,bkj->bik"), array(6, 3, 4), array(6, 5, 4)) == (
        2 * 6 * 3 * 4 * 5
    )


def test_flops_of_convolutions_and_their_gradients():
    x, kernel = array(2, 9, 11, 6), array(3, 3, 6, 8)
    strided = functools.partial(convolve, window_strides=(2, 2))
    grouped = functools.partial(convolve, feature_group_count=3)
    macs = 2 * 4 * 5 * 8 * 9 * 6
    assert flops(strided, x, kernel) == 2 * macs
    assert flops(grouped, x, array(3, 3, 2, 9)) == 2 * (2 * 7 * 9 * 9 * 9 * 2)
    # Each gradient multiplies as often as the convolution itself: at stride 2 the zeros between
    # the rows of the cotangent are not counted. The map is as large as its windows reach.
    gradient = jax.grad(lambda x, kernel: strided(x, kernel).sum(), argnums=(0, 1))
    assert flops(gradient, x, kernel) == pytest.approx(3 * 2 * macs, rel=0.35)
    assert flops(jax.grad(lambda kernel, x: strided(x, kernel).sum()), kernel, x) == 2 * 2 * macs


def test_flops_of_a_transposed_convolution():
    """With 4x4 at stride 2, every output meets 2x2 inputs, not the 4x4 of the dilated map."""
    transposed = functools.partial(convolve, lhs_dilation=(2, 2), padding=((2, 2), (2, 2)))
    assert flops(transposed, array(1, 8, 8, 3), array(4, 4, 3, 5)) == 2 * 16 * 16 * 5 * 3 * 4
    # 3x3 onto 15 rows: 8 of them lie on an input and meet one, 7 lie between two.
    odd = functools.partial(convolve, lhs_dilation=(2, 2), padding=((1, 1), (1, 1)))
    assert flops(odd, array(1, 8, 8, 3), array(3, 3, 3, 5)) == 2 * (8 + 7 * 2) ** 2 * 5 * 3


def test_flops_of_loops_branches_and_devices():
    x = array(4, 4)
    once = 2 * 4**3

    def loop(x):
        def body(y, _):
            y = jax.lax.fori_loop(0, 3, lambda _, z: z @ x, y)
            return y, jax.lax.map(lambda row: row @ x, y)

        return jax.lax.scan(body, x, None, length=5)

    assert flops(loop, x) == 5 * (3 + 1) * once

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert flops(branch, x) == 2 * once

    def by_platform(x):
        return jax.lax.platform_dependent(x, tpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    assert flops(by_platform, x) == once
    assert flops(jax.grad(lambda x: by_platform(x).sum()), x) == 3 * once
    # The forward product, once more when it is computed again, and two for its gradients.
    remat = jax.grad(jax.checkpoint(lambda x: jnp.sin(x @ x).sum()))
    assert flops(remat, x) == 4 * once

    mesh = sharding.make_mesh(jax.devices())
    spec = jax.sharding.PartitionSpec(sharding.DATA)
    local = jax.shard_map(matmul, mesh=mesh, in_specs=(spec, None), out_specs=spec)
    assert flops(local, array(32, 4), x) == flops(matmul, array(32, 4), x)


def test_flops_of_a_kernel_on_a_grid():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    def call(x, y):
        return pallas.pallas_call(
            kernel,
            grid=(4,),
            in_specs=[
                pallas.BlockSpec((8, 16), lambda i: (i, 0)),
                pallas.BlockSpec((16, 16), lambda i: (0, 0)),
            ],
            out_specs=pallas.BlockSpec((8, 16), lambda i: (i, 0)),
            out_shape=array(32, 16),
        )(x, y)

    assert flops(call, array(32, 16), array(16, 16)) == 2 * 32 * 16 * 16


def test_flops_of_an_unknown_number_of_trips_are_refused():
    def loop(x):
        return jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x)

    with pytest.raises(ValueError, match="without a static number of trips"):
        flops(loop, array(4, 4))
    counting = jax.lax.while_loop
    assert flops(lambda x: counting(lambda y: y[0] < 9, lambda y: y + 1, x), array(4)) == 0


def test_flops_agree_with_the_compiler_on_an_unrolled_program():
    def network(x, kernel, y):
        x = convolve(x, kernel)
        return jnp.concatenate([row.reshape(-1, 8) @ y for row in x])

    args = (array(3, 9, 9, 4), array(3, 3, 4, 8), array(8, 8))
    analysed = jax.jit(network).lower(*args).compile().cost_analysis()["flops"]
    assert flops(network, *args) == pytest.approx(analysed, rel=0.01)


def test_flops_of_a_resnet_are_the_published_ones():
    """torchvision gives 4.089 G multiply-adds for ResNet-50 at 224x224, 2.048 M of them its
    classifier, which is not here."""

    def encode(images):
        return ResNet(50, rngs=nnx.Rngs(0))(images)

    macs = count_flops(jax.make_jaxpr(encode)(array(1, 224, 224, 3))) / 2
    assert macs == pytest.approx(4.089e9 - 2.048e6, rel=1e-3)


def test_flops_of_the_network_are_those_of_the_paper():
    """The paper gives 2036 G multiply-adds at 4096x3072.

    The program that counted them seems to have skipped the deformable convolutions. Its network
    also computes mask logits, which this network does not.
    """
    params, macs = network_size(architecture("massformer_r50"))
    assert params == pytest.approx(37.42e6, rel=0.005), "as the paper prints it"
    deformable = sum(
        layer.features_in * layer.features_out * layer.taps**2 * 3072 * 4096 // layer.stride**2
        for layer in layers(128)
    )
    assert macs - deformable == pytest.approx(2036e9, rel=0.06)


@pytest.mark.slow
def test_strips_do_little_work_twice():
    """Rows around a strip are computed twice; so are mask features, for levels and for scores."""
    r50 = architecture("massformer_r50")

    def count(rows):
        function = network_labels(model_graph(r50, training=False), strip_rows=rows)
        image = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.uint8)
        jaxpr = jax.make_jaxpr(function, static_argnums=3)(
            *abstract_weights(r50), image, (1024, 1024)
        )
        return count_flops(jaxpr)

    whole = count(512)
    assert whole < count(64) < 1.15 * whole
