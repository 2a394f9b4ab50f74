"""Weights are pushed to a Hub with their card, and the names read what was pushed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from huggingface_hub import ModelCard, constants

from massformer_jax.convert import __main__ as convert_command
from massformer_jax.convert.weights import to_torch, write_exchanged
from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.segmenter import Segmenter
from massformer_jax.models.exchange import read_exchanged
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.initial import read_initial
from tests.helpers import release, tiny_coordformer
from tests.helpers.fake_hub import TOKEN, fake_hub
from tests.helpers.tiny_weights import TINY, tiny_state, tiny_train_state, write

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
NAME = "hf://someone/tiny"
PHOTO = release.PARITY / "infer_256x512" / "image.png"


def ask(monkeypatch, address):
    """Sends the library to a Hub at this address."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in the place of the real one, with a token that may push."""
    with fake_hub() as server:
        # The library has read the environment when it was imported.
        ask(monkeypatch, server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def state():
    return tiny_train_state(optax.identity())


@pytest.fixture
def run(tmp_path, state):
    """The workdir of a run whose best weights are of step 0."""
    folder = tmp_path / "run"
    with Checkpoints(folder, TINY, every=1, pictures=(30, 40)) as checkpoints:
        checkpoints.save_best(state, 0.5)
    return folder


def convert(capsys, *argv) -> tuple[int, str]:
    status = convert_command.main([str(argument) for argument in argv])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def files(hub, number=-1) -> dict[str, bytes]:
    return hub.repositories["someone/tiny"][number]


def test_what_is_pushed_is_read_by_its_name(hub, run, capsys):
    """It is one commit; of it, two files are downloaded, and only once."""
    status, printed = convert(capsys, "--input", run, "--push", NAME, "--license", "cc-by-nc-4.0")
    assert status == 0, printed
    assert f"{run} -> {NAME}: MaSSFormer" in printed and f"{hub.address}/someone/tiny" in printed
    assert set(files(hub)) == {"README.md", "config.json", "model.safetensors"}
    assert len(hub.repositories["someone/tiny"]) == 1
    hub.repositories["someone/tiny"][0]["pytorch_model.bin"] = b"a pickle"
    there, here = load_weights(NAME, DEVICE), load_weights(run, DEVICE)
    jax.tree.map(np.testing.assert_array_equal, there[3:5], here[3:5])
    assert there.pictures == here.pictures == (30, 40)
    assert sorted(hub.downloaded) == ["config.json", "model.safetensors"]
    segmenter = Segmenter.load(NAME)
    assert segmenter.pictures == (30, 40)
    assert sorted(hub.downloaded) == ["config.json", "model.safetensors"]


def test_all_of_it_comes_back(hub, tmp_path, capsys):
    """Tensors, classes, colours, pictures and origin, through a folder of a repository."""
    source = write(tmp_path / "in.safetensors", tiny_state())
    status, printed = convert(
        capsys, "--input", source, "--push", f"{NAME}/deep/er", "--license", "other"
    )
    assert status == 0, printed
    assert set(files(hub)) == {f"deep/er/{name}" for name in os.listdir(_kept(hub, tmp_path))}
    status, printed = convert(capsys, "--input", f"{NAME}/deep/er", "--output", tmp_path / "ours")
    assert status == 0, printed
    direct = tmp_path / "direct"
    assert convert(capsys, "--input", source, "--output", direct)[0] == 0
    there, expected = load_weights(tmp_path / "ours", DEVICE), load_weights(direct, DEVICE)
    tensors = to_torch(there)
    for name, tensor in to_torch(expected).items():
        assert tensors[name].tobytes() == tensor.tobytes(), name
    for field in ("step", "architecture", "classes", "palette", "source", "pictures"):
        assert getattr(there, field) == getattr(expected, field), field
    back = tmp_path / "back.safetensors"
    assert convert(capsys, "--to-torch", "--input", f"{NAME}/deep/er", "--output", back)[0] == 0
    assert safetensors.numpy.load_file(back).keys() == tiny_state().keys()


def _kept(hub, tmp_path):
    """Returns a folder with the files of the newest commit."""
    folder = tmp_path / "kept"
    folder.mkdir()
    for name, data in files(hub).items():
        (folder / name.split("/")[-1]).write_bytes(data)
    return folder


def test_a_run_starts_from_a_name(hub, run, capsys):
    assert convert(capsys, "--input", run, "--push", NAME, "--license", "mit")[0] == 0
    for name in (NAME, f"{NAME}/model.safetensors"):
        initial = read_initial(name, TINY)
        assert "nothing is freshly initialised" in initial.message and NAME in initial.message
    with pytest.raises(ValueError, match="it has no iter_80000"):
        read_initial(f"{NAME}/iter_80000.safetensors", TINY)


def test_a_file_of_pytorch_is_converted_by_its_name(hub, tmp_path, capsys):
    """Of the repository, this file is downloaded and no other."""
    path = write(tmp_path / "in.safetensors", tiny_state())
    hub.repositories["someone/tiny"] = [{"a/iter_80000.pth": path.read_bytes(), "b.pth": b"x"}]
    name = f"{NAME}/a/iter_80000.pth"
    status, printed = convert(capsys, "--input", name, "--output", tmp_path / "ours")
    assert status == 0, printed
    assert hub.downloaded == ["a/iter_80000.pth"]


def test_revisions(hub, run, capsys):
    """A name means the newest commit, or the one that it names; a branch can be pushed to."""
    for _ in range(2):
        status, printed = convert(capsys, "--input", run, "--push", NAME, "--license", "mit")
        assert status == 0, printed
    hub.branches["someone/tiny", "v1.0"] = 0
    first = hub.repositories["someone/tiny"][0]
    first["config.json"] = first["config.json"].replace(b'"step": 0', b'"step": 7')
    assert load_weights(NAME, DEVICE).step == 0
    assert load_weights(f"{NAME}@v1.0", DEVICE).step == 7
    assert load_weights(f"{NAME}@v1.0", DEVICE, step=7).step == 7
    with pytest.raises(ValueError, match="no checkpoint of step 3, but that of 7"):
        load_weights(f"{NAME}@v1.0", DEVICE, step=3)


def refused(capsys, *argv) -> str:
    status, printed = convert(capsys, *argv)
    assert status == 2, printed
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    return printed


def test_what_cannot_be_downloaded_is_one_line(hub, run, tmp_path, capsys, monkeypatch):
    assert convert(capsys, "--input", run, "--push", NAME, "--license", "mit")[0] == 0
    output = ("--output", tmp_path / "no")

    def why(name):
        return refused(capsys, "--input", name, *output)

    assert "no such repository, or it is private" in why("hf://someone/other")
    assert "there is no revision v9" in why(f"{NAME}@v9")
    assert "it has no deep/config.json" in why(f"{NAME}/deep")
    hub.gated.add("someone/tiny")
    assert "its owner has to grant access" in why(NAME)
    hub.gated.clear()
    hub.broken = 401
    assert "refuses the token, or it may not do this (status 401)" in why(NAME)
    hub.broken = 418  # of 500 and the like, the library waits half a minute
    assert "answers with status 418" in why(NAME)
    hub.broken = None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()  # the library looks at this when a session begins
    assert "HF_HUB_OFFLINE is set" in why(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    ask(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library tries again after a while
    assert "http://127.0.0.1:9 cannot be reached" in why(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'massformer-jax[hub]'" in why(NAME)
    assert not (tmp_path / "no").exists()


def test_what_was_downloaded_is_read_without_the_network(hub, run, capsys, monkeypatch):
    assert convert(capsys, "--input", run, "--push", NAME, "--license", "mit")[0] == 0
    before = load_weights(NAME, DEVICE)
    ask(monkeypatch, "http://127.0.0.1:9")
    assert load_weights(NAME, DEVICE).folder == before.folder


def test_nothing_is_pushed_if_something_is_wrong(hub, run, tmp_path, capsys, monkeypatch):
    push = ("--push", NAME, "--license", "mit")
    assert "--license ID" in refused(capsys, "--input", run, "--push", NAME)
    assert "as the Hub does" in refused(capsys, "--input", run, *push[:3], "MIT License")
    assert "--to-torch" in refused(capsys, "--input", run, "--to-torch", *push)
    assert "is of what is pushed" in refused(capsys, "--input", run, *push[2:])
    assert "--output is missing" in refused(capsys, "--input", run)
    for name in ("me", ""):
        command = ("--input", run, "--push", name, *push[2:], "--output", tmp_path / "kept")
        assert f"{name!r} is no name of the Hub" in refused(capsys, *command)
    assert "--key is of files" in refused(capsys, "--input", run, *push, "--key", "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "name a new folder" in refused(
        capsys, "--input", run, *push, "--output", tmp_path / "full"
    )
    state = tiny_state()
    state.pop("decode_head.query_feat.weight")
    status, printed = convert(capsys, "--input", write(tmp_path / "x.safetensors", state), *push)
    assert status == 2 and "1 missing" in printed
    encoder = {k: v for k, v in tiny_state().items() if k.startswith("backbone.")}
    path = write(tmp_path / "encoder.safetensors", encoder)
    assert "an encoder alone" in refused(capsys, "--input", path, *push)
    assert not hub.repositories and not hub.requests
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    kept = ("--output", tmp_path / "kept")
    assert "cannot be uploaded" in refused(capsys, "--input", run, *push, *kept)
    assert not hub.repositories and not (tmp_path / "kept").exists()


def test_what_is_pushed_is_kept_where_output_says(hub, run, tmp_path, capsys):
    kept, before = tmp_path / "kept", os.umask(0o027)
    try:
        status, printed = convert(
            capsys, "--input", run, "--push", NAME, "--license", "mit", "--output", kept
        )
    finally:
        os.umask(before)
    assert status == 0, printed
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files(hub)
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o640}
    assert load_weights(kept, DEVICE).pictures == (30, 40)


def evaluation(step: int | None, **protocol) -> dict:
    """A `metrics.json` of two classes, as small as it is accepted; of no step, of no origin."""
    by_class = ("IoU", "Acc", "Dice", "Fscore", "Precision", "Recall", "BIoU", "BF1@0.75%")
    return {
        "classes": ["a|b", "c"],
        "boundary_ratio": 0.02,
        "tolerances": [0.0075],
        "confusion": [[1, 2], [3, 4]],
        "images": {},
        "ignored_share": 0.0,
        "aAcc": 0.75,
        **{name: [0.5, None] for name in by_class},
        **{f"m{name}": 0.5 for name in by_class},
        "protocol": dataclasses.asdict(Protocol(**protocol)),
        "provenance": step
        if step is None
        else {
            "step": step,
            "date": "2026-11-27",
            "version": "0.1.0",
            "command": "massformer evaluate --workdir=/home/me/secret",
            "checkpoint": "/home/me/secret/best/0",
            "dataset": {
                "folder": "/home/me/secret/data",
                "name": "mass13k/1.0.0",
                "split": "validation",
                "images": 8,
                "mass13k": None,
                "reason": "8 images, and MaSS13K's val has 500",
            },
        },
    }


@pytest.mark.parametrize(
    ("step", "protocol", "seen"),
    [
        (0, {}, "them as they are"),
        (0, {"resolution": "release", "scales": (0.5, 1.0)}, "them with resolution='release', sc"),
        (9, {}, ""),
        (None, {}, ""),
    ],
)
def test_the_card_tells_what_is_known(hub, run, capsys, step, protocol, seen):
    """The library accepts it; scores are of these weights, and no path of the disk is told."""
    (run / "eval").mkdir()
    (run / "eval" / "metrics.json").write_text(json.dumps(evaluation(step, **protocol)))
    status, printed = convert(capsys, "--input", run, "--push", NAME, "--license", "cc-by-nc-4.0")
    assert status == 0, printed
    text = files(hub)["README.md"].decode()
    card = ModelCard(text)
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "massformer_jax"
    assert card.data.pipeline_tag == "image-segmentation" and "jax" in card.data.tags
    assert "| 1 | person | `#ff0000` |" in text and "40x30 pixels" in text
    assert f"--checkpoint {NAME}" in text and "Chenxi Xie" in text and "2503.18364" in text
    assert "/home" not in text and str(run) not in text
    if step == 0:
        results = {r.metric_name: r.metric_value for r in card.data.eval_results}
        assert results == {"mIoU": 0.5, "aAcc": 0.75, "mAcc": 0.5, "mBIoU": 0.5, "mBF1@0.75%": 0.5}
        assert {r.dataset_split for r in card.data.eval_results} == {"validation"}
        assert "| mIoU | 50.00 |" in text and "8 photographs" in text
        assert "not a whole split of MaSS13K" in text
        assert f"photographs, counted at their own resolution; the network saw {seen}" in text
    else:
        assert "tells no scores" in printed and "No evaluation came" in text
        assert card.data.eval_results is None


@pytest.fixture
def exchanged(tmp_path, state):
    """A folder of weights as they are exchanged."""
    folder = tmp_path / "exchanged"
    names = tuple(f"name {i}" for i in range(TINY["classes"]))
    write_exchanged(Weights(5, TINY, names, state.params, state.batch_stats), folder)
    return folder


def test_a_coordformer_is_exchanged_too(tmp_path):
    """Its architecture is nested, and tensors of its encoder have names of their own."""
    weights = tiny_coordformer.tiny_weights()
    write_exchanged(weights, tmp_path)
    found = read_exchanged(tmp_path)
    for field in ("step", "architecture", "classes", "palette", "pictures", "source"):
        assert getattr(found, field) == getattr(weights, field), field
    jax.tree.map(np.testing.assert_array_equal, found.params, weights.params)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats, weights.batch_stats)


def change(path, **facts):
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


WRONG = {
    "no file": (lambda path: path.unlink(), "is missing"),
    "no JSON": (lambda path: path.write_text("{"), "is no JSON"),
    "of another library": (lambda path: path.write_text('{"architectures": []}'), "`architecture`"),
    "another kind of architecture": (lambda path: change(path, architecture=3), "`architecture`"),
    "another architecture": (
        lambda path: change(path, architecture=TINY | {"decoder_width": 16}),
        "tensors do not fit",
    ),
    "an encoder": (lambda path: change(path, architecture={"encoder_depth": 18}), "`classes`"),
    "too few classes": (lambda path: change(path, classes=["a"]), "`classes`"),
    "classes that move a cursor": (
        lambda path: change(path, classes=["\x1b[2J"] * TINY["classes"]),
        "`classes`",
    ),
    "colours of text": (lambda path: change(path, palette=["red"] * 7), "`palette`"),
    "a step of text": (lambda path: change(path, step="5"), "`step`"),
    "an origin of text": (lambda path: change(path, source="there"), "`source`"),
    "another checksum": (lambda path: change(path, sha256="0" * 64), "is damaged"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_folder_is_refused(exchanged, wrong):
    spoil, message = WRONG[wrong]
    assert load_weights(exchanged, DEVICE).classes[1] == "name 1"
    spoil(exchanged / "config.json")
    with pytest.raises(ValueError, match=message):
        load_weights(exchanged, DEVICE)


def test_no_change_of_a_folder_ends_in_a_traceback(exchanged):
    """Without a checksum, whatever is changed: it is refused in a line, or read."""
    rng, refused = np.random.default_rng(0), 0
    change(exchanged / "config.json", sha256=None)
    sound = {path: path.read_bytes() for path in exchanged.iterdir()}
    values = [None, True, -1, 10**30, 1.5, "x", [], [[]], {}, {"a": 1}, "\ud800"]
    facts = json.loads(sound[exchanged / "config.json"])
    for i in range(24):
        for path, data in sound.items():
            path.write_bytes(data)
        if i % 2:
            key, value = rng.choice(list(facts)), values[int(rng.integers(len(values)))]
            change(exchanged / "config.json", **{key: value})
        else:
            path = exchanged / "model.safetensors"
            data = bytearray(sound[path])
            header = int.from_bytes(data[:8], "little")
            for at in rng.integers(8 + header, size=int(rng.integers(1, 4))):
                data[at] = int(rng.integers(256))
            path.write_bytes(data[: -int(rng.integers(1, 9))] if i % 3 == 0 else data)
        try:
            load_weights(exchanged, DEVICE)
        except InputError:
            refused += 1
    assert 8 < refused < 24


def test_damaged_tensors_are_refused(exchanged):
    path = exchanged / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        load_weights(exchanged, DEVICE)
    path.write_bytes(data[:1000])
    with pytest.raises(ValueError, match="broken"):
        load_weights(exchanged, DEVICE)


@pytest.mark.slow
def test_the_environment_says_where_the_hub_is(hub, run, tmp_path):
    """As people use it: commands, and variables of the environment."""
    places = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    others = {"HF_HUB_DISABLE_XET": "1", "XLA_FLAGS": ""}
    environment = (
        os.environ | places | others | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    )

    def massformer(*argv, **more):
        command = [sys.executable, "-m", "massformer_jax", *map(str, argv)]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True)
        return done.returncode, done.stderr

    def predict(checkpoint, output, **more):
        options = ("--checkpoint", checkpoint, "--output", tmp_path / output)
        return massformer("predict", *options, PHOTO, **more)

    status, err = massformer("convert", "--input", run, "--push", NAME, "--license", "mit")
    assert status == 0, err
    for checkpoint, output in ((run, "a"), (NAME, "b")):
        status, err = predict(checkpoint, output)
        assert status == 0, err
        meant = "far larger than the pictures that the weights are meant for, 40x30"
        assert f"the network sees 512x256 pixels, {meant}" in err.splitlines()[-1]
    shutil.rmtree(run)
    assert (tmp_path / "home" / "hub" / "models--someone--tiny").is_dir()
    # What is there is read again without the network; of what is not there, it is said.
    status, err = predict(NAME, "c", HF_HUB_OFFLINE="1")
    assert status == 0, err
    masks = [(tmp_path / name / "image.png").read_bytes() for name in "abc"]
    assert masks[0] == masks[1] == masks[2]
    status, err = predict(NAME, "d", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert status == 2 and "HF_HUB_OFFLINE is set" in err and err.count("\n") == 1, err
