"""Videos and folders of pictures are written whole or not at all, with the times of the clip."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from massformer_jax.errors import InputError
from massformer_jax.video import reading, writing
from tests.helpers.clips import blocks, read_clip, sound_packets, write_clip

FRAME = reading.Frame(np.zeros((1, 1, 3), np.uint8), 0)
TIMES = [0, 1, 2, 10, 11, 30, 31, 40]


def rewritten(source, target, change=lambda pixels: pixels, *, sound=False):
    """Writes the frames of a clip, changed, to another file; returns what was said of it."""
    said = []
    with (
        reading.opened(source) as clip,
        writing.video(target, clip, sound=sound, say=said.append) as write,
    ):
        for frame in clip.frames():
            write(frame, change(frame.pixels))
    return said


@pytest.mark.parametrize("size", [(48, 64), (49, 65), (49, 64), (48, 65)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_colours_sizes_and_times(tmp_path, suffix, size):
    source = write_clip(tmp_path / "a.mp4", blocks(*size, 8), codec="mpeg4", times=TIMES)
    target = tmp_path / f"b{suffix}"
    rewritten(source, target)
    expected, _ = read_clip(source)
    found, times = read_clip(target)
    assert times == [Fraction(x, 25) for x in TIMES]
    even = tuple(x + x % 2 for x in size)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (*even, 3)
        assert np.abs(one[: size[0], : size[1]].astype(int) - other).mean() < 8
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        frame = next(container.decode(stream))
        assert (frame.colorspace, frame.color_range) == (1, 1)


def test_colours_come_back(tmp_path):
    """What a reader that heeds the file's own words sees are the colours that were written."""
    source = write_clip(tmp_path / "a.mp4", blocks(48, 64, 3), codec="mpeg4")
    rewritten(source, tmp_path / "b.mp4", lambda x: np.full_like(x, (20, 220, 40)))
    with reading.opened(tmp_path / "b.mp4") as clip:
        pixels = next(clip.frames()).pixels
    assert np.abs(pixels.astype(int) - (20, 220, 40)).max() <= 5


@pytest.mark.parametrize(("dtype", "form"), [(np.uint8, "gray"), (np.uint16, "gray16le")])
def test_grey_pictures_lose_nothing(tmp_path, dtype, form):
    source = write_clip(tmp_path / "a.mp4", blocks(49, 65, 8), codec="mpeg4", times=TIMES)
    rng, written = np.random.default_rng(0), []

    def noise(pixels):
        written.append(rng.integers(0, np.iinfo(dtype).max, pixels.shape[:2], dtype, endpoint=True))
        return written[-1]

    rewritten(source, tmp_path / "b.mkv", noise)
    found, times = read_clip(tmp_path / "b.mkv", form)
    np.testing.assert_array_equal(found, written)
    assert times == [Fraction(x, 25) for x in TIMES]


@pytest.mark.parametrize(
    ("name", "sound"),
    [("a.mp4", "aac"), ("a.mov", "pcm_s16le"), ("a.mkv", "libopus"), ("a.mkv", "flac")],
)
def test_sound_is_copied_packet_by_packet(tmp_path, name, sound):
    source = write_clip(tmp_path / name, blocks(48, 64, 25), sound=sound)
    target = (tmp_path / "b").with_suffix(source.suffix)
    assert rewritten(source, target, sound=True) == []
    expected, found = sound_packets(source), sound_packets(target)
    assert b"".join(x for x, _ in found) == b"".join(x for x, _ in expected)
    assert found == expected and len(found) > 10
    rewritten(source, target)
    with av.open(str(target)) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(("rotation", "expected"), [(None, Fraction(4, 3)), (90, Fraction(3, 4))])
@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_pixels_that_are_not_square(tmp_path, rotation, expected, name):
    """The file says so as that of the clip does; where rows become columns, the other way round."""
    source = tmp_path / "a.mp4"
    write_clip(source, blocks(48, 64, 3), rotation=rotation, aspect=Fraction(4, 3))
    rewritten(source, tmp_path / name)
    with reading.opened(tmp_path / name) as clip:
        assert clip.aspect == expected


def test_opencv_reads_what_is_written(tmp_path):
    """A reader that is not ours sees the same labels, and nearly the same colours."""
    source = write_clip(tmp_path / "a.mp4", blocks(48, 64, 5))
    labels = np.random.default_rng(0).integers(0, 7, (48, 64), np.uint8)
    rewritten(source, tmp_path / "labels.mkv", lambda _: labels)
    rewritten(source, tmp_path / "overlay.mp4")
    for name, picture, most in (
        ("labels.mkv", labels[..., None].repeat(3, -1), 0),
        ("overlay.mp4", read_clip(source)[0][0][..., ::-1], 8),
    ):
        capture = cv2.VideoCapture(str(tmp_path / name))
        there, pixels = capture.read()
        assert there and np.abs(pixels.astype(int) - picture).mean() <= most
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5


def test_sound_that_starts_before_and_ends_after_the_pictures(tmp_path):
    times = [20, 21, 22, 23]
    source = write_clip(tmp_path / "a.mp4", blocks(48, 64, 4), sound="aac", times=times, seconds=3)
    target = tmp_path / "b.mp4"
    rewritten(source, target, sound=True)
    assert sound_packets(target) == sound_packets(source)
    assert read_clip(target)[1] == read_clip(source)[1]


def test_sound_that_does_not_fit_is_told(tmp_path):
    source = write_clip(tmp_path / "a.avi", blocks(48, 64, 5), sound="adpcm_ms", codec="mpeg4")
    (said,) = rewritten(source, tmp_path / "b.mkv", sound=True)
    assert said == f"{source}: its sound (adpcm_ms) does not fit into an overlay; left out"
    assert len(read_clip(tmp_path / "b.mkv")[0]) == 5


def test_sound_without_a_decoder_is_told(tmp_path):
    """Phones store a second track of sound, as Apple's spatial one (apac)."""
    source = write_clip(tmp_path / "a.mov", blocks(48, 64, 5), sound="pcm_s16le")
    content = source.read_bytes()
    assert content.count(b"sowt") == 1
    source.write_bytes(content.replace(b"sowt", b"apac"))
    (said,) = rewritten(source, tmp_path / "b.mov", sound=True)
    words = "its sound (of an unknown kind) does not fit into an overlay; left out"
    assert said == f"{source}: {words}"
    assert len(read_clip(tmp_path / "b.mov")[0]) == 5


@pytest.mark.parametrize(
    ("suffix", "codec", "sound"), [(".m2ts", "libx264", "ac3"), (".mpg", "mpeg1video", "mp2")]
)
@pytest.mark.parametrize("seconds", [1.0, 1.5])
def test_sound_whose_times_start_again_goes_on(tmp_path, suffix, codec, sound, seconds):
    """Each part of it stays with its pictures, or begins after a part that is longer than these."""
    one = tmp_path / f"a{suffix}"
    write_clip(one, blocks(48, 64, 25), codec=codec, sound=sound, seconds=seconds)
    source, target = tmp_path / f"b{suffix}", tmp_path / "c.mkv"
    source.write_bytes(one.read_bytes() * 2)
    assert rewritten(source, target, sound=True) == []
    _, times = read_clip(target)
    first, alone, found = times[0], sound_packets(one), sound_packets(target)
    assert [x - first for x in times] == [Fraction(i, 25) for i in range(50)]
    expected = [*alone, *((x, t + 1) for x, t in alone if t + 1 > alone[-1][1])]
    assert [x for x, _ in found] == [x for x, _ in expected]
    moved = [t - u for (_, t), (_, u) in zip(found, expected, strict=True)]
    assert max(moved) - min(moved) <= 0.0011  # milliseconds in .mkv


def test_sound_that_starts_again_alone_is_left_out_from_there(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "a.mkv", blocks(48, 64, 5), sound="flac")
    monkeypatch.setattr(writing, "STARTED_AGAIN", -1)  # with its second packet
    (said,) = rewritten(source, tmp_path / "b.mkv", sound=True)
    assert said.startswith(f"{source}: the times of its sound start again where those of its pict")
    assert sound_packets(tmp_path / "b.mkv") == sound_packets(source)[:1]


def test_what_ffmpeg_cannot_write_is_one_clear_error(tmp_path):
    """Its muxer for .mov says that it takes Opus, and does not."""
    source = write_clip(tmp_path / "a.mkv", blocks(48, 64, 25), sound="libopus")
    with pytest.raises(InputError, match=f"{tmp_path / 'b.mov'} cannot be written: "):
        rewritten(source, tmp_path / "b.mov", sound=True)
    assert [x.name for x in tmp_path.iterdir()] == ["a.mkv"]


def test_an_error_leaves_nothing_behind(tmp_path):
    source = write_clip(tmp_path / "a.mp4", blocks(48, 64, 5))
    (tmp_path / "b.mp4").write_bytes(b"older")

    def broken(pixels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewritten(source, tmp_path / "b.mp4", broken)
    with pytest.raises(KeyboardInterrupt), writing.pictures(tmp_path / "c", ".png") as write:
        write(FRAME, b"")
        raise KeyboardInterrupt
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    assert (tmp_path / "b.mp4").read_bytes() == b"older"


def test_a_folder_of_pictures_takes_the_place_of_an_older_one(tmp_path):
    for contents in ([b"a", b"b", b"c"], [b"d", b"e"]):
        with writing.pictures(tmp_path / "clip", ".png") as write:
            for content in contents:
                write(FRAME, content)
            before = tmp_path / "clip"
            assert not before.exists() or len(list(before.iterdir())) == 3
    assert [x.read_bytes() for x in sorted((tmp_path / "clip").iterdir())] == [b"d", b"e"]
    assert {x.name for x in (tmp_path / "clip").iterdir()} == {"000001.png", "000002.png"}
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]
