"""Tests that one name runs all commands, with a quick `--help` that imports little."""

import functools
import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

import massformer_jax
from massformer_jax.__main__ import COMMANDS
from massformer_jax.inference.segmenter import Segmenter

HEAVY = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "cv2"}
CPU_SECONDS = 1.0

# What `python -m` starts, and words of the help that tell defaults. All flags of `build` that take
# a value have to be given.
HELP = {
    "train": ("massformer_jax.main", ["default: train", "default: one process"]),
    "evaluate": ("massformer_jax.main", ["default: train", "default: one process"]),
    "predict": (
        "massformer_jax.predict",
        ["default: native", "default: float32", "default: average", "default: 1)"],
    ),
    "pseudo": (
        "massformer_jax.output.pseudo",
        ["default: 0.9", "default: all, with their own", "default: float32", "default: native"],
    ),
    "demo": (
        "massformer_jax.demo",
        ["default: 8000", "default: 127.0.0.1", "default: native", "default: float32"],
    ),
    "convert": ("massformer_jax.convert", ["default: what the file's tensors tell"]),
    "export": (
        "massformer_jax.export",
        ["default: 1024x1024", "default: labels", "default: cpu,cuda,tpu", "default: float32"],
    ),
    "build": ("massformer_jax.data.build", []),
    "stats": ("massformer_jax.data.stats", ["default: all splits"]),
    "score": (
        "massformer_jax.evaluate_files",
        ["default: 7", "default: 0.001", "default: 0.0075, 0.001 and 1"],
    ),
    "compare": ("massformer_jax.compare", ["default: those of the files"]),
}

# Runs a command line of the front door, and prints on standard error which modules it left behind
# and the CPU seconds it took, Python's own start included.
MEASURED = """
import json, sys, time
from massformer_jax.__main__ import main
try:
    status = main()
except SystemExit as stopped:
    status = stopped.code or 0
packages = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"packages": packages, "seconds": time.process_time()}), file=sys.stderr)
sys.exit(status)
"""


def python(*arguments: str) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own, with lines of a fixed width."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


@functools.cache
def helped(name: str) -> tuple[str, dict]:
    """Returns what `massformer NAME --help` prints, and what MEASURED measured."""
    done = python("-c", MEASURED, name, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr)


def test_all_commands_are_tested():
    assert HELP.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", HELP)
def test_help_is_quick_and_imports_little(name):
    _, measured = helped(name)
    assert not HEAVY & set(measured["packages"])
    assert measured["seconds"] < CPU_SECONDS


@pytest.mark.parametrize("name", HELP)
def test_help_shows_defaults(name):
    text = " ".join(helped(name)[0].split())
    for words in HELP[name][1]:
        assert words in text


@pytest.mark.parametrize("name", HELP)
def test_help_of_the_module_is_the_same(name):
    """Only the name of the program differs, and so the places where lines are broken."""
    module, _ = HELP[name]
    done = python("-m", module, "--help")
    assert done.returncode == 0, done.stderr
    usage = f"usage: massformer {name} "
    expected = " ".join(helped(name)[0].split()).replace(usage, f"usage: python -m {module} ")
    assert " ".join(done.stdout.split()) == expected


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_all_commands_are_listed(arguments):
    done = python("-m", "massformer_jax", *arguments)
    assert done.returncode == 0 and not done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")]
    assert listed == list(COMMANDS)


def test_version():
    done = python("-m", "massformer_jax", "--version")
    assert (done.returncode, done.stdout) == (0, f"massformer {massformer_jax.__version__}\n")


def test_the_console_script_is_the_front_door():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="massformer")
    assert script.value == "massformer_jax.__main__:main"


@pytest.mark.parametrize("name", ["trian", "--verbose", ""])
def test_an_unknown_command_is_one_line(name):
    done = python("-m", "massformer_jax", name, "--help")
    known = ", ".join(COMMANDS)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == f"error: there is no command {name!r}; use one of {known}\n"


def test_a_command_gets_its_arguments_and_gives_its_status(tmp_path):
    """Each command reads files that do not exist, prints one line, and ends with status 2."""
    nothing = str(tmp_path / "nothing")
    for arguments in (
        ["compare", nothing, nothing, "--output", nothing],
        ["score", "--predictions", nothing, "--labels", nothing],
        ["evaluate", f"--config={nothing}.py", f"--workdir={nothing}"],
    ):
        done = python("-m", "massformer_jax", *arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert nothing in done.stderr


def test_the_segmenter_has_three_names():
    from massformer_jax import Segmenter as short
    from massformer_jax.predict import Segmenter as older

    assert short is older is Segmenter


def test_predicting_imports_no_optimizer_and_no_training_data():
    """Flax itself imports optax, so the class brings optax along; the module does not."""
    code = (
        "import sys, massformer_jax.predict\n"
        "before = set(sys.modules)\n"
        "massformer_jax.Segmenter\n"
        "for modules in (before, set(sys.modules)):\n"
        "    print(*sorted(modules & {'optax', 'flax', 'grain', 'tensorflow_datasets'}))\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "flax optax"]


def test_flax_is_what_imports_optax():
    """If this fails, the test above can ask for more."""
    done = python("-c", "import sys, flax.nnx; print('optax' in sys.modules)")
    assert done.stdout == "True\n", done.stderr
