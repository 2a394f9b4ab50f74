"""Our leaves and the released tensors correspond one to one."""

import functools
import pathlib

import numpy as np
import pytest
from flax import nnx

import release
from configs_test import load
from massformer_jax import convert
from massformer_jax.errors import InputError
from massformer_jax.models.massformer import MaSSFormer

ROOT = pathlib.Path(__file__).parents[1]


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
        convert.from_torch(tensors, leaves("r18_lite"))
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


def test_named_models_are_the_configs():
    for name, model in convert.MODELS.items():
        assert load(ROOT / f"configs/{name}.py").model.to_dict() == model


@pytest.mark.parametrize("manifest", ["r50", "r18_lite"])
def test_a_model_is_recognised(manifest):
    tensors = release.state_dict(manifest, 9)
    assert convert.recognise(tensors) == release.model_kwargs(manifest)
    for name in ("decode_head.cls_embed.bias", "decode_head.query_feat.weight"):
        assert convert.recognise({k: v for k, v in tensors.items() if k != name}) is None
