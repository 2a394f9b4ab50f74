"""The files of a run, written of answers."""

from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from massformer_jax.data.photographs import read_photograph
from massformer_jax.inference.stream import Answer
from massformer_jax.output.formats import Options
from massformer_jax.output.outputs import Outputs
from massformer_jax.output.stored import as_stored
from tests.helpers.predictions import SKY, random_prediction


@pytest.mark.parametrize("orientation", [1, 6])
def test_each_format_lies_as_it_should(orientation, tmp_path):
    """Of a photograph that is stored on its side, labels are upright and masks are not."""
    prediction = random_prediction((SKY,))
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "IMG_1.jpg"
    Image.fromarray(as_stored(prediction.image, orientation)).save(path, exif=exif)
    answer = Answer(path, read_photograph(path), prediction.labels)
    outputs = Outputs(tmp_path / "out", ("labels", "colmap"), (SKY,), Options())
    photograph = PurePath("trip/IMG_1.jpg")
    outputs.write(photograph, answer, prediction.classes, prediction.palette)
    labels, mask = (np.asarray(Image.open(file)) for file in outputs.paths(photograph))
    np.testing.assert_array_equal(labels, prediction.labels)
    expected = np.where(prediction.labels == 5, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(mask, as_stored(expected, orientation))
