"""Readers that go wrong in each way that the soak looks for."""

import os
import time

import numpy as np

from massformer_jax.errors import InputError
from scripts.soak.readers import Reader, Wrong


class Odd(Reader):
    """A reader that goes wrong in each way, by the first byte."""

    def sound(self):
        return {"file": b"\0"}

    def alter(self, data, rng):
        return bytes([int(rng.integers(6))]), "as drawn"

    def read(self, name):
        answer = (self.folder / name).read_bytes()[0]
        if answer == 1:
            raise InputError("refused")
        if answer == 2:
            raise InputError("two\nlines")
        if answer == 3:
            raise Wrong("a wrong answer")
        if answer == 4:
            raise KeyError("traceback")
        if answer == 5:
            print("error: with control characters")


class Ending(Reader):
    """A reader that hangs or ends its process, by the first byte."""

    def sound(self):
        return {"file": b"\0"}

    def alter(self, data, rng):
        return bytes([int(rng.integers(16))]), "as drawn"

    def read(self, name):
        answer = (self.folder / name).read_bytes()[0]
        if answer == 1:
            os._exit(7)
        if answer == 2:
            time.sleep(1000)
        if answer == 3:
            np.ones(8 * 2**30, np.uint8)
