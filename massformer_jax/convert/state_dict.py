"""Finds the state dict in what `torch.save` wrote, and the released names of its tensors.

Libraries keep it under keys of their own and put prefixes before all names. Neither changes what
the tensors are, so both are undone here, and notes say so.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from massformer_jax.convert.torch_pickle import Opaque, Tensor

# Names of the parts of a released model or of a ResNet begin so: what comes before is a prefix.
_PARTS = re.compile(r"(backbone|decode_head|conv1|bn1|layer[1-4]|fc|head)\.")
# How names begin in torchvision's ResNet, which is the released encoder, and in mmpretrain's; in a
# MaSSFormer they have a prefix.
_ENCODER = re.compile(r"(conv1|bn1|layer[1-4]|fc)\.")
_CLASSIFIER = re.compile(r"head\.fc\.")
# torch's AveragedModel and mmengine's count beside the weights how many were averaged.
_COUNTS = ("n_averaged", "steps")
_USUAL = "state_dict"  # the key that mmengine, Lightning and most others use
_DEPTH = 2  # keys from the top of a file to a state dict, at most
_DICTIONARIES = 1000  # how many are looked at: a file may be nested without end
_SHOWN = 60  # characters of a key or prefix that are shown


class StateDict(NamedTuple):
    """A dictionary that holds tensors by name, and where it lies in a file.

    Attributes:
        key: the keys that lead to it, joined by dots; "" for the top of the file.
        entries: names and values; those that are no tensors, too.
        others: the keys of further dictionaries with tensors, which are not taken.
    """

    key: str
    entries: Mapping[Any, Any]
    others: tuple[str, ...]

    def notes(self) -> list[str]:
        """Returns lines that say what was taken, unless there is nothing to choose."""
        if self.key in ("", _USUAL) and not self.others:
            return []
        taken = f"takes the tensors under {_shown(self.key) or 'the top'!r}"
        return [taken + (f", not those under {_listed(self.others)}" if self.others else "")]


def is_tensor(name: Any, value: Any) -> bool:
    """Tells whether this is an entry of a state dict that holds a tensor."""
    return isinstance(name, str) and isinstance(value, Tensor)


def find_state_dict(tree: Any, key: str | None = None) -> StateDict | str:
    """Returns the state dict of a file, or a message that says why there is none to choose.

    It is the only dictionary that holds tensors, or the one under `state_dict`. The top of the file
    is taken if no dictionary below holds more: beside one there may be the state of a generator.

    Args:
        tree: what the file holds, as `TorchFile` reads it.
        key: which one to take, as messages name it.
    """
    found = _with_tensors(tree)
    if key is not None:
        if key in found:
            return StateDict(key, found[key], tuple(name for name in found if name != key))
        held = f"; tensors are under {_listed(found)}" if any(found) else ""
        return f"holds no tensors under {_shown(key)!r}{held}"
    if not found:
        return f"holds no state dict (tensors by name): {_described(tree)}"
    count = {name: sum(is_tensor(*item) for item in node.items()) for name, node in found.items()}
    if _USUAL in found:
        chosen = _USUAL
    elif count.get("", 0) >= max(count.values()):
        chosen = ""
    else:
        below = [name for name in found if name]
        if len(below) > 1:
            return f"holds tensors under {_listed(below)}; choose one: massformer convert --key KEY"
        chosen = below[0]
    return StateDict(
        chosen, found[chosen], tuple(name for name in found if name not in (chosen, ""))
    )


def released_names(
    names: Sequence[str], scalars: frozenset[str] | set[str]
) -> tuple[dict[str, str], list[str]]:
    """Returns the released name of each tensor by its own, and notes on what was changed.

    A prefix that all names have is left out, as are counts of averaged weights. The names of a
    ResNet get the prefix `backbone.` if they lack it.

    Args:
        names: the tensors' own names, each once.
        scalars: those of them that are single numbers.
    """
    short = {name: name for name in names}
    prefix, notes = "", []
    while True:
        counts = [
            name for name, end in short.items() if end in _COUNTS and name in scalars
        ]  # there may be a prefix within the one that they have
        if len(counts) < len(short):
            for name in counts:
                notes.append(f"{_shown(name)}, a count of averaged weights, is left out")
                del short[name]
        first = next(iter(short.values()))
        part = first[: first.find(".") + 1]
        if not part or _PARTS.match(part) or not all(x.startswith(part) for x in short.values()):
            break
        short = {name: end.removeprefix(part) for name, end in short.items()}
        prefix += part
    if prefix:
        notes.insert(0, f"all names begin with {_shown(prefix)!r}, which is left out")
    return {name: _released(end) for name, end in short.items()}, notes


def _released(name: str) -> str:
    name = _CLASSIFIER.sub("fc.", name, count=1) if _CLASSIFIER.match(name) else name
    return f"backbone.{name}" if _ENCODER.match(name) else name


def _with_tensors(tree: Any) -> dict[str, Mapping[Any, Any]]:
    """Returns the dictionaries that hold tensors by name, the outer ones first, by their keys."""
    found: dict[str, Mapping[Any, Any]] = {}
    level, seen = [("", tree)], set()
    for _ in range(_DEPTH + 1):
        below = []
        for key, node in level:
            if not isinstance(node, dict) or id(node) in seen or len(seen) >= _DICTIONARIES:
                continue
            seen.add(id(node))
            if any(is_tensor(name, value) for name, value in node.items()):
                found[key] = node
            below += [
                (f"{key}.{name}" if key else name, value)
                for name, value in node.items()
                if isinstance(name, str) and isinstance(value, dict)
            ]
        level = below
    return found


def _described(tree: Any) -> str:
    """Returns what a file without a state dict holds, and what to do."""
    if isinstance(tree, Opaque):
        name = _shown(tree.name)
        return f"it holds an object of {name}; load it where it was made and save its state_dict()"
    if isinstance(tree, Tensor):
        return "it holds a single tensor; pass a file of weights"
    if isinstance(tree, dict) and tree:
        keys = [key for key in tree if isinstance(key, str)]
        return f"its keys are {_listed(keys)}; pass a file of weights"
    return "pass a file of weights"


def _listed(keys: Sequence[str] | Mapping[str, Any]) -> str:
    shown = [repr(_shown(key) or "the top") for key in list(keys)[:8]]
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return ", ".join(shown) + more


def _shown(text: str) -> str:
    """Returns a text of a file as a line can show it."""
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return text if text.isprintable() else ascii(text)[1:-1]
