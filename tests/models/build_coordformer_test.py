"""Architectures of CoordFormer: which can be built, and names and dtypes of their weights."""

import jax
import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.models.build import (
    COORDFORMERS,
    abstract_weights,
    check_architecture,
    compute_params,
    model_graph,
)
from massformer_jax.models.names import from_torch, to_torch_layout, torch_name, weights_by_path

ENCODER = {
    "patch": 16,
    "features": 24,
    "blocks": 4,
    "heads": 3,
    "hidden": 8,
    "gated": True,
    "grid": None,
}
TINY = {"encoder": ENCODER, "decoder_width": 12, "heads": 3, "head_width": 5, "classes": 3}


@pytest.mark.parametrize(
    ("name", "millions"), [("coordformer_dinov3_splus16", 29.92), ("coordformer_dinov3_b16", 90.38)]
)
def test_published_sizes(name, millions):
    params, _ = abstract_weights(COORDFORMERS[name])
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2) == millions


def test_all_named_ones_can_be_built():
    assert len(COORDFORMERS) == 7
    for architecture in COORDFORMERS.values():
        check_architecture(architecture)
        check_architecture(architecture, training=True)


def test_weights_go_to_names_of_torch_and_back():
    """As those of MaSSFormer do in exchanged weights."""
    weights = abstract_weights(TINY)
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda x: rng.random(x.shape).astype(np.float32), weights)
    leaves = weights_by_path(filled)
    tensors = {torch_name(path): to_torch_layout(path, leaf) for path, leaf in leaves.items()}
    assert len(tensors) == len(leaves)
    assert {"decoder.bn.running_var", "backbone.layer.3.mlp.gate_proj.weight"} <= set(tensors)
    back = from_torch(tensors, weights)
    for got, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(filled), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_norms_stay_float32_in_bfloat16():
    params, _ = abstract_weights(TINY)
    cast = jax.eval_shape(lambda params: compute_params(params, "bfloat16"), params)
    assert cast["decoder"]["token_norm"]["scale"].dtype == "float32"
    assert cast["backbone"]["layer"][0]["attention"]["q_proj"]["kernel"].dtype == "bfloat16"
    model_graph(TINY, training=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "dinov3"}, r"architecture.encoder is 'dinov3'; it must have keys"),
        ({"width": 3}, r"there is no architecture.width; use decoder_width, heads"),
        ({"classes": 256}, r"architecture.classes is 256; it must be a whole number, 1 to 255"),
        ({"classes": True}, r"architecture.classes is True; it must be a whole number"),
        ({"decoder_width": 14}, r"architecture.decoder_width is 14; it must be a multiple of 3"),
        ({"decoder_width": 18}, r"architecture.decoder_width is 18; it must be a multiple of 4"),
        ({"encoder": {**ENCODER, "gated": 1}}, r"architecture.encoder.gated must be True or False"),
        (
            {"encoder": {**ENCODER, "grid": 0}},
            r"architecture.encoder.grid is 0; it must be",
        ),
        ({"encoder": {**ENCODER, "blocks": 3}}, r"architecture.encoder.blocks is 3; it must be"),
        (
            {"encoder": {**ENCODER, "features": 27}},
            r"encoder.features is 27; it must be",
        ),
        ({"encoder": {**ENCODER, "depth": 3}}, r"there is no architecture.encoder.depth"),
        ({"side": 60}, r"architecture.side is 60; it must be a multiple of 16"),
    ],
)
def test_what_cannot_be_built(change, message):
    with pytest.raises(InputError, match=message):
        check_architecture({**TINY, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_depth": 34}, r"architecture.encoder.encoder_depth is 34; it must be 18 or 50"),
        ({"decoder_width": 12}, r"architecture.encoder.decoder_width is 12; it must be a multiple"),
        ({"map": "d4"}, r"architecture.encoder.map is 'd4'; use d3 or body"),
        ({"patch": 16}, r"there is no architecture.encoder.patch; use encoder_depth, decoder"),
    ],
)
def test_maps_of_massformer_that_cannot_be_built(change, message):
    found = COORDFORMERS["coordformer_on_massformer_r18_lite"]
    with pytest.raises(InputError, match=message):
        check_architecture({**found, "encoder": {**found["encoder"], **change}})
    with pytest.raises(
        InputError, match=r"architecture.side is 2044; it must be a multiple of 256"
    ):
        check_architecture({**found, "side": 2044})


@pytest.mark.parametrize("key", ["classes", "heads"])
def test_what_is_missing(key):
    rest = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(InputError, match=f"architecture.{key} is missing"):
        check_architecture(rest)
    rest = {name: value for name, value in ENCODER.items() if name not in ("grid", "patch")}
    with pytest.raises(InputError, match=r"architecture.encoder.grid is missing"):
        check_architecture({**TINY, "encoder": rest})
