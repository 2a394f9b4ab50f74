"""Scalars of a run for TensorBoard, in a file that is written at once."""

import os
import pathlib
import tempfile
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from massformer_jax.files import Place, in_bucket, upload


class Scalars:
    """A file of events.

    What tensorboardX itself has, `SummaryWriter`, writes in a thread. If that meets a full disk it
    ends, its queue fills, and the training waits for it forever. Here each write ends in the file,
    or in an error. For a bucket the file is kept here, and each write sends all of it.

    Args:
        folder: where the file is made.
        first: number of the first step that will be written. TensorBoard leaves out what earlier
            files have from that step on, which a run that was killed had come to.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Place, first: int):
        self._target: Place | None = None
        if in_bucket(folder):
            self._target, self._kept_here = folder, tempfile.TemporaryDirectory()
            folder = pathlib.Path(self._kept_here.name)
        folder.mkdir(parents=True, exist_ok=True)
        # The name has the time in seconds; by the process it is another one than any before.
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars of a step, which may be infinite or no numbers.

        Raises:
            OSError: they cannot be written.
        """
        values = [Summary.Value(tag=name, simple_value=x) for name, x in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        if self._target is not None:
            self._kept_here.cleanup()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        self._file.flush()
        if self._target is not None:
            upload(pathlib.Path(self._kept_here.name), self._target)
