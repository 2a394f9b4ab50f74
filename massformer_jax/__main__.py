"""The front door to all commands: `massformer COMMAND …`.

`python -m massformer_jax COMMAND …` does the same.
"""

import importlib
import sys
from collections.abc import Sequence

import massformer_jax
from massformer_jax import command
from massformer_jax.errors import InputError

# For each command: its module, the arguments that its name stands for, and what it does.
COMMANDS = {
    "train": ("massformer_jax.main", ["--mode=train"], "trains what a config file describes"),
    "evaluate": ("massformer_jax.main", ["--mode=eval"], "evaluates the best weights of a run"),
    "predict": ("massformer_jax.predict", [], "segments photographs of any size"),
    "pseudo": ("massformer_jax.output.pseudo", [], "writes labels that a model is sure of"),
    "demo": ("massformer_jax.demo.__main__", [], "serves a page to try a trained model on"),
    "convert": ("massformer_jax.convert.__main__", [], "converts weights of PyTorch, and back"),
    "export": ("massformer_jax.export.__main__", [], "writes a network that jax alone runs"),
    "build": ("massformer_jax.data.build", [], "packages MaSS13K, or your own folder"),
    "stats": ("massformer_jax.data.stats.__main__", [], "tells what a dataset holds"),
    "score": ("massformer_jax.evaluate_files", [], "scores label maps of any method"),
    "compare": ("massformer_jax.compare", [], "compares two evaluations of the same images"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, and returns its exit status."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "--version":
        print(f"massformer {massformer_jax.__version__}")
        return 0
    if name in ("--help", "-h"):
        print(_help())
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        command.print_error(InputError(f"there is no command {name!r}; use one of {known}"))
        return command.FAILED
    module, implied, _ = COMMANDS[name]
    # `command.parser` reads this, so that `--help` shows the name the command was called by.
    sys.argv[0] = f"massformer {name}"
    return importlib.import_module(module).main([*implied, *rest])


def _help() -> str:
    usage = "usage: massformer COMMAND …, massformer COMMAND --help, massformer --version"
    commands = (f"    {name:10}{what}" for name, (_, _, what) in COMMANDS.items())
    return "\n".join([usage, "", *commands])


if __name__ == "__main__":
    sys.exit(main())
