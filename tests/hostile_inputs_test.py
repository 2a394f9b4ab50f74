"""Altered and hostile inputs of every command end in a right answer, or in one line and a status.

Which ones they are is drawn by a seeded generator. What is altered is altered as by the soak.
"""

import contextlib
import json
import os
import pathlib
import shutil
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from massformer_jax import command, compare, evaluate_files, main, predict
from massformer_jax.convert import __main__ as convert
from massformer_jax.convert import weights as convert_weights
from massformer_jax.data import build
from massformer_jax.data.images import decode_mask
from massformer_jax.data.photographs import PHOTOGRAPH_SUFFIXES, photograph_size
from massformer_jax.data.stats import __main__ as stats
from massformer_jax.errors import InputError
from massformer_jax.export import __main__ as export
from massformer_jax.export import program
from massformer_jax.export.form import Exported, Program
from massformer_jax.inference import segmenter
from massformer_jax.models import weights
from scripts.soak import folders, readers
from scripts.soak.alterations import altered
from tests.helpers import stand_in, stand_in_training, tiny_config
from tests.helpers.broken_releases import RELEASE
from tests.helpers.hostile import hostile_path, with_hostile_argument
from tests.helpers.pickles import saved

CASES = 60


class Case:
    """One input of a command: a folder of its own, and what is drawn."""

    def __init__(self, number: int, folder: pathlib.Path):
        self.rng = np.random.default_rng((13, number))
        self.folder = folder / str(number)
        self.folder.mkdir(parents=True)

    def one_in(self, count: int) -> bool:
        return int(self.rng.integers(count)) == 0

    def alter(self, path: pathlib.Path) -> None:
        data, _ = altered(path.read_bytes(), self.rng)
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    def alter_one_below(self, folder: pathlib.Path, pattern: str = "*") -> pathlib.Path:
        files = sorted(path for path in folder.rglob(pattern) if path.is_file())
        path = files[int(self.rng.integers(len(files)))]
        self.alter(path)
        return path


def errors_in(printed: str, several: bool) -> list[str]:
    """The lines of errors on standard error: one, or at least one."""
    lines = printed.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) <= 1 or several, errors
    assert "Traceback (most recent call last)" not in printed
    return errors


@pytest.fixture
def ends_well(tmp_path, monkeypatch, capsys):
    """Runs cases of a command; says of each how it ended.

    `prepare(case)` makes the inputs and returns the command line; `check(case)` looks at what a
    command with status 0 has made.
    """

    def run(command, prepare, check, *, several=False):
        ends, found = [], []
        for number in range(CASES):
            case = Case(number, tmp_path)
            monkeypatch.chdir(case.folder)
            argv = [*map(str, prepare(case))]
            capsys.readouterr()
            try:
                status = command(argv)
                printed = capsys.readouterr().err
                if status == 0:
                    check(case)
                assert bool(status) == bool(errors_in(printed, several)), printed
            except SystemExit as ended:  # argparse prints how the command is used
                status, printed = ended.code, capsys.readouterr().err
                if status != 2 or ": error: " not in printed.splitlines()[-1]:
                    found.append(f"{number} {argv}: status {status}, {printed}")
            except BaseException as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{frame.filename}:{frame.lineno}"
                found.append(f"{number} {argv}: {type(error).__name__} at {where}: {error}"[:700])
                continue
            ends.append(status)
        assert not found, "\n".join(found)
        assert set(ends) == {0, 1, 2} if several else {0, 2}  # each of them is tried

    return run


def test_predict(ends_well, tmp_path_factory, monkeypatch):
    stand_in.replace_network(monkeypatch)
    monkeypatch.setattr(segmenter, "model_graph", lambda *_, **__: stand_in.GRAPH)
    photographs = readers.Photographs(tmp_path_factory.mktemp("photographs")).files
    trained = folders.Checkpoints(tmp_path_factory.mktemp("trained"))
    params, batch_stats = folders._shapes()
    like = {"params": params, "batch_stats": batch_stats}
    monkeypatch.setattr(weights, "_abstract", lambda _: dict(like))
    flags = ("--window", "--stride", "--scales", "--resolution", "--devices", "--dtype")

    def prepare(case):
        given = case.folder / "given"
        given.mkdir()
        names = case.rng.permutation(list(photographs))[:2]
        for i, name in enumerate(names):
            (given / f"{i}{name}").write_bytes(photographs[name])
        checkpoint = trained.folder / "run"
        argv = ["--output", case.folder / "masks", "--compilation_cache", "", given]
        if case.one_in(4):
            checkpoint = shutil.copytree(trained.folder / "converted", case.folder / "converted")
            case.alter_one_below(checkpoint)
        argv = [str(value) for value in ["--checkpoint", checkpoint, *argv]]
        if case.one_in(4):
            with contextlib.suppress(FileExistsError):
                hostile_path(case.rng, given)
            return with_hostile_argument(argv, flags, case.rng, case.folder)
        case.alter_one_below(given)
        return argv

    def check(case):
        for path in (case.folder / "given").iterdir():
            mask = case.folder / "masks" / f"{path.stem}.png"
            if path.suffix.lower() in PHOTOGRAPH_SUFFIXES and mask.exists():
                assert decode_mask(mask).shape == photograph_size(path)

    ends_well(predict.main, prepare, check, several=True)


def test_evaluate_files(ends_well, tmp_path_factory):
    flags = ("--classes", "--boundary-ratio", "--tolerance", "--published")

    def prepare(case):
        for folder in ("labels", "predictions"):
            shutil.copytree(RELEASE / "annotations" / "train", case.folder / folder)
        argv = ["--labels", case.folder / "labels", "--predictions", case.folder / "predictions"]
        argv += ["--output", case.folder / "scores.json", "--compilation_cache", ""]
        argv = [str(value) for value in argv]
        if case.one_in(4):
            return with_hostile_argument(argv, flags, case.rng, case.folder)
        case.alter_one_below(case.folder)
        return argv

    def check(case):
        scores = case.folder / "scores.json"
        if scores.exists():  # else the flag is what was left out
            # What is not refused is what it was.
            assert json.loads(scores.read_text())["mIoU"] == 1

    ends_well(evaluate_files.main, prepare, check)


def test_compare(ends_well, tmp_path_factory):
    sound = readers.Evaluations(tmp_path_factory.mktemp("evaluations")).files

    def prepare(case):
        for name, data in sound.items():
            (case.folder / name).write_bytes(data)
        argv = ["a.json", "b.json", "--output", "page.html", "--compilation_cache", ""]
        if case.one_in(4):
            return with_hostile_argument(argv, (), case.rng, case.folder)
        case.alter_one_below(case.folder, "*.json")
        return argv

    def check(case):
        pages = list(case.folder.glob("*.html"))
        assert all(page.read_text().rstrip().endswith("</html>") for page in pages)

    ends_well(compare.main, prepare, check)


def test_data_build(ends_well):
    def prepare(case):
        release = shutil.copytree(RELEASE, case.folder / "release")
        argv = ["--manual_dir", str(release), "--data_dir", str(case.folder / "data")]
        if case.one_in(4):
            with contextlib.suppress(FileExistsError):
                hostile_path(case.rng, release / "images" / "train")
            return with_hostile_argument(argv, (), case.rng, case.folder)
        case.alter_one_below(release)
        return argv

    def check(case):
        found = list(case.folder.glob("*/mass13k/*/dataset_info.json"))
        assert found or not (case.folder / "data").exists()

    def main_alone(argv):
        status = build.main(argv)
        if status:
            assert not os.path.exists(os.path.join(argv[-1], "mass13k"))
        return status

    ends_well(main_alone, prepare, check)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of six photographs."""
    folder = tmp_path_factory.mktemp("dataset")
    assert build.main(["--manual_dir", str(RELEASE), "--data_dir", str(folder)]) == 0
    return folder


def test_data_stats(ends_well, dataset):
    def prepare(case):
        data = shutil.copytree(dataset, case.folder / "data")
        argv = ["--data_dir", str(data), "--output", str(case.folder / "page.html")]
        if case.one_in(4):
            return with_hostile_argument(argv, ("--split",), case.rng, case.folder)
        case.alter_one_below(data)
        return argv

    def check(case):
        numbers = case.folder / "page.json"
        if numbers.exists():
            counts = json.loads(numbers.read_text())
            assert all(split["photographs"] in (1, 2, 3) for split in counts.values())

    ends_well(stats.main, prepare, check)


def test_convert(ends_well, tmp_path_factory, monkeypatch):
    trained = folders.Checkpoints(tmp_path_factory.mktemp("trained"))
    params, batch_stats = folders._shapes()
    monkeypatch.setattr(
        weights, "_abstract", lambda _: {"params": params, "batch_stats": batch_stats}
    )
    monkeypatch.setattr(convert_weights, "abstract_weights", lambda _: small())
    monkeypatch.setattr(convert_weights, "abstract_encoder", lambda _: small())
    rng = np.random.default_rng(0)
    state = {
        "backbone.conv1.weight": rng.random((5, 3, 7, 7), np.float32),
        "backbone.bn1.running_var": rng.random(5, np.float32),
        "backbone.bn1.num_batches_tracked": np.array(5, np.int64),
    }
    files = {"w.pth": saved({"state_dict": state}), "w.safetensors": safetensors.numpy.save(state)}

    def prepare(case):
        name = list(files)[int(case.rng.integers(2))]
        source = case.folder / name
        source.write_bytes(files[name])
        argv = ["--input", str(source), "--output", str(case.folder / "ours")]
        if case.one_in(4):
            shutil.copytree(trained.folder / "converted", case.folder / "converted")
            case.alter_one_below(case.folder / "converted")
            source, target = case.folder / "converted", case.folder / "back.safetensors"
            return ["--to-torch", "--input", str(source), "--output", str(target)]
        if case.one_in(3):
            return with_hostile_argument(argv, ("--model", "--key"), case.rng, case.folder)
        case.alter(source)
        return argv

    def check(case):
        assert any(case.folder.glob("*/*/checksums.json")) or any(case.folder.glob("*.safetensors"))

    ends_well(convert.main, prepare, check)


def test_export(ends_well, tmp_path_factory, monkeypatch):
    """The network is not lowered: what may be hostile is the checkpoint and the command line."""
    trained = folders.Checkpoints(tmp_path_factory.mktemp("trained"))
    params, batch_stats = folders._shapes()
    monkeypatch.setattr(
        weights, "_abstract", lambda _: {"params": params, "batch_stats": batch_stats}
    )

    def lower(weights, form):
        answer = jax.ShapeDtypeStruct((1, *form.sides), jnp.uint8)
        image = jax.ShapeDtypeStruct((1, *form.sides, 3), jnp.uint8)
        tensors = {"params/colour": np.zeros(3, np.float32)}
        model = Program(b"program", {"images": image}, {form.answer: answer}, {})
        return Exported({"model": model}, tensors)

    monkeypatch.setattr(program, "lower", lower)
    flags = ("--size", "--answer", "--platforms", "--dtype", "--step", "--format")

    def prepare(case):
        checkpoint = shutil.copytree(trained.folder / "converted", case.folder / "converted")
        argv = ["--checkpoint", str(checkpoint), "--output", str(case.folder / "exported")]
        if case.one_in(2):
            return with_hostile_argument(argv, flags, case.rng, case.folder)
        if case.one_in(2):
            case.alter_one_below(checkpoint)
        return argv

    def check(case):
        (facts,) = case.folder.rglob("export.json")
        assert json.loads(facts.read_text())["classes"]
        assert not list(case.folder.rglob("*.part"))

    ends_well(export.main, prepare, check)


def small():
    """A model of one convolution and one norm."""
    shape = jax.ShapeDtypeStruct
    params = {"backbone": {"conv1": {"kernel": shape((7, 7, 3, 5), jnp.float32)}}}
    return params, {"backbone": {"bn1": {"var": shape((5,), jnp.float32)}}}


CONFIGS = {
    "syntax": "def get_config(:\n",
    "import": "import no_such_module\n",
    "nothing": "",
    "none": "def get_config(): return None\n",
    "raises": "def get_config(): raise RuntimeError('two\\nlines')\n",
    "dictionary": "def get_config(): return {'batch_size': 8}\n",
    "empty": "import ml_collections\ndef get_config(): return ml_collections.ConfigDict()\n",
    "no text": "\0\0\0",
}
VALUES = ("0", "-1", "nan", "''", "None", "x", "1e400", "(1,)", "{}", "99999999999999999999")


@pytest.fixture(scope="module")
def keys():
    """All keys of a config but those that would train a network for long."""

    def walk(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    long = ("total_steps", "batch_size", "data.crop_size", "data.short_edges", "data.max_long_edge")
    config = json.loads(tiny_config.get_config().to_json())
    return [key for key in walk(config) if key not in long]


@pytest.fixture
def training(dataset, monkeypatch):
    """Puts the stand-in for the network in place, and returns a command line without a workdir."""
    stand_in_training.install(monkeypatch.setattr)
    shape = jax.ShapeDtypeStruct
    like = {
        "params": {"colour": shape((3,), jnp.float32)},
        "batch_stats": {"seen": shape((), jnp.float32)},
    }
    monkeypatch.setattr(weights, "_abstract", lambda _: dict(like))
    short = ("total_steps=2", "checkpoint_every=1", "eval_every=2", "eval.pictures=0")
    return [
        f"--config={tiny_config.__file__}",
        "--compilation_cache=",
        *(f"--config.{x}" for x in short),
    ]


@pytest.fixture
def trained(training, dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    argv = [*training, f"--config.data.data_dir={dataset}", f"--workdir={workdir}"]
    assert main.main(argv) == 0
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_main(mode, ends_well, training, trained, dataset, keys):
    def prepare(case):
        workdir, data = case.folder / "run", dataset
        argv = [*training, f"--mode={mode}"]
        what = int(case.rng.integers(5))
        if what in (0, 1) or mode == "eval":
            shutil.copytree(trained, workdir)
        if what == 0:
            (workdir / "evaluated").unlink()  # so that there is something left to do
            case.alter_one_below(workdir)
        elif what == 1:
            case.alter(workdir / ("config.json" if case.one_in(2) else "evaluated"))
        elif what == 2:
            data = shutil.copytree(dataset, case.folder / "data")
            case.alter_one_below(data)
        elif what == 3:
            key = keys[int(case.rng.integers(len(keys)))]
            argv.append(f"--config.{key}={VALUES[int(case.rng.integers(len(VALUES)))]}")
        else:
            text = list(CONFIGS.values())[int(case.rng.integers(len(CONFIGS)))]
            (case.folder / "config.py").write_text(text)
            argv[0] = f"--config={case.folder / 'config.py'}"
        return [*argv, f"--workdir={workdir}", f"--config.data.data_dir={data}"]

    def check(case):
        scores = json.loads((case.folder / "run" / "eval" / "metrics.json").read_text())
        assert len(scores["images"]) == 2

    ends_well(main.main, prepare, check)


def test_no_control_characters_reach_a_terminal(capsys):
    """Names of files and what stands in them may hold some."""
    command.print_error(InputError("a\x1b[2J\r.png: wrong\n  b\udce9: wrong"))
    assert capsys.readouterr().err == "error: a\\x1b[2J\\r.png: wrong\n  b\\udce9: wrong\n"
