"""Batches of rendered scenes for both families, and the tables of what was learned from them."""

import itertools
import json

import cv2
import numpy as np

from massformer_jax.classes import IGNORE
from massformer_jax.data.images import encode_mask
from massformer_jax.data.pipeline import Decode
from massformer_jax.models.build import check_architecture
from scripts.benchmark import coordinate_scenes, coordinates
from scripts.benchmark.coordinate_picture import write_picture
from scripts.benchmark.coordinate_scenes import SIDE, batches, crop, record, whole


def test_both_families_see_the_same_photographs_in_the_same_order(monkeypatch):
    monkeypatch.setattr(coordinate_scenes, "COORDINATES", 50)
    records = [record("train", i) for i in range(3)]
    seen = {}
    for example in (crop, whole):
        names = []

        def noted(found, rng, example=example, names=names):
            names.append(found["file_name"])
            return example(found, rng)

        first, *_, last = itertools.islice(batches(records, noted, 2, seed=5), 3)
        assert first["image"].shape == last["image"].shape == (2, SIDE, SIDE, 3)
        seen[example] = names
    # Each photograph once, then each again.
    assert seen[crop] == seen[whole]
    assert len(set(seen[crop][:3])) == len(set(seen[crop][3:])) == 3
    assert first["patches"].shape == (2, 50, 8, 8, 3) and first["label"].shape == (2, 50)
    (again,) = itertools.islice(batches(records, whole, 2, seed=5), 1)
    np.testing.assert_array_equal(again["patches"], first["patches"])
    (other,) = itertools.islice(batches(records, whole, 2, seed=6), 1)
    assert not np.array_equal(other["patches"], first["patches"])


def test_a_perfect_answer_has_all_points(monkeypatch):
    def answers(image):
        (i,) = (i for i, truth in enumerate(truths) if np.array_equal(truth["image"], image))
        every = np.ones(image.shape[:2], bool)
        nothing = np.zeros(image.shape[:2], np.uint8)
        known = np.where(truths[i]["label"] == IGNORE, 0, truths[i]["label"])
        return {
            "every": coordinates.Asked(known, every),
            "stride=8": coordinates.Asked(nothing, ~every),
        }

    # One program instead of two.
    monkeypatch.setattr(coordinates, "RATIOS", dict.fromkeys(coordinates.RATIOS, 0.001))
    truths = [Decode().map(record("val", i)) for i in range(2)]
    by_way, drawn = coordinates.scores(answers, 2)
    assert by_way["every"]["mIoU"] == by_way["every"]["mBF1"] == by_way["every"]["asked"] == 100
    # Where haze hides what a pixel is, labels are wrong by the width of a boundary.
    assert 90 < by_way["every"]["mBIoU"] == by_way["every"]["mBIoU, 3 pixels"] <= 100
    assert by_way["stride=8"]["mIoU"] < 10 and by_way["stride=8"]["asked"] == 0
    assert set(by_way["every"]) == {*coordinates.SCORES, "asked"}
    assert drawn.shape == truths[0]["label"].shape


def test_all_networks_can_be_built():
    for network in coordinates.NETWORKS.values():
        check_architecture(network.architecture, training=True)
        assert not network.begins_with or network.begins_with in coordinates.NETWORKS


def made_up(every: float, asked: dict[str, float]) -> dict:
    def row(share, biou):
        return {**dict.fromkeys(coordinates.SCORES, 50.0), "mBIoU": biou, "asked": share}

    return {"every": row(100.0, every), **{way: row(20.0, x) for way, x in asked.items()}}


def test_tables_show_means_spreads_and_what_is_lost_by_asking_less(tmp_path):
    for seed, biou in enumerate((30.0, 34.0)):
        runs = {"massformer": made_up(biou - 10, {}), "vit": made_up(biou, {"sefi": biou - 1})}
        for name, scores in runs.items():
            found = {"network": name, "seed": seed, "scores": scores}
            found |= {"parameters": 1_234_567, "cpu_seconds_of_a_step": 1.0 + seed}
            (tmp_path / f"{name}_{seed}.json").write_text(json.dumps(found))
    text = coordinates.tables(tmp_path)
    same = "50.0 (50.0 to 50.0)"
    assert f"| MaSSFormer | 1.23 M | {same} | 22.0 (20.0 to 24.0) | {same} | {same} | 2 |" in text
    assert f"| coordinates on a ViT from scratch | 1.23 M | {same} | 32.0 (30.0 to 34.0)" in text
    assert text.count("| 2 | 1.5 s |\n") == 2
    assert "| `sefi` | 20.0 (20.0 to 20.0) | 50.0" in text
    assert "| -1.00 (-1.00 to -1.00) |\n" in text and "frozen" not in text
    assert text.count("Coordinates on a ViT from scratch:\n\n") == 1


def test_the_picture_shows_the_answers_that_are_there(tmp_path):
    scene = Decode().map(record("val", 0))
    (tmp_path / "vit_0.png").write_bytes(encode_mask(np.full_like(scene["label"], 5)))
    path = tmp_path / "picture.jpg"
    write_picture(path, tmp_path, {"vit_0": "ViT", "massformer_0": "MaSSFormer"})
    drawn = cv2.imread(str(path))
    height, width = scene["label"].shape
    assert drawn.shape[1] == (3 * width + 2 * 8) // 2
    sky = drawn[height // 2 + 50 :, -width // 2 :].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(sky, (255, 0, 0), atol=8)  # blue, the last channel first
