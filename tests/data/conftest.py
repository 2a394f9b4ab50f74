"""A rendered release and the dataset built from it, shared by the tests of this folder."""

import pytest

from massformer_jax.data.build import build
from massformer_jax.data.sample import write_sample

# Odd numbers, so that neither batches nor hosts divide them.
COUNTS = {"train": 7, "val": 3, "test": 1}


@pytest.fixture(scope="session")
def release_dir(tmp_path_factory):
    output = tmp_path_factory.mktemp("sample") / "release"
    write_sample(output, COUNTS, seed=5)
    return output


@pytest.fixture(scope="session")
def data_dir(release_dir, tmp_path_factory):
    output = tmp_path_factory.mktemp("datasets")
    build(release_dir, output)
    return output
