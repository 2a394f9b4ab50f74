"""Paths of the leaves of trees: how rules, names and messages refer to them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax


def leaves_by_path(
    tree: Any, *, separator: str = "/", is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, in the order of the tree.

    Args:
        tree: nested dictionaries, named tuples, lists and tuples.
        separator: what stands between the keys, fields and positions of a path.
        is_leaf: says of a node whether it is a leaf, see `jax.tree.leaves`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {
        jax.tree_util.keystr(path, simple=True, separator=separator): leaf for path, leaf in leaves
    }


def differing_keys(
    tree: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the keys of nested dictionaries whose values differ in others, and both values.

    The key b inside of a is a.b. A value that the others lack is "missing".
    """
    mine, theirs = (
        leaves_by_path(each, separator=".", is_leaf=lambda node: not isinstance(node, dict))
        for each in (tree, other)
    )
    for key, value in mine.items():
        if key not in theirs or theirs[key] != value:
            yield key, value, theirs.get(key, "missing")
