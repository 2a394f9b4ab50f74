"""Writing clips: videos that are whole or not there, and folders of numbered pictures likewise."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8, UInt16

from massformer_jax.errors import InputError
from massformer_jax.files import folder_written_atomically, written_atomically
from massformer_jax.video.reading import STARTED_AGAIN, Clip, Frame, opened_sound, reason

if TYPE_CHECKING:
    import av

    Pixels = UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"]

# Names of FFmpeg's muxers by the suffixes of files.
_MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
# For people's eyes: nearly no loss, at a speed that keeps up with the network. The encoder looks
# ten frames ahead instead of forty, each of which takes 18 MB at 12 megapixels.
_SEEN = {"crf": "18", "preset": "veryfast", "rc-lookahead": "10"}
# Without loss, in slices with checksums that are computed side by side.
_LOSSLESS = {"level": "3", "slicecrc": "1", "slices": "16"}
_BT709, _LIMITED = 1, 1  # of FFmpeg's AVColorSpace and its like, and of AVColorRange
_GREY = {np.dtype(np.uint8): "gray", np.dtype(np.uint16): "gray16le"}


@contextlib.contextmanager
def video(
    path: pathlib.Path, clip: Clip, *, sound: bool, say: Callable[[str], None]
) -> Iterator[Callable[[Frame, "Pixels"], None]]:
    """Yields a function that adds a picture to a video; the file appears when all are there.

    RGB becomes H.264, whose sides are even: an odd last row or column is there twice. Grey pictures
    of 8 or 16 bits become FFV1, without loss. All pictures have the size and kind of the first.

    Args:
        path: the video, whose suffix is .mp4, .mov or .mkv. The times in .mkv are rounded to
            milliseconds, as the format wants it; others are exactly those of the frames.
        clip: where the frames come from, for its times and its sound.
        sound: whether the clip's sound is copied, packet by packet.
        say: is told a line if the sound does not fit into the file.

    Raises:
        InputError: FFmpeg cannot write such a file.
        OSError: the disk is full, or the folder may not be written to.
    """
    import av

    with (
        _errors_told(path),
        written_atomically(path) as part,
        contextlib.ExitStack() as stack,
    ):
        name = f"file:{os.fspath(part)}"
        # Neither the day nor versions of libraries are written. The list of frames comes first, so
        # that a browser can begin before it has all.
        options = {"fflags": "+bitexact"}
        if path.suffix != ".mkv":
            options["movflags"] = "+faststart"
        out = stack.enter_context(
            av.open(name, "w", format=_MUXERS[path.suffix], container_options=options)
        )
        stream, tracks = None, None

        def write(frame: Frame, pixels: "Pixels") -> None:
            nonlocal stream, tracks
            if stream is None:
                stream = _stream(out, clip, pixels)
                tracks = stack.enter_context(_Sound.of(clip, out, say)) if sound else None
            out.mux(stream.encode(_picture(frame, pixels, clip.time_base)))
            if tracks:
                tracks.copy(until=frame.pts * clip.time_base)

        yield write
        if stream is not None:
            out.mux(stream.encode())
            if tracks:
                tracks.copy(until=None)


@contextlib.contextmanager
def pictures(folder: pathlib.Path, suffix: str) -> Iterator[Callable[[Frame, bytes], None]]:
    """Yields a function that adds the bytes of a picture to a folder: 000001.png, and so on.

    The folder appears when all are there, in the place of an older one.

    Args:
        folder: where the pictures lie.
        suffix: of their files.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    with folder_written_atomically(folder) as part:
        count = 0

        def write(frame: Frame, content: bytes) -> None:
            nonlocal count
            count += 1
            (part / f"{count:06}{suffix}").write_bytes(content)

        yield write


@contextlib.contextmanager
def _errors_told(path: pathlib.Path) -> Iterator[None]:
    """Raises FFmpeg's own errors with the name of the file; those of the system stay."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise InputError(f"{path} cannot be written: {reason(error)}") from error


def _stream(out: "av.container.OutputContainer", clip: Clip, pixels: "Pixels") -> "av.VideoStream":
    """Adds the stream of pictures such as these to a file."""
    colour = pixels.ndim == 3
    codec, options = ("libx264", _SEEN) if colour else ("ffv1", _LOSSLESS)
    # The rate is only what the encoder plans its bits with; the frames bring their own times.
    stream = out.add_stream(codec, rate=clip.rate.limit_denominator(1 << 16), options=options)
    h, w = pixels.shape[:2]
    stream.height, stream.width = (h + h % 2, w + w % 2) if colour else (h, w)
    stream.pix_fmt = "yuv420p" if colour else _GREY[pixels.dtype]
    context = stream.codec_context
    context.time_base = stream.time_base = clip.time_base
    context.sample_aspect_ratio = 1 / clip.aspect if clip.turned else clip.aspect
    context.thread_type, context.thread_count = "AUTO", 0
    if colour:
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
    return stream


def _picture(frame: Frame, pixels: "Pixels", time_base: Fraction) -> "av.VideoFrame":
    """Returns what the encoder takes."""
    import av

    if pixels.ndim == 3:
        h, w = pixels.shape[:2]
        even = np.pad(pixels, ((0, h % 2), (0, w % 2), (0, 0)), "edge")
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        picture = rgb.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
    else:
        grey = np.ascontiguousarray(pixels)
        picture = av.VideoFrame.from_ndarray(grey, format=_GREY[pixels.dtype])
    picture.pts, picture.time_base = frame.pts, time_base
    return picture


class _Track:
    """One stream of sound that is copied.

    Attributes:
        target: the stream of the other file.
        read: the time of the packet that was read last, in seconds, as the clip has it.
        written: the time of the packet that was written last, in seconds.
        restarts: how often the times of the clip have started again.
    """

    def __init__(self, target: "av.AudioStream"):
        self.target = target
        self.read: Fraction | None = None
        self.written: Fraction | None = None
        self.restarts = 0

    def note(self, packet: "av.Packet") -> None:
        """Notes the time of a packet that was read."""
        time = packet.dts * packet.time_base
        self.restarts += self.read is not None and self.read - time > STARTED_AGAIN
        self.read = time


class _Sound:
    """The sound of a clip, which is copied between the pictures of another file.

    Args:
        source: the clip, opened for this alone.
        clip: the clip, opened for its pictures, whose times tell how those of sound are shifted.
        targets: the streams of the other file, by the numbers of the clip's.
        out: the other file.
        say: is told a line if a part of the sound is left out.
    """

    def __init__(
        self,
        source: "av.container.InputContainer",
        clip: Clip,
        targets: dict,
        out: "av.container.OutputContainer",
        say: Callable[[str], None],
    ):
        self._clip, self._out, self._say = clip, out, say
        self._tracks = {index: _Track(target) for index, target in targets.items()}
        streams = [source.streams[index] for index in targets]
        self._packets = source.demux(streams) if streams else iter(())
        self._next = None

    @classmethod
    @contextlib.contextmanager
    def of(
        cls,
        clip: Clip,
        out: "av.container.OutputContainer",
        say: Callable[[str], None],
    ) -> Iterator["_Sound"]:
        """Opens the clip once more, and adds its streams of sound to the other file."""
        import av

        with opened_sound(clip.path) as source:
            targets = {}
            for stream in source.streams.audio:
                known = stream.codec_context is not None
                name = stream.codec_context.name if known else "of an unknown kind"
                try:
                    if known:
                        targets[stream.index] = out.add_stream_from_template(stream)
                        continue
                except (ValueError, av.error.FFmpegError):
                    pass
                say(f"{clip.path}: its sound ({name}) does not fit into an overlay; left out")
            yield cls(source, clip, targets, out, say)

    def copy(self, until: Fraction | None) -> None:
        """Copies the packets up to a time in seconds, or all that are left."""
        import av

        try:
            while True:
                if self._next is None:
                    self._next = next(self._packets, None)
                    if self._next is None:
                        return
                    if self._next.dts is None:  # the last, empty one has no time
                        self._next = None
                        continue
                    self._tracks[self._next.stream.index].note(self._next)
                packet, shifts = self._next, self._clip.shifts
                track = self._tracks[packet.stream.index]
                if track.restarts > len(shifts):
                    if until is None:
                        self._say(
                            f"{self._clip.path}: the times of its sound start again where those of "
                            "its pictures do not; the rest of the sound is left out"
                        )
                    return  # until the pictures have come to this place
                shift = shifts[track.restarts - 1] if track.restarts else Fraction()
                time = packet.dts * packet.time_base + shift
                if until is not None and time > until:
                    return
                self._next = None
                # Of two parts that were joined, the sound of the first may be longer than its
                # pictures; then the second begins where it ends.
                if not track.restarts or time > track.written:
                    _shift(packet, shift)
                    packet.stream, track.written = track.target, time
                    self._out.mux(packet)
        except av.error.InvalidDataError:
            self._packets, self._next = iter(()), None  # damaged: what is before it is kept


def _shift(packet: "av.Packet", seconds: Fraction) -> None:
    """Moves the times of a packet."""
    units = round(seconds / packet.time_base)
    packet.dts += units
    if packet.pts is not None:
        packet.pts += units
