"""Compiled programs: they are kept on disk, and named while somebody waits for them.

Commands do both. In Python, nothing is kept unless you ask for it by one line:

    massformer_jax.compilation.keep_compiled()
"""

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

from massformer_jax.command import say_beside_output
from massformer_jax.files import in_bucket, place

# A program is kept if compiling it took at least so many seconds. JAX's own default, 1, would leave
# out the programs that resize scores, which take half a second for each size of a photograph.
KEPT_FROM = 0.2

_COMPILED = "/jax/core/compile/backend_compile_duration"
_READ = "/jax/compilation_cache/cache_hits"

_waits: contextvars.ContextVar["Waits | None"] = contextvars.ContextVar("waits", default=None)


def keep_compiled(directory: str | None = None) -> None:
    """Keeps compiled programs for the next time, by changing JAX's configuration of this process.

    On GPUs, JAX also keeps there what the compiler found out by trying: the fastest form of each
    product and fusion. This serves other programs, too.

    Args:
        directory: where to keep them, which may be in a bucket; "" for nowhere. By default it is
            the directory in the environment variable JAX_COMPILATION_CACHE_DIR, or else the folder
            `massformer_jax` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        InputError: it is in a bucket that cannot be used.
    """
    if directory is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directory = os.path.join(caches, "massformer_jax")
    kept = jax.config.jax_compilation_cache_dir if directory is None else directory
    if kept and in_bucket(kept):
        place(kept)
        # What the compiler found out by trying is written by the compiler itself, to disks alone.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    if directory is not None:
        jax.config.update("jax_compilation_cache_dir", directory)
        # Without this, JAX stays with the first directory it used.
        compilation_cache.reset_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_FROM)


def announce(program: str) -> None:
    """Says that a program is being prepared; to be called inside a function that JAX traces.

    JAX traces a function only if its program is not in memory yet, so nothing is said about
    programs that are ready. Outside of `waits_said` this does nothing.

    Args:
        program: its name, for instance "the network for up to 4096x3072 pixels".
    """
    waits = _waits.get()
    if waits is not None:
        waits.begin(program)


@contextlib.contextmanager
def waits_said(say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Says a line before and after each announced program is compiled, inside of the context.

    Args:
        say: prints a line; if None, lines are printed on standard error.
    """
    waits = Waits(say or say_beside_output)
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
    """The program that is waited for, in which thread, and since when.

    JAX tells of all threads. While one of them waits, what the others wait for is not said.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._since: float | None = None
        self._thread: int | None = None
        self._read = False

    def begin(self, program: str) -> None:
        """Notes that a program is being traced; next it is compiled, or read from the disk."""
        if self._since is None:
            self._since, self._read = time.monotonic(), False
            self._thread = threading.get_ident()
            self._say(f"preparing {program}…")

    def happened(self, event: str, **_) -> None:
        """Notes an event of JAX, for instance that it has read a program that was kept."""
        self._read |= event == _READ and self._thread == threading.get_ident()

    def lasted(self, event: str, seconds: float, **_) -> None:
        """Notes how long an event of JAX took, for instance compiling or reading a program."""
        if event != _COMPILED or self._since is None or self._thread != threading.get_ident():
            return
        seconds, self._since = time.monotonic() - self._since, None
        folder = jax.config.jax_compilation_cache_dir
        kept = f" and kept in {folder}" if folder else ""
        done = f"read from {folder}" if self._read else f"compiled{kept}"
        self._say(f"… {done}, {seconds:.0f} s")
