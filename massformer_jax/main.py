"""Trains or evaluates what a config file describes.

    python -m massformer_jax.main --config=FILE --workdir=DIR [--mode=train|eval] [--config.a.b=…]

A config path that does not exist is looked for among the files that come with the package:
`--config=configs/massformer_r50.py` works anywhere.

On several hosts the same command runs once on each:

    --distributed                  as the cluster says: Cloud TPU, Slurm, Kubernetes
    --distributed --coordinator=HOST:PORT --processes=N --process=I     anywhere; HOST runs I = 0

Compiled programs are kept for the next time in ~/.cache/massformer_jax, or in the directory that
--compilation_cache=DIR or the variable JAX_COMPILATION_CACHE_DIR names.

Exit status: 0 done; 2 something given is wrong; 3 another process was lost; 4 the loss is not
finite; 75 asked to stop by SIGTERM, the state is saved and the same command continues; 1 a bug.
"""

import pathlib
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from massformer_jax import checkpoint, distributed, sharding
from massformer_jax.compilation import keep_compiled, waits_said
from massformer_jax.errors import InputError
from massformer_jax.evaluate import report
from massformer_jax.progress import say_beside_bar
from massformer_jax.stopping import NonFiniteLoss, Preempted
from massformer_jax.train import evaluation, say, train_and_evaluate

NONFINITE_STATUS = 4
PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Command(NamedTuple):
    """What a command line says."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    mode: str
    compilation_cache: str | None
    distributed: bool
    coordinator: str | None
    processes: int | None
    process: int | None


def main(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit status."""
    if {"--help", "-h"} & set(argv):
        print(__doc__)
        return 0
    status, together = 0, True
    try:
        command = parse(argv)
        keep_compiled(command.compilation_cache)
        if command.distributed:
            distributed.initialize(
                command.coordinator,
                command.processes,
                command.process,
                until_saved=command.mode == "train",
            )
        run = evaluate_workdir if command.mode == "eval" else train_and_evaluate
        with waits_said(say_beside_bar):
            run(command.config, command.workdir)
    except Preempted as stopped:
        say(str(stopped))
        status = PREEMPTED_STATUS
    except (InputError, NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 2 if isinstance(error, InputError) else NONFINITE_STATUS
        # Usually all processes find the same; but a file may be missing on one host.
        together = isinstance(error, NonFiniteLoss)
    except Exception:
        if not distributed.several():
            raise
        traceback.print_exc()
        distributed.end_after_failure()
    distributed.end(status, together=together)
    return status


def parse(argv: Sequence[str]) -> Command:
    """Reads a command line; raises InputError for what is unknown or missing."""
    argv = shipped_config(argv)
    # Flags of their own, so that one process can run several command lines.
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)
    flags.DEFINE_string("compilation_cache", None, "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    flags.DEFINE_string("coordinator", None, "", flag_values=values)
    flags.DEFINE_integer("processes", None, "", flag_values=values)
    flags.DEFINE_integer("process", None, "", flag_values=values)
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
    for name in ("coordinator", "processes", "process"):
        if values[name].present and not values.distributed:
            raise InputError(f"--{name} says how processes connect; pass --distributed with it")
    return Command(
        config,
        pathlib.Path(values.workdir).absolute(),
        values.mode,
        values.compilation_cache,
        values.distributed,
        values.coordinator,
        values.processes,
        values.process,
    )


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
    evaluate_weights = evaluation(config)
    mesh = sharding.make_mesh(jax.devices())
    weights = checkpoint.load_weights(workdir, sharding.replicated(mesh))
    for key, value in config.model.items():
        if weights.model.get(key) != value:
            raise InputError(
                f"the checkpoint in {workdir} has model.{key}={weights.model.get(key)}, the config "
                f"{value}; use the config it was trained with"
            )
    summary = evaluate_weights(weights.params, weights.batch_stats, workdir / "eval")
    say(f"evaluation of step {weights.step}\n{report(summary, weights.classes)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
