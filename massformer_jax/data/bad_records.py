"""What training and evaluations do about records that cannot be used."""

import logging
import threading

from massformer_jax.errors import InputError

_log = logging.getLogger(__name__)
_POLICIES = ("skip", "fail")


class RecordError(InputError):
    """The error of records that cannot be used; the message is one line."""


class BadRecords:
    """The bad records that this process has met in a split; too many of them are an error.

    Each record counts once. Each process has a count of its own, which begins anew after a restart
    and with each evaluation. The crops do not depend on it.
    """

    def __init__(self, total: int, policy: str, max_share: float):
        """Begins with no bad record.

        Args:
            total: number of records of the split.
            policy: "skip", or "fail" to accept no bad record.
            max_share: the share of the records that may be bad, 0..1.

        Raises:
            RecordError: there is no such policy.
        """
        if policy not in _POLICIES:
            raise RecordError(f"on_bad_record={policy!r} is unknown; take 'skip' or 'fail'")
        self._total, self._policy, self._max_share = total, policy, max_share
        self._found: dict[int, str] = {}
        self._lock = threading.Lock()  # the threads of the pipeline share this object

    @property
    def messages(self) -> list[str]:
        """What is wrong with the bad records, a line for each, in their order in the split."""
        with self._lock:
            return [self._found[number] for number in sorted(self._found)]

    def add(self, number: int, error: InputError) -> None:
        """Counts and logs a record, unless it is known already.

        Args:
            number: position of the record in the split.
            error: why it cannot be used.

        Raises:
            InputError: `error` itself, if the policy is "fail".
            RecordError: with this record there are too many.
        """
        if self._policy == "fail":
            raise error
        with self._lock:
            if number in self._found:
                return
            self._found[number] = str(error)
            count = len(self._found)
        _log.warning("skipped %s (bad record %d of %d)", error, count, self._total)
        if count > self._max_share * self._total:
            raise RecordError(
                f"{count} of {self._total} records are bad, more than "
                f"{100 * self._max_share:g} %: the last was {error}"
            )
