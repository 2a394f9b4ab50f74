"""Clips are read as players show them: upright, in their colours, at their times."""

import itertools
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

from massformer_jax.data.png import PIXELS_SETTING
from massformer_jax.errors import InputError
from massformer_jax.video import reading
from tests.helpers.clips import blocks, write_clip

SIZE = (48, 64)
BT601, BT709, UNTOLD = 5, 1, 2  # of FFmpeg's AVColorSpace
LIMITED, FULL = 1, 2  # of its AVColorRange


def read(path):
    """Returns the clip and its frames, when all are read."""
    with reading.opened(pathlib.Path(path)) as clip:
        return clip, list(clip.frames())


def seconds(clip, frames):
    return [frame.pts * clip.time_base for frame in frames]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.m2ts"])
def test_frames_and_times(tmp_path, name):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    pictures = blocks(*SIZE, 12)
    clip, frames = read(write_clip(tmp_path / name, pictures, codec=codec))
    assert clip.damage is None and clip.rate == 25 and len(frames) == 12
    times = seconds(clip, frames)
    steps = [float(b - a) for a, b in itertools.pairwise(times)]
    assert max(abs(step - 0.04) for step in steps) <= 0.001
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous
        assert np.abs(frame.pixels.astype(int) - picture).mean() < 6
        assert np.asarray(frame) is frame.pixels


@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_frames_are_upright(tmp_path, rotation):
    """A phone stores a clip on its side, with a matrix that turns it."""
    path = write_clip(tmp_path / "a.mp4", blocks(*SIZE, 3), rotation=rotation)
    clip, frames = read(path)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
    assert stored.rotation == rotation or abs(rotation) == 180
    expected = np.rot90(stored.to_ndarray(format="rgb24"), rotation // 90)
    np.testing.assert_array_equal(frames[0].pixels, expected)
    assert clip.turned == (rotation in (90, -90))


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ([[-1, 0], [0, 1]], lambda x: x[:, ::-1]),
        ([[1, 0], [0, -1]], lambda x: x[::-1]),
        ([[0, 1], [1, 0]], lambda x: x.transpose(1, 0, 2)),
        ([[0, -1], [-1, 0]], lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_mirrored_matrices(matrix, turned):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(reading._turned(pixels, np.array(matrix)), turned(pixels))


@pytest.mark.parametrize(
    ("rows", "tagged", "written", "span"),
    [
        (48, None, BT601, LIMITED),
        (720, None, BT709, LIMITED),
        (720, BT601, BT601, LIMITED),
        (48, BT709, BT709, FULL),
    ],
)
def test_the_matrix_and_the_range_of_colours(tmp_path, rows, tagged, written, span):
    """A clip that does not tell has the colours of high definition if it has its size."""
    green = np.full((rows, 64, 3), (20, 220, 40), np.uint8)
    frame = av.VideoFrame.from_ndarray(green, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=written, dst_color_range=span)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.height, stream.width, stream.pix_fmt = rows, 64, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = tagged or UNTOLD, span
        frame.colorspace, frame.color_range = tagged or UNTOLD, span
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _, frames = read(path)
    assert np.abs(frames[0].pixels.astype(int) - green).max() <= 5


def test_a_variable_rate_is_kept(tmp_path):
    times = [0, 1, 2, 10, 11, 30]
    clip, frames = read(write_clip(tmp_path / "a.mp4", blocks(*SIZE, 6), times=times))
    assert seconds(clip, frames) == [Fraction(time, 25) for time in times]


@pytest.mark.parametrize("suffix", [".m2ts", ".mpg"])
def test_times_that_start_again_go_on(tmp_path, suffix):
    """As in files that were joined."""
    codec = {".mpg": "mpeg1video"}.get(suffix, "libx264")
    one = write_clip(tmp_path / f"a{suffix}", blocks(*SIZE, 25), codec=codec)
    path = tmp_path / f"b{suffix}"
    path.write_bytes(one.read_bytes() * 3)
    clip, frames = read(path)
    times = seconds(clip, frames)
    assert len(times) == 75 and clip.shifts == [1, 2]
    assert {b - a for a, b in itertools.pairwise(times)} == {Fraction(1, 25)}


def test_an_avi_counts_times_without_frames(tmp_path):
    times = [*range(20), *range(30, 50)]
    path = write_clip(tmp_path / "a.avi", noise(40), codec="mpeg4", times=times)
    clip, frames = read(path)
    assert clip.damage is None and len(frames) == 40
    assert seconds(clip, frames) == [Fraction(time, 25) for time in times]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    clip, frames = read(path)
    assert 20 < len(frames) < 40
    assert clip.damage == f"it ends after {10 + len(frames)} of 50 frames"


def noise(count):
    """Pictures that no codec makes small, so that cutting a file cuts frames."""
    return np.random.default_rng(0).integers(0, 255, (count, *SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.mp4", "of 40 frames"), ("a.mov", "of 40 frames"), ("a.mkv", "its end is missing")],
)
def test_what_comes_before_damage_is_kept(tmp_path, name, words):
    options = {} if name == "a.mkv" else {"movflags": "+faststart"}
    path = write_clip(tmp_path / name, noise(40), options=options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    clip, frames = read(path)
    assert words in clip.damage and 10 < len(frames) < 30


def test_frames_that_are_damaged_are_told(tmp_path):
    """Wherever the decoder notices it; a few bytes may pass for a picture. What follows is read.

    Of the damaged frame the decoder makes up what is missing, or it leaves it out.
    """
    content = write_clip(tmp_path / "a.mp4", noise(40)).read_bytes()
    told = []
    for begin in range(len(content) // 10, len(content) * 8 // 10, len(content) // 12):
        damaged = bytearray(content)
        damaged[begin : begin + 600] = bytes(600)
        (tmp_path / "b.mp4").write_bytes(damaged)
        clip, frames = read(tmp_path / "b.mp4")
        told.append((clip.damage, len(frames)))
    assert {damage for damage, _ in told} <= {None, "some of its frames are damaged"}
    assert sum(damage is not None for damage, _ in told) >= len(told) // 2
    assert min(count for _, count in told) >= 38


def test_a_change_of_size_ends_the_clip(tmp_path):
    parts = [write_clip(tmp_path / f"{w}.m2ts", blocks(48, w, 5)) for w in (64, 96)]
    path = tmp_path / "a.m2ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip, frames = read(path)
    assert len(frames) == 5 and clip.damage == "its size changes from 64x48 to 96x48"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no video that can be read: Invalid data"),
        (b"no video" * 100, "is no video that can be read: Invalid data"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n", "is no video that can"),
    ],
)
def test_what_is_no_video_is_one_clear_error(tmp_path, content, words):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} {words}"):
        read(path)


def test_sound_alone_is_no_video(tmp_path):
    whole = write_clip(tmp_path / "b.mp4", blocks(*SIZE, 5), sound="aac")
    path = tmp_path / "a.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with pytest.raises(InputError, match="holds no video"):
        read(path)


def test_names_are_no_protocols(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", blocks(*SIZE, 3)).rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read("http:a.mp4")[1]) == 3


def test_a_clip_with_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", blocks(*SIZE, 3))
    monkeypatch.setenv(PIXELS_SETTING, "3000")
    with pytest.raises(InputError, match=f"64x48 pixels are more than 3000; set {PIXELS_SETTING}"):
        read(path)


def test_without_pyav_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'massformer-jax\[video\]'"):
        reading.check_av()
