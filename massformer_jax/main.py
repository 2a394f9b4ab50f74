"""Trains or evaluates what a config file describes.

    python -m massformer_jax.main --config=FILE --workdir=DIR [--mode=train|eval] [--config.a.b=…]

A config path that does not exist is looked for among the files that come with the package:
`--config=configs/massformer_r50.py` works anywhere.
"""

import pathlib
import re
import sys
from collections.abc import Sequence
from importlib import resources

import jax
from absl import flags
from ml_collections import config_flags

from massformer_jax import checkpoint, sharding
from massformer_jax.data.pipeline import PipelineError
from massformer_jax.errors import InputError
from massformer_jax.evaluate import report
from massformer_jax.train import evaluation, train_and_evaluate

config_flags.DEFINE_config_file("config", None, "Python file with get_config().")
flags.DEFINE_string("workdir", None, "Folder for checkpoints, scalars and results.")
flags.DEFINE_enum("mode", "train", ["train", "eval"], "train (and evaluate), or only evaluate.")


def main(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit status."""
    if {"--help", "-h"} & set(argv):
        print(__doc__)
        return 0
    try:
        values = parse(argv)
        workdir = pathlib.Path(values["workdir"].value).absolute()
        if values["mode"].value == "eval":
            evaluate_workdir(values["config"].value, workdir)
        else:
            train_and_evaluate(values["config"].value, workdir)
    except (InputError, PipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses flags; raises InputError with one line for what is unknown or missing."""
    known = flags.FLAGS
    try:
        known(shipped_config(argv))
    except FileNotFoundError as error:
        raise InputError(f"--config: {error.filename} does not exist") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{message} (see configs/ for the keys, --help for the flags)") from error
    for name in ("config", "workdir"):
        if known[name].value is None:
            raise InputError(f"--{name} is missing; see --help")
    return known


def shipped_config(argv: Sequence[str]) -> list[str]:
    """Replaces the path of a config that does not exist by the one inside the package."""

    def find(argument):
        match = re.fullmatch(r"(--?config=)(.+?)(:.*)?", argument)
        if not match or pathlib.Path(match[2]).exists():
            return argument
        inside = resources.files("massformer_jax") / "configs" / pathlib.Path(match[2]).name
        return f"{match[1]}{inside}{match[3] or ''}" if inside.is_file() else argument

    return [find(argument) for argument in argv]


def evaluate_workdir(config, workdir: pathlib.Path) -> None:
    """Evaluates the best weights of a workdir, or the last where none are."""
    mesh = sharding.make_mesh(jax.local_devices())
    evaluate_weights = evaluation(config, mesh)
    weights = checkpoint.load_weights(workdir, sharding.replicated(mesh))
    for key, value in config.model.items():
        if weights.model.get(key) != value:
            raise InputError(
                f"the checkpoint in {workdir} has model.{key}={weights.model.get(key)}, the config "
                f"{value}; use the config it was trained with"
            )
    summary = evaluate_weights(weights.params, weights.batch_stats, workdir / "eval")
    print(f"evaluation of step {weights.step}\n{report(summary, weights.classes)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
