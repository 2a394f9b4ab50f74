"""Trains or evaluates what a config file describes.

    python -m massformer_jax.main --config=FILE --workdir=DIR [--mode=train|eval] [--config.a.b=…]

A config path that does not exist is looked for among the files that come with the package:
`--config=configs/massformer_r50.py` works anywhere.
"""

import pathlib
import re
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from massformer_jax import checkpoint, sharding
from massformer_jax.errors import InputError
from massformer_jax.evaluate import report
from massformer_jax.train import evaluation, train_and_evaluate


def main(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit status."""
    if {"--help", "-h"} & set(argv):
        print(__doc__)
        return 0
    try:
        config, workdir, mode = parse(argv)
        if mode == "eval":
            evaluate_workdir(config, workdir)
        else:
            train_and_evaluate(config, workdir)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, pathlib.Path, str]:
    """Returns (config, workdir, mode); raises InputError for what is unknown or missing."""
    argv = shipped_config(argv)
    # Flags of their own, so that one process can run several command lines.
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)
    try:
        values(argv)
        config = values.config
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        # Of an unknown key ml_collections says the last part, quoted, and nothing else.
        key = re.escape(message.strip("'\""))
        given = [arg.split("=")[0] for arg in argv if re.match(rf"--?config\.(.+\.)?{key}\b", arg)]
        if given:
            message = f"{given[0]}: there is no such key"
        raise InputError(f"{message} (--help shows the flags, the config file the keys)") from error
    for name in ("config", "workdir"):
        if not values[name].value:
            raise InputError(f"--{name} is missing; see --help")
    if not isinstance(config, ml_collections.ConfigDict):  # stands for a file that cannot be read
        path = config_flags.get_config_filename(values["config"])
        raise InputError(f"--config: {path} does not exist; see configs/")
    return config, pathlib.Path(values.workdir).absolute(), values.mode


def shipped_config(argv: Sequence[str]) -> list[str]:
    """Replaces the path of a config that does not exist by the one that came with the package."""
    package = pathlib.Path(__file__).parent
    # In the wheel they lie inside the package, in a checkout installed with -e beside it.
    folders = (package / "configs", package.parent / "configs")

    def find(argument):
        match = re.fullmatch(r"(--?config=)(.+?)(:.*)?", argument)
        if not match or pathlib.Path(match[2]).exists():
            return argument
        shipped = (folder / pathlib.Path(match[2]).name for folder in folders)
        found = next((path for path in shipped if path.is_file()), match[2])
        return f"{match[1]}{found}{match[3] or ''}"

    return [find(argument) for argument in argv]


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Evaluates the best weights of a workdir, or the last where none are."""
    mesh = sharding.make_mesh(jax.local_devices(), config.mesh)
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
