"""Paths of the leaves of trees: how rules, names and messages refer to them."""

from collections.abc import Callable
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
