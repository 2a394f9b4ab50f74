"""Dataset, config and weights have to be of the same classes: said in one line, at the start."""

import jax
import ml_collections
import numpy as np
import pytest
from ml_collections import config_dict

from massformer_jax import main
from massformer_jax.classes import CLASSES, Class
from massformer_jax.data import build
from massformer_jax.errors import InputError
from massformer_jax.training import loop
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.dataset import check_same_classes, classes_of, with_classes
from massformer_jax.training.initial import read_initial
from massformer_jax.training.state import TrainState
from tests.helpers import own_photographs, stand_in_training, tiny_config
from tests.helpers.tiny_weights import TINY, tiny_state, write

CARS = (Class("other", (1, 2, 3)), Class("car", (4, 5, 6)))
RENAMED = (Class("thing aa", (1, 2, 3)), Class("car", (4, 5, 6)))


class NoEvaluations:
    def __init__(self, config, workdir):
        pass

    def is_due(self, step):
        return False

    is_missing = is_due

    def are_over(self, step, checkpoints):
        return False


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    """Returns the folder of a dataset of two classes."""
    folder = tmp_path_factory.mktemp("cars")
    root = own_photographs.write_folder(folder / "own", 2, photographs=4)
    arguments = ["--manual_dir", root, "--data_dir", folder / "data", "--layout", "folder"]
    arguments += ["--name", "things", "--classes", root / "classes.txt", "--val_share", "0.5"]
    assert build.main(list(map(str, arguments))) == 0
    return folder / "data" / "things"


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_another_number_in_the_config_ends_a_run_at_its_start(mode, cars, tmp_path, capsys):
    arguments = [f"--config={tiny_config.__file__}", f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.data.data_dir={cars}", f"--mode={mode}"]
    assert main.main(arguments) == 2
    printed = capsys.readouterr()
    assert (
        printed.err == "error: architecture.classes is 7; the dataset's labels are of 2 classes\n"
    )
    assert not (tmp_path / "run").exists()


def config_of(data_dir, classes) -> ml_collections.ConfigDict:
    config = tiny_config.get_config()
    config.data.data_dir = str(data_dir)
    config.architecture.classes = classes
    return config


def test_a_placeholder_follows_the_dataset(cars):
    config = with_classes(config_of(cars, config_dict.placeholder(int)))
    assert config.architecture.classes == 2 and len(classes_of(config)) == 2
    assert with_classes(config_of(cars, 7)).architecture.classes == 7


def test_a_run_continues_with_the_same_classes_alone(cars, tmp_path, monkeypatch):
    """Loop and checkpoints are real."""
    stand_in_training.install(monkeypatch.setattr)
    monkeypatch.setattr(loop, "Evaluations", NoEvaluations)
    config = config_of(cars, config_dict.placeholder(int))
    config.total_steps = 2
    loop.train_and_evaluate(config, tmp_path / "run")
    loop.train_and_evaluate(config, tmp_path / "run")
    monkeypatch.setattr(loop, "classes_of", lambda config: RENAMED)
    with pytest.raises(InputError, match="classes than the dataset: label 1 is thing ab there"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_checkpoints_tell_names_and_colours(tmp_path):
    state = TrainState(
        np.int32(1), {"w": np.ones(1, np.float32)}, {}, {"m": np.ones(1)}, np.int32(0)
    )
    state = jax.tree.map(jax.numpy.asarray, state)
    with Checkpoints(tmp_path, {"classes": 2}, every=1, classes=CARS) as checkpoints:
        checkpoints.save(state)
    meta = (tmp_path / "checkpoints" / "1" / "meta" / "metadata").read_text()
    assert '"other", "car"' in meta and "[4, 5, 6]" in meta


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("other", "car"), None),
        (("class 0", "class 1"), None),
        (("car", "other"), "label 0 is car there, other here"),
        (("other", "car", "sky"), "of 3 classes, and the dataset's labels of 2"),
        (("class 0",), "of 1 classes, and the dataset's labels of 2"),
    ],
)
def test_weights_are_of_the_classes_of_the_dataset(names, message):
    if message is None:
        check_same_classes(names, CARS, "the checkpoint")
        return
    with pytest.raises(InputError, match=message) as error:
        check_same_classes(names, CARS, "the checkpoint")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "classes", "kept", "message"),
    [
        ({}, CLASSES, True, "nothing is freshly initialised"),
        ({}, (), True, "nothing is freshly initialised"),
        ({}, tuple("abcdefg"), False, "weights have other classes: background, person"),
        (
            {},
            ("a", *CLASSES[1:]),
            True,
            "person, building, tree, ground, sky, water are kept, and freshly initialised: a",
        ),
        ({}, CLASSES[::-1], True, "are kept, and freshly initialised: nothing"),
        ({"classes": 2}, ("a", "b"), True, "nothing is freshly initialised"),
    ],
)
def test_the_class_head_of_other_classes_is_left_out(changes, classes, kept, message, tmp_path):
    path = write(tmp_path / "weights.safetensors", tiny_state(**changes))
    initial = read_initial(path, TINY | changes, classes)
    assert message in initial.message and ("cls_embed" in initial.params) == kept
