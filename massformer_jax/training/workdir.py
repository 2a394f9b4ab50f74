"""The folder of a run: which config it belongs to, and how far its evaluations came."""

import json
from typing import Any

import ml_collections

from massformer_jax.errors import InputError
from massformer_jax.files import Place, write_atomically
from massformer_jax.training.config import CHANGEABLE
from massformer_jax.tree import leaves_by_path

EVALUATED = "evaluated"


def claim(workdir: Place, config: ml_collections.ConfigDict, *, write: bool) -> None:
    """Checks `config.json`, if the folder has one; writes it, and makes the folder, if `write`.

    Raises:
        InputError: the folder belongs to a run with another config; names the first key.
    """
    path = workdir / "config.json"
    mine = _by_key(config.to_json())
    if path.exists():
        try:
            theirs = _by_key(path.read_text())
        except ValueError as error:
            raise InputError(
                f"{path} is damaged ({error}); remove it if the workdir is of this config, and the "
                "same command writes it again"
            ) from error
        values = {
            key: [repr(config[key]) if key in config else "missing" for config in (theirs, mine)]
            for key in sorted((mine.keys() | theirs.keys()) - set(CHANGEABLE))
        }
        differing = [
            f"{key} is {there} there and {here} here"
            for key, (there, here) in values.items()
            if there != here
        ]
        if differing:
            more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
            raise InputError(
                f"{workdir} belongs to a run with another config: {differing[0]}{more}; "
                "use another --workdir or that config"
            )
    if write:
        write_atomically(path, (json.dumps(json.loads(config.to_json()), indent=1) + "\n").encode())


def last_evaluation(workdir: Place) -> int:
    """Returns the last step whose evaluation came to its end, 0 if none did.

    Raises:
        InputError: the file that says so is damaged.
    """
    path = workdir / EVALUATED
    text = path.read_bytes().decode(errors="replace").strip() if path.exists() else "0"
    if not text.isdecimal():
        raise InputError(
            f"{path} holds {text[:20]!r} and no step; write the last evaluated step into it, or "
            "remove it to evaluate the newest state again"
        )
    return int(text)


def note_evaluation(workdir: Place, step: int) -> None:
    """Makes the step the `last_evaluation`."""
    write_atomically(workdir / EVALUATED, f"{step}\n".encode())


def _by_key(config: str) -> dict[str, Any]:
    """Returns the values of a config in JSON by their dotted keys."""
    tree = json.loads(config)
    if not isinstance(tree, dict):
        raise ValueError("it holds no keys")
    return leaves_by_path(tree, separator=".", is_leaf=lambda node: not isinstance(node, dict))
