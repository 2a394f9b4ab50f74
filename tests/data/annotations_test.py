"""Batches tell which classes were annotated in the photograph of each crop."""

import numpy as np

from massformer_jax.data import pipeline
from massformer_jax.data.annotations import Annotations

SETTINGS = {"batch_size": 4, "seed": 0, "crop_size": 64, "short_edges": (96,), "max_long_edge": 512}


def test_batches_tell_what_was_annotated(data_dir):
    """The names of rendered photographs begin with their number; of seven the even ones."""
    annotations = Annotations(7, ((r"^0000[0246]", (1, 6)),))
    batches = iter(pipeline.train_dataset(data_dir, annotations=annotations, **SETTINGS))
    found = np.concatenate([next(batches)["annotated"] for _ in range(14)])
    assert found.shape == (56, 7) and found.dtype == bool
    missing = np.array([True, False, True, True, True, True, False])
    assert (found == missing).all(1).sum() == 4 * 8  # four of seven, in eight epochs
    assert (found.all(1) | (found == missing).all(1)).all()


def test_without_annotations_batches_are_as_before(data_dir):
    plain = next(iter(pipeline.train_dataset(data_dir, **SETTINGS)))
    told = next(iter(pipeline.train_dataset(data_dir, annotations=Annotations(7, ()), **SETTINGS)))
    assert plain.keys() == {"image", "label"}
    for key, value in plain.items():
        np.testing.assert_array_equal(told[key], value)


def test_an_expression_that_no_name_matches_is_logged_once_after_a_pass(data_dir, caplog):
    annotations = Annotations(7, ((r"^0000[0246]", (1,)), (r"^mass_13k", (2,))))
    batches = iter(pipeline.train_dataset(data_dir, annotations=annotations, **SETTINGS))
    for _ in range(6):
        next(batches)
    assert len(caplog.messages) == 1
    assert "'^mass_13k' is found in none of the 7 file names" in caplog.messages[0]
