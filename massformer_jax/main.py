"""Trains or evaluates what a config file describes.

    python -m massformer_jax.main --config=FILE --workdir=DIR [--mode=train|eval] [--config.a.b=…]

    --config=FILE    a file as those in configs/; one that does not exist is looked for among the
                     files that come with the package: configs/massformer_r50.py works anywhere
    --config.a.b=…   changes a key of it; massformer_jax/training/config.py has all and their
                     defaults
    --workdir=DIR    folder of the run, or gs://BUCKET/FOLDER; the same command continues what it
                     holds
    --mode=MODE      train, or eval: evaluates the best weights of the workdir (default: train)
    --step=N         evaluates the state of this step; or goes back and continues from it, once: say
                     it again, and what came after is set aside again (default: the best, or the
                     newest)
    --compilation_cache=DIR    where compiled programs are kept: '' for nowhere (default:
                     JAX_COMPILATION_CACHE_DIR, or ~/.cache/massformer_jax)

On several hosts the same command runs once on each:

    --distributed    as the cluster says: Cloud TPU, Slurm, Kubernetes (default: one process)
    --distributed --coordinator=HOST:PORT --processes=N --process=I     anywhere; HOST runs I = 0

Exit status: 0 done; 2 something given is wrong; 3 another process was lost; 4 the loss is not
finite; 5 the disk is full, the last complete state is kept; 75 asked to stop by SIGTERM, the state
is saved; 130 interrupted; 1 a bug. After 3, 5, 75 and 130 the same command continues.
"""

import pathlib
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.files import Place, in_bucket, place

NONFINITE_STATUS = 4
FULL_STATUS = 5
PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later


class CommandLine(NamedTuple):
    """What a command line says."""

    config: ml_collections.ConfigDict
    workdir: Place
    mode: str
    step: int | None
    compilation_cache: str | None
    distributed: bool
    coordinator: str | None
    processes: int | None
    process: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(argv):
        print(__doc__)
        return 0
    return command.run(lambda: _run(parse(argv)))


def _run(line: CommandLine) -> int:
    from massformer_jax.compilation import keep_compiled, waits_said
    from massformer_jax.evaluation.progress import say_beside_bar
    from massformer_jax.models.full_disk import is_full, leave_it_to_the_command
    from massformer_jax.parallel import processes
    from massformer_jax.training.evaluation import evaluate_workdir
    from massformer_jax.training.loop import train_and_evaluate
    from massformer_jax.training.stopping import NonFiniteLoss, Preempted

    status, together = 0, True
    try:
        keep_compiled(line.compilation_cache)
        leave_it_to_the_command()
        if line.distributed:
            processes.initialize(
                line.coordinator, line.processes, line.process, until_saved=line.mode == "train"
            )
        run = evaluate_workdir if line.mode == "eval" else train_and_evaluate
        with waits_said(say_beside_bar):
            run(line.config, line.workdir, line.step)
    except Preempted as stopped:
        processes.say(str(stopped))
        status = PREEMPTED_STATUS
    except NonFiniteLoss as error:
        command.print_error(error)
        status = NONFINITE_STATUS
    except InputError as error:
        # Usually all processes find the same; but a file may be missing on one host.
        command.print_error(error)
        status, together = command.FAILED, False
    except Exception as error:
        if is_full(error):
            command.print_error(
                f"the disk of {line.workdir} is full; the last complete state is kept: make room, "
                "and the same command continues"
            )
            status, together = FULL_STATUS, False
        elif processes.several():
            traceback.print_exc()
            processes.end_after_failure()
        else:
            raise
    processes.end(status, together=together)
    return status


def parse(argv: Sequence[str]) -> CommandLine:
    """Reads a command line; raises InputError for what is unknown or missing."""
    argv = ["massformer", *shipped_config(argv)]
    # Flags of their own, so that one process can run several command lines.
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)
    flags.DEFINE_integer("step", None, "", lower_bound=0, flag_values=values)
    flags.DEFINE_string("compilation_cache", None, "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    flags.DEFINE_string("coordinator", None, "", flag_values=values)
    flags.DEFINE_integer("processes", None, "", flag_values=values)
    flags.DEFINE_integer("process", None, "", flag_values=values)
    try:
        values(argv)
        config = values.config
    except Exception as error:  # of the flags, or whatever the config file raises
        message = " ".join(str(error).split())
        if not isinstance(error, flags.Error | AttributeError | KeyError | TypeError | ValueError):
            message = f"--config: {type(error).__name__}: {message}"
        # Of an unknown key ml_collections says the last part, quoted, and perhaps a near one.
        words = re.findall(r"\w+", str(error.args[0]) if error.args else "")
        key, near = (
            (*words[:1], "$")[0],
            words[words.index("mean") + 1 :] if "mean" in words else [],
        )
        given = [arg.split("=")[0] for arg in argv if re.match(rf"--?config\.(.+\.)?{key}\b", arg)]
        if given:
            meant = f"; did you mean {near[0]}?" if near else ""
            message = f"{given[0]}: there is no such key{meant}"
        raise InputError(f"{message} (--help shows the flags, the config file the keys)") from error
    for name in ("config", "workdir"):
        if not values[name].value:
            raise InputError(f"--{name} is missing; see --help")
    workdir = place(values.workdir)
    if not isinstance(config, ml_collections.ConfigDict):  # stands for a file that cannot be read
        path = config_flags.get_config_filename(values["config"])
        raise InputError(f"--config: {path} does not exist; see configs/")
    for name in ("coordinator", "processes", "process"):
        if values[name].present and not values.distributed:
            raise InputError(f"--{name} says how processes connect; pass --distributed with it")
    return CommandLine(
        config,
        workdir if in_bucket(workdir) else workdir.absolute(),
        values.mode,
        values.step,
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

    argv = list(argv)
    for i, argument in enumerate(argv[:-1]):
        if argument in ("--config", "-config"):
            argv[i : i + 2] = [f"{argument}={argv[i + 1]}"]
            break

    def find(argument):
        match = re.fullmatch(r"(--?config=)(.+?)(:.*)?", argument)
        if not match or pathlib.Path(match[2]).exists():
            return argument
        shipped = (folder / pathlib.Path(match[2]).name for folder in folders)
        found = next((path for path in shipped if path.is_file()), match[2])
        return f"{match[1]}{found}{match[3] or ''}"

    return [find(argument) for argument in argv]


if __name__ == "__main__":
    sys.exit(main())
