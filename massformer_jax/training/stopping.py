"""How a run ends before its last step: it is asked to stop, or its loss is not finite."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """Raised where the run was asked to stop, once its state is saved."""


class NonFiniteLoss(Exception):
    """Raised where the loss or a gradient of a step is not finite and the policy is to halt."""


class StopNotice(NamedTuple):
    """The answer to whether the run was asked to stop, by SIGTERM: what clouds and schedulers send.

    Attributes:
        at_step: answers after a step. To be asked once after each: all processes get the same
            answer for the same step.
        now: answers at any time. With several processes it says no: there nobody may stop alone.
    """

    at_step: Callable[[int], bool]
    now: Callable[[], bool]


@contextlib.contextmanager
def stop_notice() -> Iterator[StopNotice]:
    """Listens for a notice as long as the context is open.

    With several processes JAX listens and agrees with the others: a notice to one of them makes all
    answer True at the same step, the next one that none has begun.
    """
    if jax.distributed.is_initialized():
        yield StopNotice(multihost_utils.reached_preemption_sync_point, lambda: False)
        return
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield StopNotice(lambda step: asked.is_set(), asked.is_set)
    finally:
        signal.signal(signal.SIGTERM, before)


def until_asked(examples: Iterable, asked: Callable[[], bool]) -> Iterator:
    """Yields the examples; raises Preempted at the next one when the run is asked to stop."""
    for example in examples:
        if asked():
            raise Preempted("stopped during an evaluation, as asked; it will be done again")
        yield example
