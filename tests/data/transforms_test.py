import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massformer_jax.classes import IGNORE
from massformer_jax.data import transforms as T
from massformer_jax.data.resampling import resize_image
from massformer_jax.data.sizes import resized_size

TABLES = json.loads((Path(__file__).parents[1] / "parity/misc/tables.json").read_text())


class Scripted(np.random.Generator):
    """A generator whose `random` returns given numbers, and the rest one end of their range."""

    def __init__(self, *answers, upper=True):
        super().__init__(np.random.PCG64(0))
        self.answers = list(answers)
        self.upper = upper

    def random(self):
        return self.answers.pop(0)

    def uniform(self, low, high):
        return high if self.upper else low

    def integers(self, low, high):
        return high - 1 if self.upper else low


def element(height=50, width=70, seed=0):
    """Makes a random image and a random label map."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (height, width, 3), np.uint8),
        "label": rng.choice(np.uint8([0, 1, 5, 6, IGNORE]), (height, width)),
    }


@pytest.mark.parametrize("row", TABLES["train_resize"], ids=lambda r: f"{r['h']}-{r['short_edge']}")
def test_training_sizes_are_the_release_s(row):
    size = resized_size(row["h"], row["w"], long_edge=8192, short_edge=row["short_edge"])
    assert list(size) == row["out_hw"]


@pytest.mark.parametrize("row", TABLES["test_resize"], ids=lambda row: f"{row['h']}x{row['w']}")
def test_evaluation_sizes_are_the_release_s(row):
    size = resized_size(row["h"], row["w"], long_edge=4096, short_edge=3072)
    assert list(size) == row["out_hw"]


def test_images_are_blended():
    ramp = np.repeat(np.linspace(0, 250, 70, dtype=np.uint8)[None, :, None], 50, 0).repeat(3, 2)
    wide = resize_image(ramp, (50, 140))[0, :, 0].astype(float)
    # New pixel 2i lies a quarter of a pixel before pixel i, and new pixel 2i+1 a quarter behind it.
    expected = np.interp((np.arange(140) + 0.5) / 2 - 0.5, np.arange(70), ramp[0, :, 0])
    assert np.abs(wide - expected).max() <= 1


def test_images_shrink_without_antialiasing():
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    # At a quarter of the size, new pixel i lies between the old pixels 4i+1 and 4i+2, and only they
    # count.
    four = [image[y::4, x::4].astype(float) for y in (1, 2) for x in (1, 2)]
    assert np.abs(resize_image(image, (10, 20)) - sum(four) / 4).max() <= 1


def test_smaller_than_the_crop_is_padded():
    crop = element(20, 32)
    padded = T.PadToSquare(32).map(crop)
    assert padded["image"].shape == (32, 32, 3)
    np.testing.assert_array_equal(padded["label"][:20], crop["label"])
    np.testing.assert_array_equal(padded["image"][:20], crop["image"])
    assert (padded["label"][20:] == IGNORE).all()
    assert (padded["image"][20:] == np.uint8([124, 116, 104])).all()
    assert T.PadToSquare(32).map(padded) is padded


def test_flip_turns_both_or_neither():
    original = element()
    flipped = T.RandomFlip().random_map(original, Scripted(0.49))
    np.testing.assert_array_equal(flipped["image"], original["image"][:, ::-1])
    np.testing.assert_array_equal(flipped["label"], original["label"][:, ::-1])
    assert T.RandomFlip().random_map(original, Scripted(0.5)) is original


# PhotometricDistortion draws a number for each of these questions, in turn: brightness, whether
# contrast comes first, contrast (if it comes first), saturation, hue, contrast (if it comes last).
# A number below 1/2 means yes.
YES, NO = 0.4, 0.6


def by_the_book(image, factor=1.0, offset=0.0):
    """Computes image * factor + offset in float32, clipped and rounded down."""
    return np.clip(image.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("upper", [False, True])
def test_brightness_and_contrast(upper):
    image = element()["image"]
    transform = T.PhotometricDistortion()
    offset, factor = (32, 1.5) if upper else (-32, 0.5)

    def distort(*answers):
        rng = Scripted(*answers, upper=upper)
        out = transform.random_map({"image": image}, rng)
        assert not rng.answers
        return out["image"]

    np.testing.assert_array_equal(distort(NO, YES, NO, NO, NO), image)
    np.testing.assert_array_equal(distort(YES, YES, NO, NO, NO), by_the_book(image, 1, offset))
    both = by_the_book(by_the_book(image, 1, offset), factor)
    np.testing.assert_array_equal(distort(YES, YES, YES, NO, NO), both)
    np.testing.assert_array_equal(distort(YES, NO, NO, NO, YES), both)


def test_contrast_last_comes_after_saturation():
    image = element()["image"]

    def saturated(x):
        hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = by_the_book(hsv[..., 1], 1.5)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    first = T.PhotometricDistortion().random_map({"image": image}, Scripted(NO, YES, YES, YES, NO))
    last = T.PhotometricDistortion().random_map({"image": image}, Scripted(NO, NO, YES, NO, YES))
    np.testing.assert_array_equal(first["image"], saturated(by_the_book(image, 1.5)))
    np.testing.assert_array_equal(last["image"], by_the_book(saturated(image), 1.5))
    assert (first["image"] != last["image"]).any()


@pytest.mark.parametrize(("upper", "shift"), [(True, 17), (False, -18)])
def test_hue_shift_excludes_its_upper_end(upper, shift):
    image = element()["image"]
    rng = Scripted(NO, YES, NO, NO, YES, upper=upper)
    out = T.PhotometricDistortion().random_map({"image": image}, rng)["image"]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + shift) % 180
    np.testing.assert_array_equal(out, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def test_each_draws_for_every_element():
    parts = [element(seed=seed) for seed in range(12)]
    out = T.Each(T.RandomFlip()).random_map(parts, np.random.default_rng(0))
    flipped = [(a["label"] == b["label"][:, ::-1]).all() for a, b in zip(out, parts, strict=True)]
    assert 2 < sum(flipped) < 10


def test_distortion_leaves_its_input_alone_and_does_something():
    original = element()
    before = {key: value.copy() for key, value in original.items()}
    changed = 0
    for seed in range(32):
        out = T.PhotometricDistortion().random_map(original, np.random.default_rng(seed))
        changed += (out["image"] != original["image"]).any()
        np.testing.assert_array_equal(original["image"], before["image"])
        np.testing.assert_array_equal(out["label"], before["label"])
    # Each of four changes has probability 1/2, so that one element in sixteen stays as it is.
    assert 24 <= changed < 32


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(2, 90),
    width=st.integers(2, 90),
    size=st.integers(8, 64),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_chain_keeps_shapes_types_and_labels(height, width, size, seed):
    original = element(min(height, size), min(width, size), seed)
    labels = set(np.unique(original["label"])) | {IGNORE}
    rng = np.random.default_rng(seed)
    out = original
    for transform in (T.RandomFlip(), T.PhotometricDistortion()):
        out = transform.random_map(out, rng)
    out = T.PadToSquare(size).map(out)
    assert out["image"].shape == (size, size, 3) and out["image"].dtype == np.uint8
    assert out["label"].shape == (size, size) and out["label"].dtype == np.uint8
    assert set(np.unique(out["label"])) <= labels
    assert out["image"].flags.c_contiguous and out["label"].flags.c_contiguous
