"""AdamW as the recipes set it up: parameter groups, gradient clipping and the learning rate.

Sources: `optim_wrapper` and `param_scheduler` of the released configuration, as mmengine reads
them; Curti et al., "CoordFormer" (arXiv 2609.08660); Loshchilov and Hutter, "Decoupled Weight Decay
Regularization" (ICLR 2019), as torch computes it.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from massformer_jax.errors import InputError
from massformer_jax.models.build import marked_paths


class Group(NamedTuple):
    """A group of parameters that are trained alike.

    Attributes:
        learning_rate: factor of the scheduled learning rate; 0 for frozen parameters.
        decays: whether weight decay applies.
    """

    learning_rate: float
    decays: bool

    @property
    def frozen(self) -> bool:
        """Tells whether these parameters never change."""
        return self.learning_rate == 0


class ClipState(NamedTuple):
    """The norm of the last step's gradient, before it was clipped."""

    norm: Float[Array, ""]


def parameter_groups(
    params: PyTree[Any],
    *,
    encoder_multiplier: float = 0.1,
    multipliers: Sequence[tuple[str, float]] = (),
) -> dict[str, Group]:
    """Returns the group of every parameter by its path, in the order of the tree's leaves.

    Args:
        params: nested dictionaries of arrays, or of anything else in that structure.
        encoder_multiplier: learning rate of the encoder, relative to the rest; 0 freezes it.
        multipliers: (regular expression, factor): the learning rate of the parameters in whose path
            it is found is multiplied by the factor; of several that are found the first counts.

    Raises:
        InputError: a regular expression is found in no path.
    """
    # First match wins. Paths of norms end in "norm.scale" and "norm.bias": see `marked_paths`.
    rules = (
        # Paper: CoordFormer's does not say what of a ViT is exempt from weight decay. As is usual,
        # what only scales or is added is.
        (r"^backbone/(norm|layer/\d+/norm\d)/", Group(encoder_multiplier, False)),
        (
            r"^backbone/.*(layer_scale\d|cls_token|register_tokens|position_embeddings)$",
            Group(encoder_multiplier, False),
        ),
        # Of the part of a MaSSFormer that is an encoder here, as elsewhere in it.
        (r"^backbone/pixel_decoder/.*\bnorm\.", Group(encoder_multiplier, False)),
        # Affine parameters of a ResNet's BatchNorms are frozen; their statistics are not.
        (r"^backbone/.*\bnorm\.", Group(0.0, False)),
        (r"^backbone/", Group(encoder_multiplier, True)),
        (r"\bnorm\.|query_embed|query_feat|level_embed", Group(1.0, False)),
        # Biases of convolutions and linear layers do decay.
        (r"", Group(1.0, True)),
    )
    groups = {
        path: next(group for pattern, group in rules if re.search(pattern, marked))
        for path, marked in marked_paths(params).items()
    }
    for pattern, _ in multipliers:
        if not any(re.search(pattern, path) for path in groups):
            raise InputError(
                f"optimizer.multipliers has {pattern!r}, which is found in no parameter's path; "
                "shardings.txt of a workdir lists all paths"
            )
    for path, group in groups.items():
        factor = next((x for pattern, x in multipliers if re.search(pattern, path)), 1)
        groups[path] = group._replace(learning_rate=group.learning_rate * factor)
    return groups


def _linear_decay(peak: float, steps: int) -> optax.Schedule:
    return optax.linear_schedule(peak, 0.0, steps)


SCHEDULES = {"cosine": optax.cosine_decay_schedule, "linear": _linear_decay}


def learning_rate(
    peak: float, total_steps: int, *, warmup_steps: int = 0, schedule: str = "cosine"
) -> optax.Schedule:
    """Returns the learning rate of each step, counted from 0.

    It rises to `peak` in equal parts over the first steps, and falls to zero at `total_steps`.

    Args:
        peak: the largest learning rate.
        total_steps: number of steps, more than `warmup_steps`.
        warmup_steps: in how many steps it rises; the first of them has one part of `peak`.
        schedule: along which line it falls, one of `SCHEDULES`.
    """
    fall = SCHEDULES[schedule](peak, total_steps - warmup_steps)
    if not warmup_steps:
        return fall
    rise = optax.linear_schedule(peak / warmup_steps, peak * (1 + 1 / warmup_steps), warmup_steps)
    return optax.join_schedules((rise, fall), (warmup_steps,))


def recipe_optimizer(
    *,
    peak_learning_rate: float = 3e-4,
    total_steps: int = 80_000,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    weight_decay: float = 0.05,
    encoder_multiplier: float = 0.1,
    multipliers: Sequence[tuple[str, float]] = (),
    clip_norm: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns the recipe's optimizer, for nested dictionaries of parameters with the model's paths.

    A step takes the gradients of the frozen parameters out, clips by the norm of what is left, and
    moves p by -lr · multiplier · (adam + weight_decay · p). Frozen parameters stay bit for bit.
    With a `clip_norm` of 0 nothing is clipped.
    """
    rate = learning_rate(
        peak_learning_rate, total_steps, warmup_steps=warmup_steps, schedule=schedule
    )

    def groups(tree):
        found = parameter_groups(
            tree, encoder_multiplier=encoder_multiplier, multipliers=multipliers
        )
        return jax.tree.unflatten(jax.tree.structure(tree), found.values())

    chain = optax.chain(
        _freeze_and_clip(clip_norm, groups),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(
            weight_decay, mask=lambda tree: _map_groups(lambda _, g: g.decays, tree, groups(tree))
        ),
        optax.stateless(
            lambda updates, _: _map_groups(
                lambda update, g: update * g.learning_rate, updates, groups(updates)
            )
        ),
        optax.scale_by_learning_rate(rate),
    )

    def update(gradients, state, params=None):
        # optax raises floats to its integer counter, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(gradients, state, params)

    return optax.GradientTransformation(chain.init, update)


def gradient_norm(state: optax.OptState) -> Float[Array, ""]:
    """Returns the norm of the last gradient of the trained parameters, before it was clipped."""
    return state[0].norm


def _map_groups(f, tree, groups):
    # A group is itself a tuple, so a plain tree map over both would look for leaves inside it.
    return jax.tree.map(lambda g, leaf: f(leaf, g), groups, tree, is_leaf=_is_group)


def _is_group(node: Any) -> bool:
    return isinstance(node, Group)


def _freeze_and_clip(clip_norm: float, groups) -> optax.GradientTransformation:
    """Zeroes frozen gradients, then scales by min(1, clip_norm / (norm + 1e-6)) as torch does.

    With a `clip_norm` of 0 they are not scaled.
    """

    def init(params):
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(params)]
        return ClipState(jnp.zeros((), jnp.result_type(*dtypes)))

    def update(updates, state, params=None):
        del state, params
        updates = _map_groups(
            lambda update, g: jnp.zeros_like(update) if g.frozen else update,
            updates,
            groups(updates),
        )
        norm = optax.tree.norm(updates)
        if not clip_norm:
            return updates, ClipState(norm)
        factor = jnp.minimum(1.0, clip_norm / (norm + 1e-6))
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), ClipState(norm)

    return optax.GradientTransformation(init, update)
