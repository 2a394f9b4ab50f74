import io

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import IGNORE
from massformer_jax.data.crops import Place, ResizedCrop, cut_images, cut_label, is_varied
from massformer_jax.data.images import ImageError, decode_image, decode_mask, encode_mask
from massformer_jax.data.sizes import resized_size


def record(height=90, width=120, seed=0, **jpeg):
    """Makes a record whose photograph and label map show the same random patches."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.uint8([0, 1, 5, 6, IGNORE]), (height // 9 + 1, width // 9 + 1))
    label = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    image = 40 * label[..., None] + rng.integers(0, 40, (height, width, 3), np.uint8)
    return encoded(image, label, **jpeg)


def encoded(image, label, **jpeg):
    """Makes a record of a photograph and its label map."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, **jpeg)
    return {
        "image": buffer.getvalue(),
        "segmentation_mask": encode_mask(label),
        "file_name": b"a.jpg",
    }


def plainly(record, crop, rng):
    """Does the released steps one after the other, on the whole photograph."""
    image = decode_image(record["image"])
    label = decode_mask(record["segmentation_mask"])
    short_edge = int(rng.choice(crop.short_edges))
    size = resized_size(*label.shape, long_edge=crop.max_long_edge, short_edge=short_edge)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    for redrawn in range(crop.tries + 1):
        top, left = (int(rng.integers(max(length - crop.size, 0) + 1)) for length in size)
        window = slice(top, top + crop.size), slice(left, left + crop.size)
        classes, counts = np.unique(label[window], return_counts=True)
        counts = counts[classes != IGNORE]
        if redrawn == crop.tries or (len(counts) > 1 and counts.max() / counts.sum() < 0.75):
            return image[window], label[window]


@pytest.mark.parametrize("jpeg", [{}, {"restart_marker_rows": 1}, {"progressive": True}])
def test_crops_equal_the_released_steps_bit_for_bit(jpeg):
    crop = ResizedCrop(32, (24, 61, 90, 133, 180), max_long_edge=220)
    for seed in range(60):
        element = record(seed=seed, **jpeg)
        (out,) = crop.random_map(element, np.random.default_rng(seed))
        image, label = plainly(element, crop, np.random.default_rng(seed))
        np.testing.assert_array_equal(out["image"], image)
        np.testing.assert_array_equal(out["label"], label)
        assert all(array.flags.c_contiguous for array in out.values())
        # None of them is a view, which would keep the photograph in memory while the crop waits.
        assert all(
            array.nbytes <= 32 * 32 * 4
            for a in out.values()
            for array in (a, a.base)
            if array is not None
        )


def test_all_crops_of_one_decoding_equal_the_released_steps():
    several = ResizedCrop(32, (61, 90, 133), max_long_edge=220, crops=4)
    element = record(seed=3)
    places = [
        Place((61, 81), slice(0, 32), slice(40, 72)),
        Place((133, 177), slice(90, 122), slice(3, 35)),
    ]
    alone = [cut_images(element["image"], "a", (90, 120), [place])[0] for place in places]
    together = cut_images(element["image"], "a", (90, 120), places)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
    out = several.random_map(element, np.random.default_rng(0))
    assert len({part["image"].tobytes() for part in out}) == 4


def test_short_edges_are_all_drawn_and_the_long_edge_is_bounded():
    rng = np.random.default_rng(0)
    crop = ResizedCrop(500, (20, 30, 40), max_long_edge=50)
    shapes = {crop.random_map(record(50, 100), rng)[0]["label"].shape for _ in range(40)}
    assert shapes == {(20, 40), (25, 50)}  # 30 and 40 are cut to a long edge of 50
    upright = crop.random_map(record(100, 50), rng)[0]
    assert upright["image"].shape[:2] == upright["label"].shape
    assert upright["label"].shape in {(40, 20), (50, 25)}


def test_short_edges_are_drawn_evenly():
    crop = ResizedCrop(500, (20, 30, 40, 50), max_long_edge=200)
    rng = np.random.default_rng(0)
    element = record(50, 60)
    drawn = [crop.random_map(element, rng)[0]["label"].shape[0] for _ in range(400)]
    counts = np.unique(drawn, return_counts=True)[1]
    assert counts.sum() == 400 and counts.min() > 70 and counts.max() < 130


def test_crop_reaches_all_corners():
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    element = encoded(np.zeros((4, 4, 3), np.uint8), label)
    rng = np.random.default_rng(0)
    crop = ResizedCrop(3, (4,), 4)
    corners = {int(crop.random_map(element, rng)[0]["label"][0, 0]) for _ in range(60)}
    assert corners == {0, 1, 4, 5}


@pytest.mark.parametrize(
    ("labels", "varied"),
    [
        ([0, 0, 0, 1], False),  # exactly the largest share
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 0], False),
        ([0, 0, 1, IGNORE], True),  # two of three labelled pixels
        ([0, 0, IGNORE, IGNORE], False),  # one class
        ([0, 0, 0, 1] + [IGNORE] * 4, False),  # three of four labelled pixels
        ([IGNORE] * 4, False),
        ([0, 0, 0, 0, 0, 1, 2], True),  # 5/7
    ],
)
def test_varied_as_mmsegmentation_counts_it(labels, varied):
    assert is_varied(np.uint8([labels]), 0.75) is varied


def test_crop_is_drawn_again_until_varied():
    # Only one column in a hundred gives a varied crop.
    label = np.zeros((8, 807), np.uint8)
    label[:, 400:] = 5
    element = encoded(np.zeros((8, 807, 3), np.uint8), label)
    seen = []
    for tries in (0, 3000):
        crop = ResizedCrop(8, (8,), 807, tries=tries)
        for seed in range(20):
            (out,) = crop.random_map(element, np.random.default_rng(seed))
            seen.append(is_varied(out["label"], 0.75))
    assert sum(seen[:20]) <= 2
    assert all(seen[20:])


def test_crop_gives_up_after_its_tries():
    class Counting(np.random.Generator):
        calls = 0

        def integers(self, stop):
            self.calls += 1
            return 0

        def choice(self, choices):
            return choices[0]

    rng = Counting(np.random.PCG64(0))
    element = encoded(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8))
    (out,) = ResizedCrop(4, (9,), 9).random_map(element, rng)
    assert out["label"].shape == (4, 4)
    assert rng.calls == 2 * 11  # row and column: the first crop, and ten more


def test_smaller_than_the_crop_is_kept_whole():
    (out,) = ResizedCrop(32, (20,), 50).random_map(record(20, 50), np.random.default_rng(0))
    assert out["label"].shape == (20, 32) and out["image"].shape == (20, 32, 3)


def test_label_is_cut_as_opencv_picks():
    label = decode_mask(record()["segmentation_mask"])
    resized = cv2.resize(label, (173, 61), interpolation=cv2.INTER_NEAREST)
    place = Place((61, 173), slice(7, 39), slice(120, 173))
    np.testing.assert_array_equal(cut_label(label, place), resized[7:39, 120:173])


@pytest.mark.parametrize(
    ("size", "reduced"), [((46, 60), False), ((45, 60), True), ((20, 27), True)]
)
def test_inexact_decodes_smaller_where_the_photograph_shrinks_to_half(size, reduced):
    # The crop stays close to the exact one; docs/pipeline.md says how close it is on photographs.
    rng = np.random.default_rng(0)
    smooth = cv2.resize(
        rng.integers(0, 256, (9, 12, 3), np.uint8), (120, 90), interpolation=cv2.INTER_CUBIC
    )
    data = encoded(smooth, np.zeros((90, 120), np.uint8))["image"]
    places = [Place(size, slice(3, 19), slice(5, 21))]
    (exact,) = cut_images(data, "a", (90, 120), places)
    (close,) = cut_images(data, "a", (90, 120), places, exact=False)
    difference = np.abs(exact.astype(int) - close)
    assert bool(difference.any()) is reduced
    assert difference.mean() < 6


def test_a_photograph_unlike_its_label_map_is_refused():
    element = record(90, 120)
    element["segmentation_mask"] = record(120, 90)["segmentation_mask"]
    crop = ResizedCrop(32, (60,), 120)
    with pytest.raises(
        ImageError, match=r"^a\.jpg: the photograph is 120x90, its label map 90x120$"
    ):
        crop.random_map(element, np.random.default_rng(0))
