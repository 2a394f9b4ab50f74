"""Ends of a run before its last step: asked to stop, or a loss that is not finite."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop; its state is saved."""


class NonFiniteLoss(Exception):
    """The loss or a gradient of a step is not finite, and the policy is to halt."""


class StopNotice(NamedTuple):
    """Whether the run was asked to stop, by SIGTERM: what clouds and schedulers send."""

    at_step: Callable[[int], bool]
    # The same answer on all processes, for the same step; to be asked once after each step.
    now: Callable[[], bool]
    # In the midst of something. With several processes always False: there nobody may stop alone.


@contextlib.contextmanager
def stop_notice() -> Iterator[StopNotice]:
    """Listens as long as it is open.

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
    """The examples; raises Preempted at the next one when the run is asked to stop."""
    for example in examples:
        if asked():
            raise Preempted
        yield example
