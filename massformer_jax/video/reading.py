"""Reading clips with PyAV: frames upright and in RGB, with their times, one after the other."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from massformer_jax.data.png import PIXELS_SETTING, most_pixels
from massformer_jax.errors import InputError

if TYPE_CHECKING:
    import av

# What the two parts of a Matroska file begin with.
_MATROSKA, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"

# Values of FFmpeg's AVColorSpace: not told, and that of high definition.
_UNTOLD, _BT709 = 2, 1
_HD_ROWS = 720  # from here on, a clip that tells no colours has those of high definition

# Times that fall back by more seconds than this have started again, as where files were joined.
# Those of damaged packets fall back by less, most often.
STARTED_AGAIN = Fraction(1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a clip.

    Attributes:
        pixels: upright, RGB, uint8 [h, w, 3].
        pts: its time in units of the clip's `time_base`; it grows from frame to frame.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    pts: int

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.pixels, dtype=dtype, copy=bool(copy))


@dataclasses.dataclass
class Clip:
    """A clip that is open.

    Attributes:
        path: its file.
        time_base: seconds of one unit of its times.
        rate: frames per second on average.
        expected: number of frames by its header, or about so many; 0 if it does not tell.
        aspect: width of a pixel by its height, upright or not; 1 if it does not tell.
        turned: whether its rows become columns when it is turned upright; known at its first frame.
        damage: after the last frame: what is wrong with the rest of the clip, or None.
        shifts: for each time that its times have started again, up to the last frame: by how many
            seconds they are shifted from there on, so that they go on.
    """

    path: pathlib.Path
    time_base: Fraction
    rate: Fraction
    expected: int
    aspect: Fraction
    turned: bool = False
    damage: str | None = None
    shifts: list[Fraction] = dataclasses.field(default_factory=list)
    _container: "av.container.InputContainer | None" = None
    _stream: "av.VideoStream | None" = None

    def frames(self) -> Iterator[Frame]:
        """Yields the frames; the decoder runs while the next ones are asked for.

        What cannot be decoded is left out, and told by `damage`.

        Raises:
            InputError: a frame has more pixels than are read.
        """
        last, size, shift = None, None, 0
        step = max(1, round(1 / (self.rate * self.time_base)))
        for frame in self._decoded():
            _check_size(self.path, frame.width, frame.height)
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                self.damage = f"its size changes from {_by(size)} to {frame.width}x{frame.height}"
                break
            # Streams without a container have no times, and damaged ones some that stand still.
            next_one = 0 if last is None else last + step
            pts = next_one if frame.pts is None else frame.pts + shift
            if last is not None and (last - pts) * self.time_base > STARTED_AGAIN:
                shift += next_one - pts
                self.shifts.append(shift * self.time_base)
                pts = next_one
            last = pts if last is None else max(pts, last + 1)
            matrix = _display_matrix(frame)
            self.turned = bool(matrix[0, 1])
            yield Frame(_turned(_rgb(frame), matrix), last)
        if last is None:
            self.damage = "it holds no frame" + (f" ({self.damage})" if self.damage else "")

    def _decoded(self) -> Iterator["av.VideoFrame"]:
        """Yields what the decoder makes of the packets, and notes what is wrong with them."""
        import av

        seen, whole = 0, True
        # The header of an AVI counts steps of time, of which some have no frame.
        counts_steps = self._container.format.name == "avi"
        try:
            for packet in self._container.demux(self._stream):
                if not counts_steps:
                    seen += packet.size > 0
                elif packet.dts is not None:
                    seen = packet.dts + 1
                whole = whole and not packet.is_corrupt
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # those after it may be well
                    frames, whole = [], False
                for frame in frames:
                    whole = whole and not frame.is_corrupt
                    yield frame
        except (av.error.FFmpegError, OSError) as error:
            self.damage = reason(error)
            return
        if seen < self._stream.frames:
            self.damage = f"it ends after {seen} of {self._stream.frames} frames"
        elif _is_cut(self.path):
            self.damage = "its end is missing"
        elif not whole:
            self.damage = "some of its frames are damaged"


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Clip]:
    """Opens a clip, and closes it at the end.

    Raises:
        InputError: it may not be read, is no video that FFmpeg reads, holds sound alone, or
            pictures that FFmpeg has no decoder for, or has more pixels than are read; or PyAV is
            missing.
    """
    av = check_av()
    with _container(path) as container:
        # Covers of albums are streams of one picture.
        cover = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & cover]
        if not streams:
            raise InputError(f"{path} holds no video")
        stream = next((s for s in streams if s.codec_context is not None), None)
        if stream is None:
            raise InputError(f"{path}: there is no decoder for its pictures")
        _check_size(path, stream.width, stream.height)
        # With a thread for each frame, it would depend on their turns which damage is noticed.
        stream.thread_type = "SLICE"
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        expected = stream.frames
        if not expected and container.duration:
            expected = math.ceil(container.duration / av.time_base * rate)
        yield Clip(
            path,
            stream.time_base,
            Fraction(rate),
            expected,
            stream.sample_aspect_ratio or Fraction(1),
            _container=container,
            _stream=stream,
        )


@contextlib.contextmanager
def opened_sound(path: pathlib.Path) -> Iterator["av.container.InputContainer"]:
    """Opens a clip a second time, for the packets of its sound."""
    with _container(path) as container:
        yield container


def check_av() -> "type[av]":
    """Returns PyAV.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"videos are read and written by PyAV ({error}); pip install 'massformer-jax[video]'"
        ) from error
    return av


def _container(path: pathlib.Path) -> "av.container.InputContainer":
    av = check_av()
    try:
        with path.open("rb"):  # the system's own words for what may not be read
            pass
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    try:
        # With "file:", a name such as a:b.mp4 is not taken for a protocol, and what a playlist
        # that calls itself clip.mp4 names in the network is not fetched.
        return av.open(f"file:{os.fspath(path)}")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path} is no video that can be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Returns the words of an error of FFmpeg, without its number and the name of the file."""
    text = getattr(error, "strerror", None) or str(error)
    log = getattr(error, "log", None)
    told = log[-1].strip() if log else ""
    return f"{text} ({told})" if told and told not in text else text


def _is_cut(path: pathlib.Path) -> bool:
    """Tells whether the end of a Matroska or WebM file is missing; FFmpeg does not tell.

    Such a file is a header and a segment, each of which says how long it is.
    """
    with path.open("rb") as file:
        for kind in (_MATROSKA, _SEGMENT):
            if file.read(4) != kind:
                return False
            first = file.read(1)
            more = 8 - first[0].bit_length() if first else 8
            rest = file.read(more)
            if more > 7 or len(rest) < more:
                return False
            bits = 7 * (more + 1)
            size = int.from_bytes(first + rest) & (1 << bits) - 1
            if kind == _MATROSKA:
                file.seek(size, os.SEEK_CUR)
        unknown = size == (1 << bits) - 1  # of what was broadcast while it was recorded
        return not unknown and file.tell() + size > os.fstat(file.fileno()).st_size


def _check_size(path: pathlib.Path, width: int, height: int) -> None:
    """Checks that a frame is not larger than photographs may be.

    Raises:
        InputError: it is.
    """
    if width * height > most_pixels():
        raise InputError(
            f"{path}: {width}x{height} pixels are more than {most_pixels()}; set {PIXELS_SETTING}"
        )


def _rgb(frame: "av.VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels as RGB; matrix and range are those that the clip tells."""
    if frame.colorspace == _UNTOLD and frame.height >= _HD_ROWS:
        frame.colorspace = _BT709
    return frame.to_ndarray(format="rgb24")


def _display_matrix(frame: "av.VideoFrame") -> np.ndarray:
    """Returns how x and y of stored pixels (rows) become those of upright ones, int [2, 2].

    Angles that are no quarters of a turn are not turned by.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]
            signs = np.rint(matrix / 65536).astype(int)
            if (np.abs(signs).sum(0) == 1).all() and (np.abs(signs).sum(1) == 1).all():
                return signs
    return np.eye(2, dtype=int)


def _turned(pixels: UInt8[np.ndarray, "h w 3"], matrix: np.ndarray) -> UInt8[np.ndarray, "_ _ 3"]:
    """Returns the pixels as a display matrix turns them, in one piece of memory."""
    if matrix[0, 1]:
        pixels = pixels.transpose(1, 0, 2)
    (to_right,), (downward,) = matrix.sum(0, keepdims=True).T
    return np.ascontiguousarray(pixels[::downward, ::to_right])


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
