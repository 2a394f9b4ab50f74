"""Learning rates of single layers, and an encoder that is frozen as a whole."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from massformer_jax.errors import InputError
from massformer_jax.training.optimizer import Group, parameter_groups, recipe_optimizer

PARAMS = {
    "backbone": {
        "conv1": {"kernel": jnp.ones((3, 2))},
        "layer1": {0: {"bn1": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}},
        "layer4": {0: {"conv1": {"kernel": jnp.ones((3, 2))}}},
    },
    "cls_embed": {"kernel": jnp.ones((2, 2))},
    "mask_embed": {0: {"kernel": jnp.ones((2, 2))}},
}
RULES = ((r"^cls_embed", 10.0), (r"^backbone/conv1/", 0.25), (r"^backbone/", 0.5))


def test_factors_multiply_what_the_recipe_says():
    groups = parameter_groups(PARAMS, multipliers=RULES)
    assert groups == {
        "backbone/conv1/kernel": Group(0.1 * 0.25, True),
        "backbone/layer1/0/bn1/bias": Group(0.0, False),
        "backbone/layer1/0/bn1/scale": Group(0.0, False),
        "backbone/layer4/0/conv1/kernel": Group(0.1 * 0.5, True),
        "cls_embed/kernel": Group(10.0, True),
        "mask_embed/0/kernel": Group(1.0, True),
    }


def test_a_factor_of_no_parameter_is_refused():
    rules = ((r"^class_embed/", 10.0), *RULES)
    with pytest.raises(InputError, match=r"'\^class_embed/', which is found in no param"):
        parameter_groups(PARAMS, multipliers=rules)


def test_a_frozen_encoder_stays_bit_for_bit():
    optimizer = recipe_optimizer(encoder_multiplier=0.0, multipliers=RULES, total_steps=10)
    gradients = {
        **PARAMS,
        "backbone": {**PARAMS["backbone"], "conv1": {"kernel": jnp.full((3, 2), jnp.nan)}},
    }
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    np.testing.assert_array_equal(after["backbone"]["conv1"]["kernel"], 1)
    np.testing.assert_array_equal(after["backbone"]["layer4"][0]["conv1"]["kernel"], 1)
    head, other = (after[name] for name in ("cls_embed", "mask_embed"))
    np.testing.assert_allclose(1 - head["kernel"], 10 * (1 - other[0]["kernel"]), rtol=1e-3)
