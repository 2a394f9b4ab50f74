"""How weights begin."""

import jax
from flax import nnx

from massformer_jax.models.build import _rngs


def test_keys_are_those_of_flax():
    """So weights drawn from a seed are what they have always been."""
    key = jax.random.key(3)
    keys, expected = _rngs(key), nnx.Rngs(params=key)
    for _ in range(3):
        assert (keys.params() == expected.params()).all()
