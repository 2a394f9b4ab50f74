"""Pictures of predictions, opened by OpenCV, Pillow and tifffile, and compared with the truth."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from massformer_jax.errors import InputError
from massformer_jax.output.formats import FORMATS, Options
from massformer_jax.output.pictures import cutout_png, tinted_jpeg
from massformer_jax.output.prediction import Group
from tests.helpers.predictions import SKY, flat_prediction, random_prediction

PREDICTION = random_prediction()


def encoded(name, options=None, prediction=PREDICTION):
    return FORMATS[name].encode(prediction, options or Options())


def opened(data):
    return Image.open(io.BytesIO(data))


def test_labels_are_the_indices_of_a_palette():
    (data,) = encoded("labels")
    image = opened(data)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), PREDICTION.labels)
    colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colours, PREDICTION.palette[PREDICTION.labels])


@pytest.mark.parametrize("opacity", [0.0, 0.75])
def test_an_overlay_tints_the_groups_alone(opacity):
    """Regions are even here, so that JPEG keeps their colours but for two levels."""
    prediction = flat_prediction(np.tile(np.repeat([5, 6, 3], 32), (64, 1)))
    picture = np.asarray(opened(encoded("overlay", Options(opacity=opacity), prediction)[0]))
    for column, colour in ((16, (0, 0, 255)), (48, (100, 100, 100)), (80, (0, 255, 0))):
        expected = (1 - opacity) * 100 + opacity * np.array(colour)
        np.testing.assert_allclose(picture[32, column], expected, atol=2)


def test_an_overlay_names_its_colours_if_that_is_wanted():
    plain = opened(encoded("overlay")[0])
    assert plain.size == (90, 60)
    assert opened(encoded("overlay", Options(legend=True))[0]).height > 60


def test_a_photograph_that_no_jpeg_can_hold_is_refused():
    wide = flat_prediction(np.zeros((1, 70_000)))
    with pytest.raises(InputError, match="70000 x 1 pixels is too large"):
        tinted_jpeg(wide, 0.5, legend=False)


@pytest.mark.parametrize("bits, most, dtype", [(8, 255, np.uint8), (16, 65535, np.uint16)])
def test_alpha_is_grey(bits, most, dtype):
    files = encoded("alpha", Options(alpha_bits=bits))
    for group, data in zip(PREDICTION.groups, files, strict=True):
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert grey.dtype == dtype and grey.ndim == 2
        np.testing.assert_array_equal(grey, np.rint(PREDICTION.alphas[group.name] * most))


def test_alpha_beyond_its_range_does_not_wrap_around():
    alphas = {"sky": np.array([[-0.01, 1.01]], np.float32)}
    prediction = flat_prediction([[0, 5]], groups=(SKY,), alphas=alphas)
    assert np.asarray(opened(encoded("alpha", prediction=prediction)[0])).tolist() == [[0, 255]]


def test_a_cutout_has_the_foreground_and_alpha():
    for group, data in zip(PREDICTION.groups, encoded("cutout"), strict=True):
        image = opened(data)
        assert image.mode == "RGBA"
        pixels, alpha = np.asarray(image), PREDICTION.alphas[group.name]
        np.testing.assert_array_equal(pixels[..., 3], np.rint(alpha * 255))
        seen = pixels[..., 3] > 0
        expected = PREDICTION.foregrounds[group.name]
        np.testing.assert_array_equal(pixels[seen][:, :3], expected[seen])


def test_a_cutout_keeps_the_colours_beside_its_edge_and_no_others():
    alpha = np.zeros((9, 60), np.float32)
    alpha[:, :10] = 1
    image = np.full((9, 60, 3), (10, 20, 30), np.uint8)
    pixels = np.asarray(opened(cutout_png(image, alpha)))
    assert (pixels[:, :18, :3] == (10, 20, 30)).all()
    assert not pixels[:, 18:].any()
    assert not pixels[:, 10:, 3].any()


def test_probabilities_are_pages_with_names():
    groups = (*PREDICTION.groups, Group("Straße", (0,)))
    prediction = dataclasses.replace(PREDICTION, groups=groups)
    (data,) = encoded("probabilities", prediction=prediction)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert [page.description for page in file.pages] == ["sky", "tree+person", "Straße"]
        for page, group in zip(file.pages, groups, strict=True):
            pixels = page.asarray()
            assert pixels.dtype == np.uint16
            total = PREDICTION.probabilities[..., list(group.members)].sum(-1)
            np.testing.assert_allclose(pixels / 65535, total, rtol=0, atol=0.6 / 65535)
    pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[1]
    assert len(pages) == 3 and pages[2].dtype == np.uint16
    np.testing.assert_array_equal(pages[2], pixels)


def test_one_page_is_enough():
    prediction = dataclasses.replace(PREDICTION, groups=PREDICTION.groups[:1])
    image = opened(encoded("probabilities", prediction=prediction)[0])
    assert (image.n_frames, image.tag_v2[270]) == (1, "sky")
