"""Scores are steadied over time, and nothing trails behind what moves."""

import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.inference.stream import Answer
from massformer_jax.video import smoothing
from massformer_jax.video.smoothing import labelled, steadied

H, W, SIDE = 96, 160, 24


def texture(seed, h=H, w=3 * W):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (h // 4, w // 4, 3), np.uint8)
    return small.repeat(4, 0).repeat(4, 1)


def moving(count, speed=6, pan=0, seed=0):
    """Yields photographs and true labels: a square of class 1 before a background of class 0."""
    far, near = texture(seed), texture(seed + 1, SIDE, SIDE)
    for t in range(count):
        image = far[:, pan * t : pan * t + W].copy()
        labels = np.zeros((H, W), np.uint8)
        left = 10 + speed * t
        image[40 : 40 + SIDE, left : left + SIDE] = near[:, : W - left]
        labels[40 : 40 + SIDE, left : left + SIDE] = 1
        yield image, labels


def answers(views, doubt, seed=0):
    """Yields answers whose scores are those of the truth, and doubt that differs in each frame."""
    rng = np.random.default_rng(seed)
    for i, (image, labels) in enumerate(views):
        scores = np.stack([labels == 0, labels == 1], -1).astype(np.float32)
        scores += doubt * rng.normal(0, 1, scores.shape).astype(np.float32)
        yield Answer(i, image, scores)


def wrong(found, views):
    return [np.mean(x.answer.argmax(-1) != y) for x, (_, y) in zip(found, views, strict=True)]


def test_a_still_scene_is_averaged():
    views = [next(moving(1))] * 10
    alone = list(answers(views, 0.6))
    steady = wrong(steadied(answers(views, 0.6)), views)
    assert steady[0] == wrong(alone, views)[0] > 0.1
    assert steady[-1] < 0.01 * steady[0]  # as if six frames went into each
    assert steady[2] < 0.5 * steady[0]  # the first frames are a mean already


@pytest.mark.parametrize(("speed", "pan"), [(6, 0), (2, 0), (0, 3), (4, 5)])
def test_nothing_trails_behind_what_moves(speed, pan):
    """Without doubt, the labels of every frame are the truth, but for corners between pixels."""
    views = list(moving(10, speed, pan))
    assert max(wrong(steadied(answers(views, 0.0)), views)) < 0.001
    views = list(moving(10, speed, pan))
    alone, steady = (
        wrong(x, views)[-1] for x in (answers(views, 0.6), steadied(answers(views, 0.6)))
    )
    assert steady < 0.4 * alone


def test_a_plain_average_would_trail():
    """Otherwise the test above shows nothing."""
    views, mean, errors = list(moving(10)), None, []
    for answer in answers(views, 0.0):
        mean = answer.answer if mean is None else mean + (answer.answer - mean) / 6
        errors.append(answer._replace(answer=mean))
    assert max(wrong(errors, views)) > 0.01


def test_a_cut_begins_anew():
    first, second = list(moving(4)), list(moving(4, seed=7))
    found = [x.answer for x in steadied(answers(first + second, 0.6))]
    alone = [x.answer for x in answers(first + second, 0.6)]
    np.testing.assert_array_equal(found[4], alone[4])
    assert not np.array_equal(found[5], alone[5])


def test_another_size_begins_anew_and_errors_are_passed_on():
    large = list(answers(moving(3), 0.6))
    small = [x._replace(image=x.image[:-8], answer=x.answer[:-8]) for x in large]
    broken = Answer("x", error=InputError("broken"))
    found = list(steadied([large[0], broken, *small, broken, large[2]]))
    assert [x.source for x in found] == [0, "x", 0, 1, 2, "x", 2]
    assert found[1] is broken and found[5] is broken
    np.testing.assert_array_equal(found[2].answer, small[0].answer)
    np.testing.assert_array_equal(found[6].answer, large[2].answer)
    assert not np.array_equal(found[3].answer, small[1].answer)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (40, 3), (17, 33)])
@pytest.mark.parametrize("classes", [1, 2, 7, 150])
def test_any_size_and_number_of_classes(size, classes):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*size, 3), np.uint8)
    scores = rng.random((*size, classes), np.float32)
    scores.setflags(write=False)
    found = list(steadied([Answer(0, image, scores), Answer(1, image, scores)]))
    np.testing.assert_allclose(found[1].answer, scores, atol=1e-6)
    assert found[1].answer.dtype == np.float32


@pytest.mark.parametrize("size", [(33_000, 16), (16, 33_000)])
def test_what_is_too_long_to_be_moved_is_one_clear_error(size):
    far = Answer("far.png", np.zeros((*size, 3), np.uint8), np.zeros((*size, 2), np.float32))
    found = list(steadied([far, *answers(moving(1), 0.0), far]))
    assert [x.error is None for x in found] == [False, True, False]
    assert "leave out --smooth" in str(found[0].error) and found[0].answer is None
    assert str(found[0].error).startswith(f"far.png: {size[1]}x{size[0]} pixels")


def test_large_frames_move_by_the_flow_of_smaller_ones():
    """The flow is computed from at most 1024 pixels, and has to be enlarged with its length."""
    far = texture(3, 800, 2400)
    images = [far[:, 8 * t : 8 * t + 1600] for t in range(4)]
    views = [(image, (image[..., 0] > 128).astype(np.uint8)) for image in images]
    assert max(wrong(steadied(answers(views, 0.0)), views)) < 0.001
    alone, steady = (
        wrong(x, views)[-1] for x in (answers(views, 0.6), steadied(answers(views, 0.6)))
    )
    assert steady < 0.4 * alone


def test_what_was_outside_of_the_frame_before_is_new():
    """Its colour at the edge may be the same, as that of a wall."""
    wall = np.full((20, 30, 3), 90, np.uint8)
    ys, xs = np.mgrid[:20, :30].astype(np.float32)
    trust = smoothing._agreement(wall, wall, xs + 4, ys - 3)
    assert (trust[3:, :26] == 1).all() and not trust[:3].any() and not trust[:, 26:].any()


def test_frames_are_taken_one_by_one():
    """However long the sequence is, no more than one frame is taken for one that is given."""
    taken = []

    def noted():
        for answer in answers(moving(10), 0.1):
            taken.append(answer.source)
            yield answer

    for i, _ in enumerate(steadied(noted())):
        assert len(taken) == i + 1


def test_labels_of_steadied_scores():
    answer = next(answers(moving(1), 0.0))
    labels = labelled(answer).answer
    assert labels.dtype == np.uint8 and labels.sum() == SIDE**2
    broken = Answer("x", error=InputError("broken"))
    assert labelled(broken) is broken
