"""Our leaves and the released tensors correspond one to one."""

import functools
import pathlib

import numpy as np
import pytest
from flax import nnx

from massformer_jax.convert import weights
from massformer_jax.errors import InputError
from massformer_jax.models.build import ARCHITECTURES
from massformer_jax.models.massformer import MaSSFormer
from massformer_jax.models.names import from_torch, to_torch_layout, torch_name, weights_by_path
from tests.helpers import release
from tests.helpers.configs import load

ROOT = pathlib.Path(__file__).parents[2]


def leaves(manifest: str) -> dict:
    build = functools.partial(MaSSFormer, **release.model_kwargs(manifest))
    state = nnx.state(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    return nnx.to_pure_dict(state)


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_names_map_one_to_one(manifest):
    names = [torch_name(path) for path in weights_by_path(leaves(manifest))]
    assert len(names) == len(set(names))
    expected = {k for k in release.shapes(manifest) if not k.endswith("num_batches_tracked")}
    assert set(names) == expected


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_there_and_back(manifest):
    """Layouts invert each other exactly."""
    tensors = release.state_dict(manifest, 9)
    ours = weights_by_path(from_torch(tensors, leaves(manifest)))
    for path, leaf in ours.items():
        back = to_torch_layout(path, leaf)
        np.testing.assert_array_equal(back, tensors[torch_name(path)])


def test_everything_that_does_not_fit_is_listed():
    tensors = dict(release.state_dict("r18_lite", 3))
    tensors["decode_head.cls_embeds.weight"] = tensors.pop("decode_head.cls_embed.weight")
    tensors["decode_head.cls_embed.bias"] = np.zeros(4, np.float32)
    tensors["backbone.bn1.bias"] = np.zeros(64, np.int64)
    for name in [name for name in tensors if ".SEB.0." in name]:
        del tensors[name]
    tensors |= {f"auxiliary.{i}.weight": np.zeros(1, np.float32) for i in range(9)}
    tensors["decode_head.loss_cls.class_weight"] = np.ones(8, np.float32)
    tensors["backbone.fc.weight"] = tensors["backbone.fc.bias"] = np.zeros(1, np.float32)
    with pytest.raises(InputError) as error:
        from_torch(tensors, leaves("r18_lite"))
    assert str(error.value).splitlines() == [
        "tensors do not fit: 7 missing, 11 left over, 2 misshapen",
        "  missing:",
        "    decode_head.cls_embed.weight; is it decode_head.cls_embeds.weight?",
        "    decode_head.pixel_decoder.pixel_decoder.SEB.0.* (6 tensors)",
        "  left over:",
        "    decode_head.cls_embeds.weight; is it decode_head.cls_embed.weight?",
        "    auxiliary.* (9 tensors)",
        "    decode_head.loss_cls.class_weight",
        "  misshapen:",
        "    backbone.bn1.bias is of int64, not of floating-point numbers",
        "    decode_head.cls_embed.bias is (4,), the model's is (8,)",
    ]


def test_named_architectures_are_those_of_the_configs():
    for name, architecture in ARCHITECTURES.items():
        assert load(ROOT / f"configs/{name}.py").architecture.to_dict() == architecture


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_an_architecture_is_recognised(manifest):
    tensors = release.state_dict(manifest, 9)
    assert weights.recognise(tensors) == release.model_kwargs(manifest)
    for name in ("decode_head.cls_embed.bias", "decode_head.query_feat.weight"):
        assert weights.recognise({k: v for k, v in tensors.items() if k != name}) is None
