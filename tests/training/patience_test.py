"""Runs that end early, since evaluations got no better, and what cannot be fine-tuned."""

import pytest

from massformer_jax.errors import InputError
from massformer_jax.training import evaluation, loop
from massformer_jax.training.initial import initial_weights
from massformer_jax.training.label_trust import annotations_of, trust_of
from massformer_jax.training.trust import Trust
from tests.helpers import stand_in_training, tiny_config


@pytest.fixture
def config(data_dir):
    config = tiny_config.get_config()
    config.data.data_dir = str(data_dir)
    config.total_steps, config.checkpoint_every, config.eval_every = 8, 2, 2
    return config


@pytest.fixture
def scores(monkeypatch):
    """The mIoU of each evaluation, which a test may change; and how many there were."""
    stand_in_training.install(monkeypatch.setattr)
    values, done = [0.5, 0.6, 0.55, 0.1], []
    make = evaluation.weights_evaluation

    def weights_evaluation(config):
        evaluate = make(config)

        def scored(*args, **kwargs):
            summary = evaluate(*args, **kwargs)
            done.append(kwargs["origin"]["step"])
            return {**summary, "mIoU": values[len(done) - 1]}

        return scored

    monkeypatch.setattr(evaluation, "weights_evaluation", weights_evaluation)
    return done


def test_a_run_ends_when_its_patience_does(config, scores, tmp_path, capsys):
    config.patience = 1
    loop.train_and_evaluate(config, tmp_path)
    assert scores == [2, 4, 6]
    assert "no better mIoU than that of step 4: the run ends" in capsys.readouterr().out
    # The same command does nothing more; with more patience it goes on.
    loop.train_and_evaluate(config, tmp_path)
    assert scores == [2, 4, 6]
    config.patience = 0
    loop.train_and_evaluate(config, tmp_path)
    assert scores == [2, 4, 6, 8]


def test_statistics_are_frozen_only_where_there_are_some(config, tmp_path):
    for frozen in ("encoder", "all"):
        config.frozen_statistics = frozen
        with pytest.raises(InputError, match=f"frozen_statistics is {frozen!r}.*init_from"):
            initial_weights(config, tmp_path)


def test_what_labels_say(config):
    assert trust_of(config) is None and annotations_of(config) is None
    config.labels.update(pseudo=(("sky", 6), ("5", 4)), unannotated=(("^0000", ("water",)),))
    assert trust_of(config) == Trust(((5, 4),), 20.0, False)
    config.labels.split_from = "background"
    assert trust_of(config) == Trust(((5, 4),), 20.0, False, 0)
    annotated = annotations_of(config)
    assert annotated.of("00001_b.jpg").tolist() == [True] * 6 + [False]
    assert annotated.of("10001_b.jpg").all()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pseudo", (("skye", 6),), "labels.pseudo: there is no class 'skye'; did you mean sky?"),
        ("pseudo", ("sky",), "labels.pseudo has 'sky'; each entry is (class, pixels)"),
        ("pseudo", (("sky", 65),), "0 to 64 pixels"),
        ("pseudo_strength", -1.0, "labels.pseudo_strength is -1.0"),
        ("split_from", "sky", "labels.split_from is 'sky', which labels.pseudo names"),
        ("split_from", "skye", "labels.split_from: there is no class 'skye'"),
        ("unknown", "ignored", "labels.unknown is 'ignored'; use 'outside' or 'left_out'"),
        ("unannotated", (("(", ("sky",)),), "(regular expression, classes)"),
    ],
)
def test_what_labels_cannot_say(config, key, value, words):
    config.labels.pseudo = (("sky", 6),)
    config.labels[key] = value
    with pytest.raises(InputError) as refused:
        trust_of(config)
        annotations_of(config)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_new_classes_are_split_from_another_one(config):
    config.labels.split_from = "background"
    with pytest.raises(InputError, match="pseudo names no class"):
        trust_of(config)
