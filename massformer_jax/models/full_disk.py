"""A full disk. Several threads and libraries meet it at once; the command says it once."""

import errno
import logging
import os
import sys
import warnings

_LOGGERS = ("absl", "asyncio")  # of orbax and of the event loop in which it writes
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MORE = (*_FULL, errno.EFBIG)  # a file may also be larger than the disk, or a limit, allows


def is_full(error: BaseException | None) -> bool:
    """Tells whether an error comes from a disk that is full, or from a quota that is used up."""
    return why_no_more(error) in map(os.strerror, _FULL)


def why_no_more(error: BaseException | None) -> str:
    """Returns the system's words if an error comes from a disk that takes no more, else ""."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for number in _NO_MORE:
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


def leave_it_to_the_command() -> None:
    """Keeps libraries from printing tracebacks of a full disk, some of which have 500 lines.

    The same error reaches whoever waits for the thread: the training loop waits for each state
    before it writes the next one, and before it ends; so does who saves weights alone.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_of_something_else)
    # When one array fails, the others of a state are left behind: their coroutines, and writes that
    # come back to an event loop that has been closed. Tensorstore prints the latter by this hook.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if sys.unraisablehook is not _hook:
        _others.append(sys.unraisablehook)
        sys.unraisablehook = _hook


_others = []  # the hook that was there before


def _is_of_something_else(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not why_no_more(error) and not why_no_more(Exception(record.getMessage()))


def _hook(unraisable) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _others[-1](unraisable)
