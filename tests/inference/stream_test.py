"""Many photographs one after the other: order, batches, errors, and what runs at the same time."""

import threading
import time

import numpy as np
import pytest

from massformer_jax.data.ahead import Stopwatch
from massformer_jax.errors import InputError
from massformer_jax.inference import stream
from massformer_jax.inference.stream import TooLargeError


def padded(image):
    h, w = image.shape[:2]
    return h + -h % 256, w + -w % 256


class Device:
    """A device that answers with the first channel, and notes what it is given."""

    def __init__(self, most=8):
        self.batches, self._most = [], most

    def begin(self, images):
        self.batches.append([image.shape[:2] for image in images])
        if len(images) > self._most:
            raise TooLargeError("too large")
        return images

    def end(self, images):
        return [image[..., 0] for image in images]

    def answers(self, sources, read=lambda source: source, together=True, size=padded):
        return stream.answers(
            sources, read, self.begin, self.end, size, together=together, stopwatch=Stopwatch()
        )


def images(*sizes):
    return [np.full((*size, 3), i, np.uint8) for i, size in enumerate(sizes)]


def shapes(answers):
    """Checks the order, and returns the sizes of the answers."""
    answers = list(answers)
    assert [answer.answer[0, 0] for answer in answers] == list(range(len(answers)))
    return [answer.answer.shape for answer in answers]


A, A2, B = (200, 250), (10, 20), (300, 100)


def test_photographs_of_one_padded_size_go_together_if_they_follow_each_other():
    device = Device()
    sizes = [A, A2, B, A, A2, A, B]
    assert shapes(device.answers(images(*sizes))) == sizes
    # Two of the first size go together ever after, the last of them with a copy of itself.
    assert device.batches == [[A, A2], [B], [A, A2], [A, A], [B]]


def test_large_photographs_go_alone_and_small_ones_by_eight():
    device = Device()
    sizes = [A] * 9 + [(3000, 2500)] * 2
    assert shapes(device.answers(images(*sizes))) == sizes
    assert [len(batch) for batch in device.batches] == [8, 8, 1, 1]


@pytest.mark.parametrize("arguments", [{"together": False}, {"size": lambda image: None}])
def test_elsewhere_each_goes_alone(arguments):
    device = Device()
    assert shapes(device.answers(images(A, A, A), **arguments)) == [A] * 3
    assert device.batches == [[A], [A], [A]]


def test_where_the_memory_does_not_suffice_they_go_one_by_one():
    device = Device(most=1)
    assert shapes(device.answers(images(A, A, A2))) == [A, A, A2]
    assert device.batches == [[A, A, A2], [A], [A], [A2]]
    device = Device(most=0)
    assert [str(x.error) for x in device.answers(images(A, A))] == ["too large"] * 2


def test_errors_stay_in_their_places():
    def read(source):
        if isinstance(source, Exception):
            raise source
        return source

    first, second = images(A, A2)
    sources = [InputError("damaged"), first, OSError("gone"), MemoryError(), second]
    found = list(Device().answers(sources, read))
    assert [x.answer is None for x in found] == [True, False, True, True, False]
    assert [str(x.error) for x in found[:3]] == ["damaged", "None", "gone"]
    assert "not the memory to decode it" in str(found[3].error)


def test_the_device_has_the_next_photograph_before_an_answer_is_taken():
    device, begun_at_end = Device(), []
    end = device.end
    device.end = lambda x: (begun_at_end.append(len(device.batches)), end(x))[1]
    list(device.answers(images(A, A, A), together=False))
    assert begun_at_end == [2, 3, 3]


def test_photographs_are_read_in_other_threads_and_waits_are_noted():
    stopwatch, threads = Stopwatch(), set()

    def read(source):
        threads.add(threading.get_ident())
        time.sleep(0.05)
        return source

    def end(found):
        time.sleep(0.1)
        return device.end(found)

    device = Device()
    answers = stream.answers(
        images(A, A2, B),
        read,
        device.begin,
        end,
        padded,
        together=False,
        stopwatch=stopwatch,
    )
    assert len(list(answers)) == 3 and threading.get_ident() not in threads
    assert 0.05 <= stopwatch.seconds["reading"] < 0.15 and stopwatch.seconds["network"] >= 0.3
