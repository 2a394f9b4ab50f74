"""Tests that the builder and all readers agree about which JPEGs are sound."""

import functools
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.data.images import decode_image, decode_window, image_size
from massformer_jax.data_builders.mass13k.headers import read_headers
from massformer_jax.data_builders.mass13k.release_folder import Pair
from massformer_jax.data_builders.mass13k.shards import read_example
from tests.helpers.altered_jpegs import altered, harmless, sound_jpegs


def built(files, folder):
    """Returns those of the photographs, in bytes, that the builder would store."""
    pairs = []
    for number, data in enumerate(files):
        path = folder / f"{number:05}.jpg"
        path.write_bytes(data)
        pairs.append(Pair(path, None))
    sources, _ = read_headers(pairs, num_threads=1)
    examples = [read_example(source)[0] for source in sources]
    return [example["image"] for example in examples if example is not None]


def read(data):
    """Reads a photograph as training and evaluation do, and compares what they see."""
    whole = decode_image(data)
    height, width = image_size(data)
    assert whole.shape == (height, width, 3)
    rows, columns = slice(height // 3, height // 2), slice(2, width - 2)
    np.testing.assert_array_equal(decode_window(data, rows, columns), whole[rows, columns])
    return whole


@pytest.mark.parametrize("number", range(len(sound_jpegs())))
def test_what_decoders_pass_over_is_no_damage(number, tmp_path, capfd):
    data = sound_jpegs()[number]
    cases = dict(harmless(data))
    assert len(cases) > 30
    kept = built(cases.values(), tmp_path)
    expected = decode_image(data)
    for what, changed in cases.items():
        assert changed in kept, what
        np.testing.assert_array_equal(read(changed), expected, err_msg=what)


def test_what_is_built_is_read(tmp_path, capfd):
    # Of 8,124 files that were altered like this and that the builder took, the readers once refused
    # 1,696.
    rng = np.random.default_rng(0)
    sound = sound_jpegs()
    files = [altered(sound[rng.integers(len(sound))], rng) for _ in range(1000)]
    kept = built(files, tmp_path)
    assert 500 < len(kept) < 950
    for data in kept:
        read(data)


def test_what_both_decoders_read_is_read(tmp_path, capfd):
    # Pillow and OpenCV are asked, and the pixels of the undamaged file tell whether they are right.
    rng = np.random.default_rng(1)
    sound = sound_jpegs()
    pixels = functools.cache(decode_image)
    files = []
    for _ in range(500):
        before = sound[rng.integers(len(sound))]
        data = altered(before, rng)
        seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        try:
            Image.open(io.BytesIO(data)).load()
        except (OSError, SyntaxError, ValueError):
            continue
        if seen is not None and np.array_equal(seen, pixels(before)):
            files.append(data)
    assert len(files) > 200
    assert built(files, tmp_path) == files
    for data in files:
        read(data)
