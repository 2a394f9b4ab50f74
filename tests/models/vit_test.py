"""The vision transformers equal those of `transformers` after every block, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from massformer_jax.convert.vit import read_vit, rules_of
from massformer_jax.errors import InputError
from massformer_jax.models.build import abstract_vit
from massformer_jax.models.names import torch_name, weights_by_path
from massformer_jax.models.vit import ENCODERS, ViT
from massformer_jax.ops import attention
from tests.helpers.random_network import random_network

SMALL = {"features": 48, "blocks": 4, "heads": 3, "hidden": 96, "registers": 2}
TINY = {
    "dinov2": {**SMALL, "patch": 14, "gated": False, "grid": 5},
    "dinov3": {**SMALL, "patch": 16, "gated": False, "grid": None},
    "dinov3_gated": {**SMALL, "patch": 16, "gated": True, "grid": None},
}


def theirs(tiny, torch):
    """Returns the network of `transformers`, with random numbers in all of its parameters."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    common = {
        "hidden_size": tiny["features"],
        "num_hidden_layers": tiny["blocks"],
        "num_attention_heads": tiny["heads"],
        "patch_size": tiny["patch"],
        "num_register_tokens": tiny["registers"],
    }
    if tiny["grid"] is not None:
        config = transformers.Dinov2WithRegistersConfig(
            **common,
            mlp_ratio=tiny["hidden"] // tiny["features"],
            image_size=tiny["grid"] * tiny["patch"],
        )
        network = transformers.Dinov2WithRegistersModel(config)
    else:
        config = transformers.DINOv3ViTConfig(
            **common,
            intermediate_size=tiny["hidden"],
            use_gated_mlp=tiny["gated"],
            hidden_act="silu" if tiny["gated"] else "gelu",
        )
        network = transformers.DINOv3ViTModel(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_block_equals_that_of_transformers(name, tmp_path):
    torch = pytest.importorskip("torch")
    tiny = TINY[name]
    network = theirs(tiny, torch)
    network.save_pretrained(tmp_path)  # with the names that files on the Hub have
    ours = random_network(lambda: ViT(**tiny, rngs=nnx.Rngs(0)))
    nnx.update(ours, read_vit(tmp_path / "model.safetensors", tiny))
    for size in ((4, 4), (3, 7)):
        size = tuple(side * tiny["patch"] for side in size)
        images = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
        with torch.no_grad():
            answer = network(
                torch.from_numpy(images.transpose(0, 3, 1, 2)), output_hidden_states=True
            )
        blocks = [x.numpy() for x in answer.hidden_states[1:]]
        last = answer.last_hidden_state.numpy()
        got = jax.jit(lambda images: list(ours.steps(images)))(images)
        assert len(got) == len(blocks) == tiny["blocks"]
        for block, (x, expected) in enumerate(zip(got, blocks, strict=True)):
            np.testing.assert_allclose(x, expected, atol=1e-5, rtol=1e-5, err_msg=f"{block}")
        np.testing.assert_allclose(ours.norm(got[-1]), last, atol=1e-5, rtol=1e-5)


def test_maps_are_those_of_evenly_spaced_blocks():
    tiny = {**TINY["dinov3"], "blocks": 8}
    encoder = random_network(lambda: ViT(**tiny, rngs=nnx.Rngs(0)))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 48, 3)), jnp.float32)
    steps, maps = jax.jit(lambda images: (list(encoder.steps(images)), encoder(images)))(images)
    for i, x in zip((1, 3, 5, 7), maps, strict=True):
        expected = encoder.norm(steps[i])[:, 3:].reshape(1, 2, 3, 48)
        np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("features", [48, 196, 392])
def test_rotary_positions_turn_every_feature_of_a_head(features):
    """For some widths, such as the latter two, steps of 4 / features are one too many below 1."""
    tiny = {**TINY["dinov3"], "features": features, "heads": 1}
    images = jax.ShapeDtypeStruct((1, 32, 48, 3), jnp.float32)
    maps = nnx.eval_shape(lambda images: ViT(**tiny, rngs=nnx.Rngs(0))(images), images)
    assert [x.shape for x in maps] == [(1, 2, 3, features)] * 4


def test_a_side_must_have_whole_patches():
    encoder = random_network(lambda: ViT(**TINY["dinov2"], rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="56x55 pixels has no whole patches of 14"):
        encoder(jnp.zeros((1, 55, 56, 3)))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("dinov2_s14", 22.06),
        ("dinov2_b14", 86.58),
        ("dinov3_s16", 21.60),
        ("dinov3_splus16", 28.69),
        ("dinov3_b16", 85.66),
    ],
)
def test_published_numbers_of_parameters(name, millions):
    """The published files hold a mask token, too, of as many numbers as a token."""
    leaves = jax.tree.leaves(abstract_vit(ENCODERS[name]))
    count = sum(leaf.size for leaf in leaves) + ENCODERS[name]["features"]
    assert round(count / 1e6, 2) == millions


def test_names_are_those_of_the_hub():
    dinov2 = {
        torch_name(path, rules_of(TINY["dinov2"]))
        for path in weights_by_path(abstract_vit(TINY["dinov2"]))
    }
    assert {
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.attention.key.bias",
        "encoder.layer.3.attention.output.dense.weight",
        "encoder.layer.1.layer_scale1.lambda1",
        "encoder.layer.1.mlp.fc2.bias",
        "encoder.layer.1.norm2.weight",
        "layernorm.bias",
    } <= dinov2
    gated = TINY["dinov3_gated"]
    dinov3 = {torch_name(path, rules_of(gated)) for path in weights_by_path(abstract_vit(gated))}
    assert {
        "embeddings.register_tokens",
        "embeddings.patch_embeddings.weight",
        "layer.0.attention.q_proj.bias",
        "layer.2.mlp.gate_proj.weight",
        "layer.2.layer_scale2.lambda1",
        "norm.weight",
    } <= dinov3
    assert "layer.0.attention.k_proj.bias" not in dinov3
    assert "embeddings.position_embeddings" not in dinov3


def test_a_file_of_another_encoder_is_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    like = weights_by_path(abstract_vit(TINY["dinov3"]))
    tensors = {
        torch_name(path, rules_of(TINY["dinov3"])): np.zeros(
            leaf.shape[::-1] if path.endswith("kernel") and leaf.ndim == 2 else leaf.shape,
            np.float32,
        )
        for path, leaf in like.items()
        if "patch_embeddings/kernel" not in path
    }
    path = tmp_path / "model.safetensors"
    safetensors.save_file(tensors, path)
    with pytest.raises(InputError) as error:
        read_vit(path, TINY["dinov3_gated"])
    first, *lines = str(error.value).splitlines()
    assert first == f"{path}: tensors do not fit: 9 missing"
    assert "    embeddings.patch_embeddings.weight" in lines
    assert "    layer.0.mlp.gate_proj.* (2 tensors)" in lines


def test_attention_in_blocks_equals_all_at_once(monkeypatch):
    """Answers and gradients; the number of queries is no multiple of the block."""
    rng = np.random.default_rng(0)
    q, k, v, g = (
        jnp.asarray(rng.standard_normal((2, n, 3, 4)), jnp.float32) for n in (11, 9, 9, 11)
    )

    def loss(q, k, v):
        out = attention.attend(q, k, v)
        return (out * g).sum(), out

    def gradients():
        # Traced anew, since what decides lies outside of the arguments.
        return jax.jit(lambda *x: jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*x))(q, k, v)

    plain = gradients()
    logits = np.einsum("bqhe,bnhe->bhqn", q, k) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bhqn,bnhe->bqhe", weights, v)
    np.testing.assert_allclose(plain[1], expected, atol=1e-5)
    monkeypatch.setattr(attention, "AT_ONCE", 8)
    monkeypatch.setattr(attention, "QUERIES", 4)
    blocks = gradients()
    for got, wanted in zip(jax.tree.leaves(blocks), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
