"""What training does about records that cannot be used."""

import logging
import threading

from massformer_jax.errors import InputError

_log = logging.getLogger(__name__)
_POLICIES = ("skip", "fail")


class RecordError(InputError):
    """Records that cannot be used; the message is one line."""


class BadRecords:
    """Counts the bad records of a split, each once, and says when they are too many.

    A process counts what it meets: after a restart, or on another host, it begins anew. What the
    crops are does not depend on the count.
    """

    def __init__(self, total: int, policy: str, max_share: float):
        """
        Args:
          total: records of the split.
          policy: "skip", or "fail" to accept none.
          max_share: the share of the records that may be bad, 0..1.

        Raises:
          RecordError: no such policy.
        """
        if policy not in _POLICIES:
            raise RecordError(f"on_bad_record={policy!r} is unknown; take 'skip' or 'fail'")
        self._total, self._policy, self._max_share = total, policy, max_share
        self._found: set[int] = set()
        self._lock = threading.Lock()  # the threads of the pipeline share this object

    @property
    def count(self) -> int:
        """How many have been found so far."""
        return len(self._found)

    def add(self, number: int, error: InputError) -> None:
        """Counts and logs a record, unless it is known.

        Raises:
          InputError: `error` itself, if none is accepted.
          RecordError: this one is one too many.
        """
        if self._policy == "fail":
            raise error
        with self._lock:
            if number in self._found:
                return
            self._found.add(number)
            count = len(self._found)
        _log.warning("skipped %s (bad record %d of %d)", error, count, self._total)
        if count > self._max_share * self._total:
            raise RecordError(
                f"{count} of {self._total} records are bad, more than "
                f"{100 * self._max_share:g} %: the last was {error}"
            )
