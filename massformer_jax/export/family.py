"""The two families of networks, and what an export of one does otherwise than one of the other.

Each has a module with the same functions, of which the other modules here call no others:

    check(form)                             refuses what networks of this family cannot have
    parts(graph, architecture, form, whole) returns the functions that become programs, by name
    sizes(architecture)                     returns what callers have to know of sizes, by name
    facts(form, architecture, programs)     returns what `export.json` says of inputs and outputs
    said_of(form)                           returns what the answers are of, in words
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from massformer_jax.export import coordformer, massformer
from massformer_jax.models.build import is_coordformer


def family_of(architecture: Mapping[str, Any]) -> ModuleType:
    """Returns the module of the family that a network belongs to."""
    return coordformer if is_coordformer(architecture) else massformer
