"""Photoshop files, opened by psd-tools and Pillow."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from massformer_jax.errors import InputError
from massformer_jax.output.formats import FORMATS, Options, check_formats
from massformer_jax.output.prediction import Group
from massformer_jax.output.psd import layered_psd
from tests.helpers.predictions import SKY, flat_prediction, random_prediction


def test_layers_have_the_alphas_as_masks():
    prediction = random_prediction((SKY, Group("Bäume+person", (3, 1))))
    (data,) = FORMATS["psd"].encode(prediction, Options(opacity=0.4))
    document = PSDImage.open(io.BytesIO(data))
    assert [layer.name for layer in document] == ["photograph", "sky", "Bäume+person"]
    photograph, *layers = document
    np.testing.assert_array_equal(np.asarray(photograph.topil().convert("RGB")), prediction.image)
    assert photograph.visible and not photograph.has_mask()
    for layer, group in zip(layers, prediction.groups, strict=True):
        mask = layer.mask.topil()
        assert mask.mode == "L" and layer.mask.bbox == (0, 0, 90, 60)
        np.testing.assert_array_equal(mask, np.rint(prediction.alphas[group.name] * 255))
        assert (layer.visible, layer.opacity) == (False, 102)
        colour = prediction.palette[group.members[0]]
        assert (np.asarray(layer.topil())[..., :3] == colour).all()


def test_names_of_layers_in_any_letters_and_of_any_length():
    """The format has room for 255 letters, of any script beside the older name in Mac Roman."""
    groups = Group("небо+天空", (5, 1)), Group("a+" * 150, (3, 2))
    document = PSDImage.open(io.BytesIO(layered_psd(random_prediction(groups), 0.5)))
    names = [layer.name for layer in document]
    assert names == ["photograph", "небо+天空", ("a+" * 150)[:255]]


def test_a_viewer_that_knows_no_layers_shows_the_photograph():
    prediction = random_prediction()
    shown = Image.open(io.BytesIO(layered_psd(prediction, 0.5)))
    assert shown.mode == "RGB"
    np.testing.assert_array_equal(shown, prediction.image)


def test_a_photograph_that_no_psd_can_hold_is_refused():
    with pytest.raises(InputError, match="30001 x 1 pixels is too large"):
        layered_psd(flat_prediction(np.zeros((1, 30_001))), 0.5)


def test_without_its_library_the_user_is_told_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "psd_tools":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"massformer-jax\[outputs\]"):
        check_formats(("psd",), None, Options())
