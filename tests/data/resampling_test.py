import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massformer_jax.data.resampling import nearest, resize_window, taps


def resized_by_opencv(image, size):
    """Resizes the whole image."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def windowed(image, size, rows, columns):
    """Resizes the image to a window only."""
    y = taps(image.shape[0], size[0], rows)
    x = taps(image.shape[1], size[1], columns)
    return resize_window(image[y.span, x.span], y, x)


@st.composite
def axes(draw):
    """Draws (length, resized, window) of an axis, sometimes with equal, half or double length."""
    length = draw(st.integers(1, 90))
    resized = draw(st.one_of(st.integers(1, 200), st.sampled_from([length, 2 * length])))
    if draw(st.integers(0, 4)) == 0:
        length = 2 * resized
    start = draw(st.integers(0, resized - 1))
    return length, resized, slice(start, draw(st.integers(start, resized - 1)) + 1)


@settings(max_examples=300, deadline=None)
@given(vertical=axes(), horizontal=axes(), seed=st.integers(0, 2**32 - 1))
def test_a_window_equals_opencv_on_the_whole_bit_for_bit(vertical, horizontal, seed):
    (height, new_height, rows), (width, new_width, columns) = vertical, horizontal
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = resized_by_opencv(image, (new_height, new_width))[rows, columns]
    np.testing.assert_array_equal(windowed(image, (new_height, new_width), rows, columns), expected)
    label = image[..., 0].copy()
    picked = cv2.resize(label, (new_width, new_height), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(
        label[nearest(height, new_height, rows)][:, nearest(width, new_width, columns)],
        picked[rows, columns],
    )


@pytest.mark.parametrize("short_edge", [1536, 2150, 4608, 6144])
def test_the_recipe_s_sizes_far_from_the_origin(short_edge):
    # Far from the origin float32 is coarse: weights from coordinates in the window would differ.
    width = int(3648 * short_edge / 2736 + 0.5)
    strip = np.random.default_rng(0).integers(0, 256, (40, 3648, 3), np.uint8)
    size, rows, columns = (64, width), slice(3, 60), slice(width - 1024, width)
    expected = resized_by_opencv(strip, size)[rows, columns]
    np.testing.assert_array_equal(windowed(strip, size, rows, columns), expected)
    upright = strip.swapaxes(0, 1).copy()
    expected = resized_by_opencv(upright, size[::-1])[columns, rows]
    np.testing.assert_array_equal(windowed(upright, size[::-1], columns, rows), expected)


def test_only_the_span_is_looked_at():
    span = taps(2736, 4608, slice(1000, 2024)).span
    assert span == slice(593, 1202)  # (1000 + 0.5) * 0.59375 - 0.5 = 593.55, and so on


def test_a_reduced_source_lies_where_the_whole_does():
    # A ramp that is halved by averaging gives the same values at the same places.
    ramp = np.repeat(np.arange(0, 200, dtype=np.uint8)[:, None, None], 8, 1).repeat(3, 2)
    half = ((ramp[0::2].astype(int) + ramp[1::2]) // 2).astype(np.uint8)
    columns = taps(8, 8, slice(0, 8))
    rows = taps(200, 77, slice(10, 60)), taps(200, 77, slice(10, 60), 2)
    one, two = (
        resize_window(source[vertical.span], vertical, columns)[:, 0, 0].astype(int)
        for source, vertical in zip((ramp, half), rows, strict=True)
    )
    assert np.abs(one - two).max() <= 1
