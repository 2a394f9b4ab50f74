"""Photographs that are segmented one after the other, first coarse, and the newest answers."""

import collections
import contextlib
import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax import compilation
from massformer_jax.errors import InputError
from massformer_jax.inference.segmenter import Segmenter

COARSE_ROWS, COARSE_COLUMNS = 768, 1024  # a photograph is shrunk until it fits into them
COARSE, FULL = "coarse", "full"
# What is kept at most: so many photographs, and so many bytes unless one photograph takes more. A
# pixel takes 8, its colour, label and alpha, and 4 more for each class: 36 bytes for seven.
KEPT, KEPT_BYTES = 6, 1_500_000_000

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


class Forgotten(Exception):
    """The error of a photograph that is no longer kept."""


class NotYet(Exception):
    """The error of a photograph whose answer is asked for before it is there."""


class Photograph:
    """A photograph, how far the work on it has come, and what is known of it.

    Attributes:
        name: of its file.
        images: RGB, uint8 [h, w, 3], by level: `FULL`, and `COARSE` unless it is small.
        labels: the classes of their pixels, uint8 [h, w], by level, as far as they are known.
        state: `WAITING`, `RUNNING`, `DONE` or `FAILED`.
        told: one line for the reader: what takes long, or why it failed, or that the weights are
            meant for pictures of another size.
    """

    def __init__(self, name: str, image: UInt8[np.ndarray, "h w 3"]):
        self.name = name
        self.images = {FULL: image}
        h, w = image.shape[:2]
        factor = min(COARSE_ROWS / h, COARSE_COLUMNS / w)
        if factor < 1:
            size = max(1, round(w * factor)), max(1, round(h * factor))
            self.images[COARSE] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self.labels: dict[str, UInt8[np.ndarray, "h w"]] = {}
        self.scores: Float[np.ndarray, "h w k"] | None = None
        # The members and the alpha that were asked for last: a cutout often follows its alpha.
        self.alpha: tuple[tuple[int, ...], Float[np.ndarray, "h w"]] | None = None
        self.state, self.told = WAITING, ""
        self.turn = 0  # the number of the job that it waits for
        self.began = time.monotonic()  # when the present pass began, or the waiting
        self.took = 0.0  # seconds of the pass over all pixels

    @property
    def running(self) -> str:
        """The level that is computed now or next."""
        return COARSE if COARSE in self.images and COARSE not in self.labels else FULL


class Studio:
    """Two segmenters with the same weights, and the photographs that they are asked about.

    One job runs at a time, in a thread of its own. A photograph is two jobs: when it has been seen
    coarse, it goes to the end of the queue, so that another one is seen coarse before.

    Attributes:
        classes: names of the labels.
        palette: their colours, RGB, uint8 [k, 3].
    """

    def __init__(self, preview: Segmenter, segmenter: Segmenter):
        """Starts the thread.

        Args:
            preview: answers for shrunk photographs.
            segmenter: answers for whole ones.
        """
        self.classes, self.palette = segmenter.classes, segmenter.palette
        self._preview, self._segmenter = preview, segmenter
        self._photographs: collections.OrderedDict[str, Photograph] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._numbered = self._ended = 0
        # Seconds that the last pass over so many rows and columns took, without compiling.
        self._seconds: dict[tuple[int, ...], float] = {}
        threading.Thread(target=self._work, name="segmenting", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._numbered > self._ended

    def add(self, name: str, image: UInt8[np.ndarray, "h w 3"]) -> str:
        """Takes a photograph, RGB, and returns the key that it can be asked for by.

        The oldest are forgotten if there would be too many.
        """
        photograph, key = Photograph(name, image), secrets.token_urlsafe(12)
        with self._lock:
            self._photographs[key] = photograph
            while len(self._photographs) > KEPT or (
                len(self._photographs) > 1 and self._bytes() > KEPT_BYTES
            ):
                self._photographs.popitem(last=False)
        self._enqueue(key, photograph)
        return key

    def forget(self, key: str) -> None:
        """Forgets a photograph, if it is there, and skips what remains to be done for it."""
        with self._lock:
            self._photographs.pop(key, None)

    def photograph(self, key: str) -> Photograph:
        """Returns a photograph; raises Forgotten if it is not kept."""
        with self._lock:
            if key not in self._photographs:
                raise Forgotten
            return self._photographs[key]

    def status(self, key: str) -> dict[str, Any]:
        """Returns how far a photograph is, as the page is told.

        Returns:
            `state` and `told` of `Photograph`; `running`, the level that is computed or waited for;
            `levels`, those whose labels are there; `ahead`, how many jobs come before it; `seconds`
            since the pass, or the waiting for it, began, and how many are `expected`, None if such
            a pass has not been timed; `took`, the seconds of the pass over all pixels.

        Raises:
            Forgotten: it is not kept.
        """
        photograph = self.photograph(key)
        level = photograph.running
        running = photograph.state == RUNNING
        return {
            "state": photograph.state,
            "told": photograph.told,
            "running": level,
            "levels": list(photograph.labels),
            "ahead": 0 if running else max(0, photograph.turn - 1 - self._ended),
            "seconds": time.monotonic() - photograph.began,
            "expected": self._seconds.get(photograph.images[level].shape) if running else None,
            "took": photograph.took,
        }

    def alpha(self, key: str, members: Sequence[int]) -> Float[np.ndarray, "h w"]:
        """Returns the share of every pixel that these classes cover, in 0..1; waits for its turn.

        Raises:
            Forgotten: the photograph is not kept.
            NotYet: not all of its pixels have been answered.
        """
        members = tuple(members)
        # The labels come last.
        if FULL not in self.photograph(key).labels:
            raise NotYet

        def compute():
            from massformer_jax.inference.alpha import coverage

            photograph = self.photograph(key)
            if photograph.alpha is None or photograph.alpha[0] != members:
                answer = coverage(photograph.scores, photograph.images[FULL], members)
                photograph.alpha = members, answer
            return photograph.alpha[1]

        return self._wait_for(compute)

    def foreground(self, key: str, alpha: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the colours of what an alpha covers, RGB; waits for its turn.

        Raises:
            Forgotten: the photograph is not kept.
        """

        def compute():
            from massformer_jax.inference.alpha import foreground

            return foreground(self.photograph(key).images[FULL], alpha)

        return self._wait_for(compute)

    def _bytes(self) -> int:
        """Returns what the photographs take when all is known of them, but for coarse copies."""
        pixels = sum(kept.images[FULL][..., 0].size for kept in self._photographs.values())
        return pixels * (8 + 4 * len(self.classes))

    def _wait_for(self, compute: Callable[[], Any]) -> Any:
        """Returns what a function returns when its turn has come, or raises what it raises."""
        future: Future = Future()

        def job():
            try:
                future.set_result(compute())
            except BaseException as error:
                future.set_exception(error)

        self._append(job)
        return future.result()

    def _enqueue(self, key: str, photograph: Photograph) -> None:
        photograph.state, photograph.told = WAITING, ""
        photograph.began = time.monotonic()
        photograph.turn = self._append(lambda: self._segment(key))

    def _append(self, job: Callable[[], None]) -> int:
        """Puts a job at the end of the queue, and returns its number.

        It holds no photograph but its key: one that is forgotten takes no memory while it waits.
        """
        with self._lock:
            self._numbered += 1
            self._jobs.put(job)
            return self._numbered

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            self._ended += 1

    def _segment(self, key: str) -> None:
        """Computes the next level of a photograph, and puts it back if that is not the last."""
        try:
            photograph = self.photograph(key)
        except Forgotten:
            return
        level = photograph.running
        photograph.state, photograph.began = RUNNING, time.monotonic()
        try:
            with self._waits_told(photograph) as waited:
                self._answer(photograph, level)
            photograph.took = time.monotonic() - photograph.began
            self._seconds[photograph.images[level].shape] = photograph.took - sum(waited)
        except InputError as error:
            self._fail(photograph, str(error))
        except MemoryError:
            self._fail(photograph, "There is not the memory for it.")
        except Exception:
            traceback.print_exc()
            self._fail(photograph, "The program failed; its terminal shows where.")
        else:
            if level == COARSE:
                self._enqueue(key, photograph)
            else:
                h, w = photograph.images[FULL].shape[:2]
                photograph.told, photograph.state = self._segmenter.size_remark([(h, w)]), DONE

    def _answer(self, photograph: Photograph, level: str) -> None:
        image = photograph.images[level]
        if level == COARSE:
            photograph.labels[COARSE] = self._preview.predict(image)
            return
        # Labels alone would take less memory, but a second program and a second pass for an alpha.
        photograph.scores = self._segmenter.scores(image)
        photograph.labels[FULL] = photograph.scores.argmax(-1).astype(np.uint8)

    def _fail(self, photograph: Photograph, line: str) -> None:
        photograph.told, photograph.state = line, FAILED

    @contextlib.contextmanager
    def _waits_told(self, photograph: Photograph) -> Iterator[list[float]]:
        """Tells of programs that are compiled, and yields a list of the seconds they took."""
        waited: list[float] = []
        since = time.monotonic()

        def say(line: str) -> None:
            nonlocal since
            if line.startswith("preparing"):
                photograph.told, since = line[0].upper() + line[1:], time.monotonic()
            else:
                photograph.told = ""
                waited.append(time.monotonic() - since)

        with compilation.waits_said(say):
            yield waited
