"""A run that evaluates a split without labels says so, and keeps no weights as the best."""

import json

import numpy as np
import pytest

from massformer_jax.data import pipeline
from massformer_jax.models.weights import BEST
from massformer_jax.training import evaluation, loop
from tests.helpers import stand_in_training, tiny_config


@pytest.fixture
def unlabelled(data_dir, monkeypatch):
    """A short run whose photographs of the evaluation are ignored altogether."""
    stand_in_training.install(monkeypatch.setattr)
    examples = pipeline.eval_examples

    def without_labels(*arguments, **settings):
        for example in examples(*arguments, **settings):
            yield {**example, "label": np.full_like(example["label"], 255)}

    monkeypatch.setattr(evaluation.pipeline, "eval_examples", without_labels)
    config = tiny_config.get_config()
    config.data.data_dir = str(data_dir)
    config.total_steps = config.eval_every = config.checkpoint_every = 2
    return config


def test_nothing_labelled_is_said_and_is_never_the_best(unlabelled, tmp_path, capsys, recwarn):
    loop.train_and_evaluate(unlabelled, tmp_path)
    printed = capsys.readouterr().out
    told = "nothing is labelled in these 3 photographs, so there are no scores"
    assert f"evaluation after step 2\n{told}" in printed and "nan" not in printed
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["mIoU"] is None and metrics["ignored_share"] == 1
    assert not [path for path in (tmp_path / BEST).glob("*") if path.name.isdigit()]
    assert not [w for w in recwarn.list if issubclass(w.category, RuntimeWarning)]
