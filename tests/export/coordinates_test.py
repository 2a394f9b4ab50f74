"""Exported CoordFormers answer as the segmenter does, and folders say what they hold."""

import numpy as np
import pytest

from massformer_jax.inference.segmenter import Segmenter
from tests.helpers.exported_coordformer import answers, exported, photograph, weights

ONNX = "--format", "onnx"


@pytest.mark.parametrize("flags", [(), ONNX], ids=["stablehlo", "onnx"])
@pytest.mark.parametrize("name", ["turned", "learned", "massformer"])
def test_labels_are_those_of_the_segmenter(name, flags, tmp_path):
    own, image = weights(name), photograph(60, 90)
    folder = exported(tmp_path, own, *flags)
    want = Segmenter(own).predict(image)
    assert len(np.unique(want)) > 1
    found = answers(folder, image)
    assert (found.dtype, found.shape) == (want.dtype, want.shape)
    assert (found == want).mean() >= 0.9999
