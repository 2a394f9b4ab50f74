"""Videos and sequences by the command `predict`, from the file to what is written."""

import itertools
import os
import pathlib
import signal
import threading

import av
import numpy as np
import optax
import pytest
from PIL import Image

from massformer_jax import predict
from massformer_jax.classes import CLASSES
from massformer_jax.data.images import decode_mask
from massformer_jax.errors import InputError
from massformer_jax.inference import progress
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.inference.stream import TooLargeError
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.video import clips, reading, writing
from tests.helpers.clips import blocks, read_clip, sound_packets, write_clip
from tests.helpers.fake_segmenter import BLUE, GREEN, RED, FakeSegmenter
from tests.helpers.tiny_weights import TINY, tiny_train_state

SIZE, COUNT = (48, 64), 12
FLAGS = ["--checkpoint", "x"]


@pytest.fixture
def segmenter(monkeypatch):
    """What a command loads: the class of a pixel is its strongest colour."""
    fake = FakeSegmenter()
    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: fake)
    return fake


@pytest.fixture
def clip(tmp_path):
    times = [0, 1, 2, 3, 8, 9, 10, 11, 12, 20, 21, 22]
    return write_clip(tmp_path / "clip.mp4", blocks(*SIZE, COUNT), times=times, sound="aac")


@pytest.fixture
def run(segmenter, tmp_path, capsys):
    """Runs the command with `out` as its output; returns its status and what it printed."""

    def run(*arguments):
        output = ["--output", str(tmp_path / "out")]
        status = predict.main([*FLAGS, *output, *map(str, arguments)])
        out, err = capsys.readouterr()
        # The segmenter says that it compiles.
        lines = [x for x in err.splitlines(True) if not x.startswith(("preparing ", "… compiled"))]
        return status, out, "".join(lines)

    return run


def written(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if x.is_file())


def labels_of(picture):
    return FakeSegmenter().predict(picture)


def test_a_video_for_each_format(run, clip, tmp_path):
    flags = ["--write=labels,overlay,alpha", "--classes=person,tree+sky"]
    status, out, err = run(*flags, clip)
    assert status == 0 and err == "", err
    out_folder = tmp_path / "out"
    files = ["clip_labels.mkv", "clip_overlay.mp4", "clip_person_alpha.mkv"]
    assert written(out_folder) == [*files, "clip_tree+sky_alpha.mkv"]
    assert out.startswith(f"{clip} -> {out_folder / 'clip_labels.mkv'} and 3 more  (1 of 1")
    frames, times = read_clip(clip)
    labels, label_times = read_clip(out_folder / "clip_labels.mkv", "gray")
    overlay, overlay_times = read_clip(out_folder / "clip_overlay.mp4")
    alphas, alpha_times = read_clip(out_folder / "clip_person_alpha.mkv", "gray")
    assert times == label_times == overlay_times == alpha_times
    for frame, label, tinted, alpha in zip(frames, labels, overlay, alphas, strict=True):
        assert set(np.unique(label)) <= {0, RED, GREEN, BLUE}
        assert np.mean(label != labels_of(frame)) < 0.03  # another rounding of its colours
        assert np.all(alpha[label == GREEN] < 200) and np.mean(alpha[label == RED] > 128) > 0.9
        inside = tinted[4:20, 4:28].mean((0, 1)) - frame[4:20, 4:28].mean((0, 1))
        assert inside[0] > 10 and inside[1] < -5  # red is tinted red
        assert np.abs(tinted[26:28, 34:62].astype(int) - frame[26:28, 34:62]).mean() < 10
    assert sound_packets(out_folder / "clip_overlay.mp4") == sound_packets(clip)


def test_numbered_pictures(run, clip, tmp_path):
    """The legend has one height in all frames, whichever classes occur in them."""
    flags = ["--frames", "--classes=person,sky", "--legend", "--alpha-bits=16"]
    status, _, err = run(*flags, "--write=labels,overlay,alpha,cutout,probabilities", clip)
    assert status == 0 and err == "", err
    folders = {"clip": "png", "clip_overlay": "jpg", "clip_probabilities": "tif"}
    folders |= {f"clip_{x}_{y}": "png" for x in ("person", "sky") for y in ("alpha", "cutout")}
    names = [f"{x}/{i + 1:06}.{y}" for x, y in folders.items() for i in range(COUNT)]
    assert written(tmp_path / "out") == sorted(names)
    for i, frame in enumerate(read_clip(clip)[0]):
        labels = decode_mask(tmp_path / "out" / "clip" / f"{i + 1:06}.png")
        assert np.mean(labels != labels_of(frame)) < 0.03
    overlays = [Image.open(x).size for x in (tmp_path / "out/clip_overlay").iterdir()]
    assert len(set(overlays)) == 1 and overlays[0][1] > SIZE[0]


def test_a_clip_of_a_phone_is_upright(run, tmp_path):
    path = write_clip(tmp_path / "a.MOV", blocks(*SIZE, 3), rotation=90)
    status, _, err = run("--write=labels,overlay", path)
    assert status == 0, err
    labels, _ = read_clip(tmp_path / "out" / "a_labels.mkv", "gray")
    assert labels[0].shape == SIZE[::-1]
    assert (labels[0][4:28, 4:20] == GREEN).all() and (labels[0][36:60, 4:20] == RED).all()
    with av.open(str(tmp_path / "out" / "a_overlay.mov")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (48, 64, 0)


def test_damage_is_told_and_what_came_before_is_kept(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, *SIZE, 3), np.uint8)
    path = write_clip(tmp_path / "a.mp4", noise, options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    status, out, err = run(path)
    assert (status, out) == (1, "")
    labels, _ = read_clip(tmp_path / "out" / "a_labels.mkv", "gray")
    assert err.startswith(f"error: {path}: it ends after ") and err.count("\n") == 1
    assert err.endswith(f" of 40 frames; {len(labels)} frames are written\n") and len(labels) > 10


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_what_cannot_be_read_does_not_stop_the_others(run, clip, tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    status, out, err = run(tmp_path / "a.mp4", clip)
    assert status == 1 and out.count("\n") == 1
    error, summary, failed = err.splitlines()
    assert error.startswith(f"error: {tmp_path / 'a.mp4'} is no video that can be read")
    assert summary.startswith("1 video (12 frames) done, 1 failed in")
    assert failed == f"failed: {tmp_path / 'a.mp4'}"
    assert written(tmp_path / "out") == ["clip_labels.mkv"]
    assert run(tmp_path / "a.mp4")[0] == 2


def test_pictures_without_a_decoder_do_not_stop_the_others(run, clip, tmp_path):
    """As those of Blackmagic's cameras (braw)."""
    path = tmp_path / "a.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"braw").replace(b"avcC", b"xxxx"))
    status, out, err = run(path, clip)
    assert status == 1 and out.count("\n") == 1
    assert err.splitlines()[0] == f"error: {path}: there is no decoder for its pictures"
    assert written(tmp_path / "out") == ["clip_labels.mkv"]


def test_a_clip_without_frames_is_an_error(run, clip, tmp_path):
    with av.open(str(clip)) as source, av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        packet = av.Packet(bytes(50))
        packet.stream, packet.pts, packet.dts = stream, 0, 0
        out.mux(packet)
    status, _, err = run(tmp_path / "a.mp4")
    assert status == 2 and err.startswith(f"error: {tmp_path / 'a.mp4'}: it holds no frame")
    assert written(tmp_path / "out") == []


@pytest.mark.parametrize("flags", [[], ["--frames"]])
def test_a_frame_that_is_too_large_leaves_nothing(run, segmenter, clip, tmp_path, flags):
    segmenter.error = TooLargeError("it is too large")
    status, _, err = run(*flags, clip)
    assert status == 2 and err.endswith(f"error: {clip}: it is too large, with --window\n")
    assert written(tmp_path / "out") == []


def test_photographs_and_clips_of_one_name(run, clip, tmp_path):
    """As phones store a photograph that moves."""
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    clip.rename(folder / "IMG_1.MOV")
    Image.fromarray(blocks(*SIZE, 1)[0]).save(folder / "IMG_1.jpg")
    status, _, err = run("--write=labels,overlay", tmp_path / "in")
    assert status == 0 and err.splitlines()[-1].startswith(
        "1 photograph done, 1 video (12 frames) done in"
    )
    names = ["IMG_1.png", "IMG_1_labels.mkv", "IMG_1_overlay.jpg", "IMG_1_overlay.mov"]
    assert written(tmp_path / "out") == [f"deep/{name}" for name in names]


def test_what_cannot_be_written_of_clips_is_told_before_anything(run, clip, tmp_path):
    for flags, words in (
        (["--write=cutout"], "cutout of a clip is written as pictures: pass --frames"),
        (["--write=colmap", "--classes=sky"], "--write colmap is for photographs; extract the "),
        (["--frames", "--write=labels,psd"], "--write psd is for photographs; extract the frames"),
    ):
        status, out, err = run(*flags, clip)
        assert (status, out) == (2, "") and err.startswith(f"error: {clip}: {words}")
        assert not (tmp_path / "out").exists()
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        (folder / "a.mp4").write_bytes(clip.read_bytes())
        assert f"error: {folder} holds videos alone: {words}" in run(*flags, folder)[2]
    Image.fromarray(blocks(*SIZE, 1)[0]).save(folder / "b.png")
    status, _, err = run("--write=cutout", "--classes=sky", folder)
    assert status == 0 and err.startswith(f"{folder}: left out a.mp4: cutout of a clip")
    assert written(tmp_path / "out") == ["b_sky_cutout.png"]


def test_nothing_that_is_read_is_written_over(run, clip, tmp_path):
    """Whoever segments overlays again, in place, gets an error."""
    overlay = clip.rename(tmp_path / "a_overlay.mp4")
    (tmp_path / "a.mp4").write_bytes(overlay.read_bytes())
    flags = ["--write=overlay", tmp_path / "a.mp4", overlay]
    assert predict.main([*FLAGS, "--output", str(tmp_path), *map(str, flags)]) == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").mkdir()
    (tmp_path / "out" / "a" / "notes.txt").write_text("mine")
    status, _, err = run("--frames", tmp_path / "a.mp4")
    assert status == 2 and "holds notes.txt and would be written over" in err
    (tmp_path / "out" / "a" / "notes.txt").unlink()
    photo = tmp_path / "out" / "a" / "000001.png"
    Image.fromarray(blocks(*SIZE, 1)[0]).save(photo)
    status, _, err = run("--frames", tmp_path / "a.mp4", photo)
    assert status == 2 and "is read and would be written over" in err
    assert written(tmp_path / "out") == ["a/000001.png"]


def test_frames_and_masks_do_not_share_a_folder(run, clip, tmp_path):
    folder = tmp_path / "in"
    (folder / "clip").mkdir(parents=True)
    clip.rename(folder / "clip.mp4")
    Image.fromarray(blocks(*SIZE, 1)[0]).save(folder / "clip" / "000001.jpg")
    status, _, err = run("--frames", folder)
    assert status == 2 and f"the frames of {folder / 'clip.mp4'} would lie in" in err
    (folder / "clip" / "000001.jpg").unlink()
    (folder / "clip_overlay.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    status, _, err = run("--frames", "--write=labels,overlay", folder)
    assert status == 2 and "and so would other files" in err


def contents(folder):
    """Returns what each file holds; of videos the frames, between which sounds lie at any place."""
    found = {}
    for name in written(folder):
        path = folder / name
        found[name] = path.read_bytes()
        if path.suffix in (".mkv", ".mp4"):
            with av.open(path) as video:
                found[name] = [frame.to_ndarray().tobytes() for frame in video.decode(video=0)]
            assert len(found[name]) == COUNT
    return found


@pytest.mark.parametrize("flags", [[], ["--frames"]])
def test_whole_clips_are_skipped_and_others_done_again(run, segmenter, clip, tmp_path, flags):
    flags = [*flags, "--write=labels,overlay", "--skip-existing", clip]
    assert run(*flags)[0] == 0
    first = contents(tmp_path / "out")
    segmenter.seen.clear()
    assert run(*flags)[0] == 0 and segmenter.seen == []
    victim = next(x for x in (tmp_path / "out").iterdir() if "overlay" in x.name)
    victim.rename(tmp_path / "moved")
    assert run(*flags)[0] == 0 and len(segmenter.seen) == COUNT
    assert contents(tmp_path / "out") == first


@pytest.fixture
def sigint_interrupts():
    """Lets SIGINT interrupt: Python ignores it if it was started in the background of a script."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("flags", [[], ["--frames"]])
def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(
    run, segmenter, clip, tmp_path, flags, monkeypatch, sigint_interrupts
):
    """Interrupted at the fifth frame, with an older output that stays as it was."""
    assert run(*flags, clip)[0] == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in written(tmp_path / "out")}
    segmenter.seen.clear()
    predicted = segmenter.predict

    def interrupted(image):
        if len(segmenter.seen) == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return predicted(image)

    monkeypatch.setattr(segmenter, "predict", interrupted)
    status, _, err = run(*flags, clip)
    assert status == 130 and err.splitlines()[-1] == "interrupted" and "Traceback" not in err
    after = {name: (tmp_path / "out" / name).read_bytes() for name in written(tmp_path / "out")}
    assert after == before and 5 <= len(segmenter.seen) <= 7


class Flickering(FakeSegmenter):
    """A segmenter that is wrong now and then, differently in each frame."""

    def __init__(self):
        super().__init__()
        self._rng = np.random.default_rng(0)

    def scores(self, image):
        """Returns scores with noise."""
        scores = super().scores(image)
        return np.abs(scores + self._rng.normal(0, 1.2, scores.shape).astype(np.float32))

    def predict(self, image):
        """Returns the classes of the highest scores."""
        return self.scores(image).argmax(-1).astype(np.uint8)


def flicker(labels):
    return np.mean([np.mean(a != b) for a, b in itertools.pairwise(labels[4:])])


def test_smooth_steadies_a_clip(run, clip, tmp_path, monkeypatch):
    found = {}
    for flags in ([], ["--smooth"]):
        monkeypatch.setattr(Segmenter, "load", lambda *_, **__: Flickering())
        assert run("--write=labels,alpha", "--classes=sky", *flags, clip)[0] == 0
        found[len(flags)], _ = read_clip(tmp_path / "out" / "clip_labels.mkv", "gray")
    assert flicker(found[1]) < 0.3 * flicker(found[0]) and flicker(found[0]) > 0.1
    assert run("--smooth", clip)[0] == 0  # labels alone
    labels, _ = read_clip(tmp_path / "out" / "clip_labels.mkv", "gray")
    assert flicker(labels) < 0.3 * flicker(found[0])


def test_smooth_takes_photographs_in_the_order_of_their_numbers(run, tmp_path, monkeypatch):
    """Folders are sequences of their own."""
    folder = tmp_path / "in"
    for inside, pictures in (("a", blocks(*SIZE, 12)), ("b", blocks(*SIZE, 2))):
        (folder / inside).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / inside / f"frame{i}.png")
    order = []

    class Noted(Flickering):
        def answers(self, images, **settings):
            order.extend(images)
            return super().answers(images, **settings)

    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: Noted())
    status, _, err = run("--smooth", folder)
    assert status == 0, err
    names = [f"a/frame{i}.png" for i in range(12)] + ["b/frame0.png", "b/frame1.png"]
    assert [str(x.relative_to(folder)) for x in order] == names
    masks = [decode_mask(tmp_path / "out" / name) for name in names]
    truth = [labels_of(np.array(Image.open(folder / name))) for name in names]
    wrong = [np.mean(x != y) for x, y in zip(masks, truth, strict=True)]
    assert wrong[0] > 0.1 and wrong[12] > 0.1  # the first of each folder stands alone
    assert max(wrong[5:12]) < 0.5 * wrong[0]


def test_smooth_and_skip_existing_exclude_each_other_for_photographs(run, clip, tmp_path):
    Image.fromarray(blocks(*SIZE, 1)[0]).save(tmp_path / "a.png")
    status, _, err = run("--smooth", "--skip-existing", tmp_path / "a.png", clip)
    assert status == 2 and err.startswith("error: --smooth needs all photographs of a sequence")
    assert run("--smooth", "--skip-existing", clip)[0] == 0


def test_progress_tells_frames(run, clip, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    lines = run(clip)[2].splitlines()
    assert len(lines) == COUNT and lines[6].startswith(f"{clip}: frame 7 of 12, ")


def test_few_frames_are_held_at_a_time(segmenter, tmp_path, monkeypatch):
    """However long a clip is: what is decoded is never far ahead of what is written."""
    path = write_clip(tmp_path / "a.mp4", blocks(*SIZE, 60))
    decoded, most, done = [], [], []
    picture, rgb = writing._picture, reading._rgb
    monkeypatch.setattr(reading, "_rgb", lambda frame: decoded.append(1) or rgb(frame))

    def encoded(*arguments):
        most.append(len(decoded) - len(done))
        done.append(1)
        return picture(*arguments)

    monkeypatch.setattr(writing, "_picture", encoded)
    predict.main([*FLAGS, "--output", str(tmp_path / "out"), "--smooth", str(path)])
    assert len(done) == 60 and max(most) <= 4


def test_clips_without_pyav(monkeypatch, tmp_path, run, clip):
    def missing():
        raise InputError("pip install it")

    monkeypatch.setattr(reading, "check_av", missing)
    Image.fromarray(blocks(*SIZE, 1)[0]).save(tmp_path / "a.png")
    status, _, err = run(clip)
    assert status == 2 and err == f"error: {clip}: pip install it\n"
    status, _, err = run(tmp_path)
    assert status == 0 and f"{tmp_path}: left out clip.mp4: pip install it\n" in err


@pytest.mark.slow
def test_the_network_sees_the_frames_as_they_are(clip, tmp_path, monkeypatch):
    """Through the stream of photographs, with the weights of the smallest network."""
    with Checkpoints(tmp_path / "run", TINY, every=1) as checkpoints:
        checkpoints.save_best(tiny_train_state(optax.identity()), 0.5)
    network = Segmenter.load(tmp_path / "run")
    monkeypatch.setattr(Segmenter, "load", lambda *_, **__: network)
    assert predict.main([*FLAGS, "--output", str(tmp_path / "out"), str(clip)]) == 0
    labels, _ = read_clip(tmp_path / "out" / "clip_labels.mkv", "gray")
    with reading.opened(clip) as opened:
        expected = [network.predict(frame) for frame in opened.frames()]
    np.testing.assert_array_equal(labels, expected)


def test_names_of_what_is_written():
    name = pathlib.PurePath("trip", "a.b.WebM")
    files = clips.clip_files(name, ["labels", "overlay"], (), frames=False)
    assert [os.fspath(x) for x in files] == ["trip/a.b_labels.mkv", "trip/a.b_overlay.mkv"]
    files = clips.clip_files(name, ["labels", "overlay"], (), frames=True)
    assert [os.fspath(x) for x in files] == ["trip/a.b", "trip/a.b_overlay"]
    assert "sky" in CLASSES and clips.why_not(["labels", "overlay", "alpha"], frames=False) == ""
