"""Trainings that are asked to stop, as clouds and schedulers ask."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from massformer_jax.training import loop
from massformer_jax.training.stopping import Preempted


@contextlib.contextmanager
def stopped_in(step: int, total: int) -> Iterator[None]:
    """Sends SIGTERM to this process in a step; what runs in the context must stop after it."""
    make = loop.training_step

    def signalled(*args, **kwargs):
        inner = make(*args, **kwargs)

        def run(state, batch):
            if int(state.step) + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(state, batch)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "training_step", signalled)
        with pytest.raises(Preempted, match=f"after step {step} of {total}"):
            yield
