"""Clips that tests write with PyAV, and what they read back of those that are written."""

import pathlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np

SOUND_RATE = 48000


def blocks(h: int, w: int, count: int) -> list[np.ndarray]:
    """Returns pictures, RGB: a red, a green, a blue and a grey quarter, and a bar that moves."""
    pictures = []
    for i in range(count):
        picture = np.full((h, w, 3), 110, np.uint8)
        picture[: h // 2, : w // 2] = 200, 30, 30
        picture[: h // 2, w // 2 :] = 30, 200, 30
        picture[h // 2 :, : w // 2] = 30, 30, 200
        left = 2 * i % (w - w // 2 - 8) + w // 2
        picture[h * 5 // 8 : h * 7 // 8, left : left + 8] = 200, 30, 30
        pictures.append(picture)
    return pictures


def write_clip(
    path: pathlib.Path,
    pictures: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    rate: int = 25,
    rotation: int | None = None,
    sound: str = "",
    options: dict[str, str] | None = None,
    seconds: float = 1.0,
    aspect: Fraction | None = None,
) -> pathlib.Path:
    """Writes a clip.

    Args:
        path: its file.
        pictures: its frames, RGB.
        codec: what encodes them.
        times: of the frames, in units of 1 / rate seconds; by default 0, 1, and so on.
        rate: frames per second.
        rotation: by how many degrees players turn it to the left.
        sound: what encodes its sound; nothing for none.
        options: of the file's format.
        seconds: of the sound.
        aspect: width of a pixel by its height.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt = "yuv420p"
        heard = container.add_stream(sound, rate=SOUND_RATE, layout="stereo") if sound else None
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for i, picture in enumerate(pictures):
            if not i:
                stream.height, stream.width = picture.shape[:2]
                if codec == "libx264":
                    stream.height, stream.width = (x - x % 2 for x in picture.shape[:2])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[i] if times else i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        if heard:
            for frame in _tone(heard, round(seconds * SOUND_RATE)):
                container.mux(heard.encode(frame))
            container.mux(heard.encode())
        container.mux(stream.encode())
    return path


def _tone(stream: av.AudioStream, samples: int):
    """Yields the sound of a tone, in the pieces that the encoder wants."""
    wave = np.sin(np.arange(samples) / 20, dtype=np.float32)
    step = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.codec_context.format, "stereo", SOUND_RATE)
    for begin in range(0, samples - step + 1, step):
        piece = np.stack([wave[begin : begin + step]] * 2)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, begin, Fraction(1, SOUND_RATE)
        yield from resampler.resample(frame)


def read_clip(path: pathlib.Path, form: str = "rgb24") -> tuple[list[np.ndarray], list[Fraction]]:
    """Returns the frames of a clip and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [x.to_ndarray(format=form) for x in frames], [x.pts * x.time_base for x in frames]


def sound_packets(path: pathlib.Path) -> list[tuple[bytes, Fraction]]:
    """Returns the packets of a clip's sound, and their times in seconds."""
    with av.open(str(path)) as container:
        packets = [x for x in container.demux(audio=0) if x.size]
        return [(bytes(x), x.pts * x.time_base) for x in packets]
