"""Compiled programs: kept on disk for the next time, and named while somebody waits for them.

Commands do both. From Python nothing is kept unless you ask for it, by one line:

    massformer_jax.compilation.keep_compiled()
"""

import argparse
import contextlib
import contextvars
import os
import sys
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

# Seconds of compiling from which on a program is kept. JAX's own default, 1, would leave out what
# resizes scores: half a second for each size of a photograph.
KEPT_FROM = 0.2

_COMPILED = "/jax/core/compile/backend_compile_duration"
_READ = "/jax/compilation_cache/cache_hits"

_waits: contextvars.ContextVar["Waits | None"] = contextvars.ContextVar("waits", default=None)


def keep_compiled(directory: str | None = None) -> None:
    """Keeps compiled programs for the next time; sets JAX's configuration of this process.

    On GPUs JAX also keeps there what the compiler found out by trying: the fastest form of every
    product and fusion, which serves other programs, too.

    Args:
        directory: where; "" for nowhere. By default where the variable JAX_COMPILATION_CACHE_DIR
            says, else `massformer_jax` in XDG_CACHE_HOME or ~/.cache.
    """
    if directory is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directory = os.path.join(caches, "massformer_jax")
    if directory is not None:
        jax.config.update("jax_compilation_cache_dir", directory)
        compilation_cache.reset_cache()  # which stays with the first directory it used
    jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_FROM)


def add_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of commands whose value `keep_compiled` takes."""
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        help="where compiled programs are kept (JAX_COMPILATION_CACHE_DIR, or "
        "~/.cache/massformer_jax; '' for nowhere)",
    )


def announce(program: str) -> None:
    """Says that one waits for a program; to be called in a function that JAX traces.

    It is traced when its program is not in memory, so nothing is said of one that is. Without
    `waits_said` around, this does nothing.

    Args:
        program: its name: "the network for up to 4096x3072 pixels".
    """
    waits = _waits.get()
    if waits is not None:
        waits.begin(program)


@contextlib.contextmanager
def waits_said(say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Inside, a line is said before a program is compiled, and one after it.

    Args:
        say: prints a line; on standard error if None.
    """
    waits = Waits(say or _to_standard_error)
    token = _waits.set(waits)
    jax.monitoring.register_event_listener(waits.happened)
    jax.monitoring.register_event_duration_secs_listener(waits.lasted)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(waits.lasted)
        jax.monitoring.unregister_event_listener(waits.happened)
        _waits.reset(token)


class Waits:
    """What is waited for, and since when."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._since: float | None = None
        self._read = False

    def begin(self, program: str) -> None:
        """A program is being traced; what follows next is that it is compiled, or read."""
        if self._since is None:
            self._since, self._read = time.monotonic(), False
            self._say(f"preparing {program}…")

    def happened(self, event: str, **_) -> None:
        """JAX has done something, for instance read a program that was kept."""
        self._read |= event == _READ

    def lasted(self, event: str, seconds: float, **_) -> None:
        """JAX has done something that took so long, for instance compiled a program or read it."""
        if event != _COMPILED or self._since is None:
            return
        seconds, self._since = time.monotonic() - self._since, None
        folder = jax.config.jax_compilation_cache_dir
        kept = f" and kept in {folder}" if folder else ""
        done = f"read from {folder}" if self._read else f"compiled{kept}"
        self._say(f"… {done}, {seconds:.0f} s")


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
