"""Tests of how weights begin, and of architectures and weights that are refused."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from massformer_jax.errors import InputError
from massformer_jax.models.build import (
    ARCHITECTURES,
    _rngs,
    abstract_weights,
    architecture,
    check_architecture,
    model_graph,
)
from massformer_jax.models.finite import check_numbers


def test_keys_are_those_of_flax():
    """Therefore the weights that are drawn from a seed never change."""
    key = jax.random.key(3)
    keys, expected = _rngs(key), nnx.Rngs(params=key)
    for _ in range(3):
        assert (keys.params() == expected.params()).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_released_architectures_can_be_built(name):
    check_architecture(architecture(name), training=True)
    check_architecture({"encoder_depth": 18})


IMPOSSIBLE = {
    "encoder_depth": [34, 101, 0],
    "decoder_width": [12, 0, -8, 4104],
    "ffn_width": [0, -1, 2**16 + 1],
    "layers": [0, -3, 65],
    "queries": [0, 10_001],
    "classes": [0, -1, 256],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in IMPOSSIBLE.items() for value in values]
)
def test_an_impossible_architecture_gets_one_line(key, value):
    """This holds wherever a network is built from it."""
    wrong = architecture("massformer_r50") | {key: value}
    for build in (check_architecture, abstract_weights, partial(model_graph, training=False)):
        with pytest.raises(InputError) as error:
            build(wrong)
        message = str(error.value)
        assert message.startswith(f"architecture.{key} is {value}; it must be ")
        assert "\n" not in message


@pytest.mark.parametrize("value", [18.0, True, None, "18", [18]])
def test_an_argument_that_is_no_whole_number(value):
    with pytest.raises(InputError, match=r"architecture\.layers is .* must be a whole number"):
        check_architecture(architecture("massformer_r50") | {"layers": value})


def test_unknown_and_missing_arguments():
    with pytest.raises(InputError, match=r"there is no architecture\.width; use encoder_depth, "):
        check_architecture(architecture("massformer_r50") | {"width": 8})
    with pytest.raises(InputError, match=r"architecture\.layers is missing"):
        check_architecture(
            {k: v for k, v in architecture("massformer_r50").items() if k != "layers"}
        )
    with pytest.raises(InputError, match=r"architecture\.decoder_width is missing"):
        check_architecture({"encoder_depth": 18}, training=True)


def test_training_needs_a_query_for_each_class():
    few = architecture("massformer_r50") | {"queries": 6}
    check_architecture(few)
    with pytest.raises(InputError, match=r"queries is 6; it must be at least .* classes, 7"):
        check_architecture(few, training=True)


def test_weights_that_predict_nothing():
    params = {"a": np.ones(4), "b": {"scale": np.ones(2)}}
    check_numbers(params, {"b": {"mean": np.full(2, -1.0), "var": np.zeros(2)}})
    with pytest.raises(InputError, match=r"weights .*: 1 of 2 in b/var; they predict nothing"):
        check_numbers(params, {"b": {"var": np.array([1, -1e-9])}})
    with pytest.raises(InputError, match=r"weights .*: 2 of 3 in a;"):
        check_numbers({"a": np.array([np.nan, 1, np.inf])}, {})
