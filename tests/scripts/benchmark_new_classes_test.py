"""Scenes with new classes and wrong labels of them, and the tables of what was learned."""

import json

import cv2
import numpy as np

from massformer_jax.data.sample.objects import BACKGROUND
from scripts.benchmark import new_classes
from scripts.benchmark.new_class_scenes import (
    BLUR,
    CAR,
    EROSION,
    SHIFT,
    TENT,
    exact_labels,
    render,
    training_labels,
    true_labels,
    wrong_mask,
)


def test_scenes_have_both_new_classes_and_exact_ones():
    scenes = [render("train", i) for i in range(3)]
    assert {CAR, TENT} <= set(np.unique([scene.label for scene in scenes]))
    for i, scene in enumerate(scenes):
        new, exact = np.isin(scene.label, (CAR, TENT)), exact_labels(scene)
        assert (exact[new] == BACKGROUND).all()
        np.testing.assert_array_equal(exact[~new], scene.label[~new])
        np.testing.assert_array_equal(true_labels(scene, ("car", "tent")), scene.label)
        one = true_labels(scene, ("car",))
        assert (one[scene.label == TENT] == BACKGROUND).all() and one.max() in (CAR, 255)
        # Only near the new classes do the labels to train on differ from the true ones.
        wrong = training_labels(scene, i, ("car", "tent")) != scene.label
        near = cv2.dilate(new.astype(np.uint8), np.ones((15, 15)))
        assert 0 < wrong.sum() < new.sum() and not wrong[near == 0].any()
        # And only where exact labels say background: the rest is known better than any mask.
        assert not wrong[exact != BACKGROUND].any()


def test_masks_are_wrong_by_known_amounts():
    """A large square: each side is moved in by the erosion, and all by the shift."""
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    found = wrong_mask(mask, 0.0)
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    expected = (30 + EROSION, 89 - EROSION, 40 + EROSION + SHIFT, 119 - EROSION + SHIFT)
    ends = (rows[0], rows[-1], columns[0], columns[-1])
    np.testing.assert_allclose(ends, expected, atol=1)
    assert not found[rows[0], columns[0]] and BLUR >= 2  # corners are round


def test_tables_show_means_and_spreads(tmp_path):
    for seed, biou in enumerate((40.0, 44.0)):
        scores = {name: [*[70.0] * 7, biou + i] for i, name in enumerate(("BIoU", "IoU"))}
        scores["BIoU of 3 pixels"] = [*[80.0] * 7, biou + 10]
        way = "(c) less at borders"
        found = {"new": ["car"], "way": way, "seed": seed, "scores": scores}
        (tmp_path / f"car_c_{seed}.json").write_text(json.dumps(found))
    text = new_classes.tables(tmp_path)
    assert text.startswith("New: car.") and "tent" not in text
    assert "| (c) less at borders | 42.0 (40.0 to 44.0) | 52.0 (50.0 to 54.0) | 70.0" in text
    assert text.count("|\n") == 3
