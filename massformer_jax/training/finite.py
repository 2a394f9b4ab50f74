"""Ends a run whose loss or gradient is not finite, and keeps what is needed to find out why."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from massformer_jax.classes import Class
from massformer_jax.files import Place
from massformer_jax.training.checkpoint import save_nonfinite
from massformer_jax.training.state import TrainState
from massformer_jax.training.stopping import NonFiniteLoss


class FiniteWatch:
    """Looks at each step after the next one has begun, so that the devices never wait for it.

    Args:
        workdir: where the state and the batch of a failed step are written.
        architecture: keyword arguments of MaSSFormer.
        halts: whether such a step ends the run; otherwise nothing is watched.
        classes: of the dataset, which are written beside the state.
    """

    def __init__(
        self,
        workdir: Place,
        architecture: Mapping[str, Any],
        *,
        halts: bool,
        classes: Sequence[Class] = (),
    ):
        self._workdir, self._architecture, self._halts = workdir, architecture, halts
        self._classes = classes
        self._before: tuple[Mapping[str, np.ndarray], Mapping[str, jax.Array]] | None = None

    def check(
        self,
        batch: Mapping[str, np.ndarray],
        terms: Mapping[str, jax.Array],
        state: TrainState,
        *,
        now: bool,
    ) -> None:
        """Takes note of a step, and looks at the step before it.

        Args:
            batch: this process's share of what the step was computed from.
            terms: scalars of the step, see `training_step`.
            state: the state after the step.
            now: look at this step as well, since the host needs its results anyway.

        Raises:
            NonFiniteLoss: a step was not applied; its batch and the state before it are saved.
        """
        if not self._halts:
            return
        waiting = [self._before] if self._before else []
        self._before = batch, terms
        for taken, results in waiting + [self._before] * now:
            self._halt_if_skipped(taken, results, state)

    def _halt_if_skipped(self, batch, terms, state) -> None:
        if not float(terms["skipped"]):
            return
        folder = save_nonfinite(self._workdir, state, batch, self._architecture, self._classes)
        raise NonFiniteLoss(
            f"step {int(state.step) + 1} has a loss of {float(terms['loss'])} and a gradient norm "
            f"of {float(terms['gradient_norm'])}; the state before it and its batch are in "
            f"{folder}; --config.on_nonfinite=skip leaves such steps out"
        )
