"""Batches for the coordinate decoder: surroundings, places and labels belong together."""

import itertools

import cv2
import numpy as np
import pytest

from massformer_jax.data.coordinates import squeezed
from massformer_jax.data.pipeline import Decode, stream_position
from massformer_jax.data.records import PipelineError, open_split, read_record
from massformer_jax.data.transforms import PhotometricDistortion
from massformer_jax.data.whole import WithCoordinates, coordinate_dataset


class SameColours(PhotometricDistortion):
    """Changes no colours."""

    def random_map(self, element, rng):
        return element


def test_surroundings_places_and_labels_are_those_of_the_photograph(data_dir):
    record = read_record(open_split(data_dir, "train"), 0)
    decoded = Decode().map(record)
    mirrored = set()
    for seed in range(4):
        (made,) = WithCoordinates(64, 50, SameColours()).random_map(
            record, np.random.default_rng(seed)
        )
        photograph, label = decoded["image"], decoded["label"]
        if not np.array_equal(made["image"], squeezed(photograph, 64)):
            mirrored.add(seed)
            photograph, label = photograph[:, ::-1], label[:, ::-1]
        np.testing.assert_array_equal(made["image"], squeezed(np.ascontiguousarray(photograph), 64))
        at = np.rint(made["places"] * label.shape[::-1] - 0.5).astype(int)
        np.testing.assert_array_equal(made["label"], label[at[:, 1], at[:, 0]])
        np.testing.assert_array_equal(made["patches"][:, 0, 0], photograph[at[:, 1], at[:, 0]])
    assert 0 < len(mirrored) < 4


def test_colours_change_alike_in_both():
    """A photograph of one colour has one colour in both afterwards."""
    photograph = np.full((40, 60, 3), (90, 120, 200), np.uint8)
    _, image = cv2.imencode(".png", photograph[..., ::-1])
    _, label = cv2.imencode(".png", np.zeros((40, 60), np.uint8))
    record = {
        "image": image.tobytes(),
        "segmentation_mask": label.tobytes(),
        "file_name": b"a.png",
    }
    colours = set()
    for seed in range(6):
        transform = WithCoordinates(32, 9, PhotometricDistortion())
        (made,) = transform.random_map(record, np.random.default_rng(seed))
        (colour,) = {tuple(x) for x in made["image"].reshape(-1, 3).tolist()}
        assert {tuple(x) for x in made["patches"].reshape(-1, 3).tolist()} == {colour}
        colours.add(colour)
    assert len(colours) > 2


def batches(data_dir, **settings):
    settings = {"batch_size": 2, "seed": 3, "side": 32, "coordinates": 7, **settings}
    return iter(coordinate_dataset(data_dir, num_threads=2, **settings))


def test_batches_and_where_they_continue(data_dir):
    first = list(itertools.islice(batches(data_dir), 3))
    assert {key: (x.shape, str(x.dtype)) for key, x in first[0].items()} == {
        "image": ((2, 32, 32, 3), "uint8"),
        "patches": ((2, 7, 8, 8, 3), "uint8"),
        "places": ((2, 7, 2), "float32"),
        "label": ((2, 7), "uint8"),
    }
    again = batches(data_dir)
    again.set_state(stream_position(2, batch_size=2, host_count=1))
    for key, x in next(again).items():
        np.testing.assert_array_equal(x, first[2][key])


def test_hosts_share_a_batch(data_dir):
    whole = next(batches(data_dir))
    parts = [next(batches(data_dir, host_index=i, host_count=2)) for i in range(2)]
    for key, x in whole.items():
        np.testing.assert_array_equal(x, np.concatenate([part[key] for part in parts]))
    with pytest.raises(PipelineError, match="cannot be shared by 3 hosts"):
        batches(data_dir, host_count=3)


def test_squeezing_takes_means_where_it_shrinks():
    photograph = np.zeros((4, 6, 3), np.uint8)
    photograph[:, ::2] = 255
    expected = np.broadcast_to(np.array([2 / 3, 1 / 3])[None, :, None], (2, 2, 3))
    np.testing.assert_allclose(squeezed(photograph, 2) / 255, expected, atol=0.01)
    assert squeezed(photograph[:3, :3], 8).shape == (8, 8, 3)
