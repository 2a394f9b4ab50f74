"""Strict settings of JAX for every test.

There are eight fake CPU devices, promotion is never silent, matrix products are exact, and the
shapes written in public signatures are checked at run time."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
# Command lines keep compiled programs in the home directory; those of tests keep none.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

install_import_hook("massformer_jax", "beartype.beartype")

# Only now: what is imported before the hook stays unchecked.
from massformer_jax.data.package import build  # noqa: E402
from massformer_jax.data.sample.release import write_sample  # noqa: E402

# The files that take longest, in this order: two processes share the files, and would not end
# together if one of these came last.
LONGEST = (
    "training/step_test.py",
    "training/train_parity_test.py",
    "export/onnx_test.py",
    "export/page_test.py",
    "predict_test.py",
    "predict_folders_test.py",
    "ops/deform_conv_test.py",
    "training/bucket_test.py",
    "training/own_classes_test.py",
    "parallel/processes_test.py",
    "finetune_page_test.py",
    "scripts/benchmark_rehearsal_test.py",
    "training/mesh_test.py",
    "training/full_disk_test.py",
    "training/remat_test.py",
    "models/inference_parity_test.py",
    "inference/strips_test.py",
    "inference/views_test.py",
    "export/export_test.py",
    "training/coordinate_run_test.py",
)


def pytest_addoption(parser):
    parser.addoption(
        "--one-of-each", action="store_true", help="run each test with its first parameters only"
    )


@pytest.hookimpl(trylast=True)  # of the parameters that are left, the first
def pytest_collection_modifyitems(config, items):
    """Puts the files that take longest first; leaves out what `--one-of-each` leaves out."""
    place = {pathlib.Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if config.getoption("--one-of-each"):
        first = {(item.parent.nodeid, item.originalname): item for item in reversed(items)}
        chosen = set(first.values())
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]


# Odd numbers, so that neither batches nor hosts divide them.
SAMPLE_COUNTS = {"train": 7, "val": 3, "test": 1}


@pytest.fixture(scope="session")
def release_dir(tmp_path_factory):
    """Returns a folder with a rendered release: images/ and annotations/."""
    output = tmp_path_factory.mktemp("sample") / "release"
    write_sample(output, SAMPLE_COUNTS, seed=5)
    return output


@pytest.fixture(scope="session")
def data_dir(release_dir, tmp_path_factory):
    """Returns the folder of the dataset that is built from the rendered release."""
    output = tmp_path_factory.mktemp("datasets")
    build(release_dir, output)
    return output
