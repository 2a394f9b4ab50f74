"""Our leaves and the released tensors correspond one to one."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

import release
from massformer_jax import convert
from massformer_jax.models.massformer import MaSSFormer


def leaves(manifest: str) -> dict:
    build = functools.partial(MaSSFormer, **release.model_kwargs(manifest))
    state = nnx.state(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    return nnx.to_pure_dict(state)


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_names_map_one_to_one(manifest):
    names = [convert.torch_name(path) for path in convert.flatten(leaves(manifest))]
    assert len(names) == len(set(names))
    expected = {k for k in release.shapes(manifest) if not k.endswith("num_batches_tracked")}
    assert set(names) == expected


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_there_and_back(manifest):
    """Layouts invert each other exactly."""
    tensors = release.state_dict(manifest, 9)
    ours = convert.flatten(convert.from_torch(tensors, leaves(manifest)))
    for path, leaf in ours.items():
        back = convert.to_torch_layout(path, leaf)
        np.testing.assert_array_equal(back, tensors[convert.torch_name(path)])


def test_every_missing_or_misshapen_tensor_is_named():
    tensors = dict(release.state_dict("r18_lite", 3))
    del tensors["backbone.conv1.weight"]
    tensors["decode_head.cls_embed.bias"] = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"backbone\.conv1\.weight.*|cls_embed\.bias.*") as error:
        convert.from_torch(tensors, leaves("r18_lite"))
    assert "backbone.conv1.weight is missing" in str(error.value)
    assert "decode_head.cls_embed.bias gives (4,)" in str(error.value)
    assert jax.tree.leaves(leaves("r18_lite"))
