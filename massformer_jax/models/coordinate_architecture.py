"""Which architectures of CoordFormer can be built: keys, and the limits of their values."""

from collections.abc import Mapping
from typing import Any

from massformer_jax.errors import InputError
from massformer_jax.models.coordformer import MAPS, SIDE, has_coarse_maps
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.resnet import BLOCKS

# The smallest and the largest value of CoordFormer's whole numbers, and of its encoder's.
_COORDINATE_LIMITS = {
    "decoder_width": (4, 4096),
    "heads": (1, 256),
    "head_width": (1, 4096),
    "classes": (1, 255),
    "side": (1, 16384),
}
_ENCODER_LIMITS = {
    "patch": (1, 64),
    "features": (4, 8192),
    "blocks": (4, 64),
    "heads": (1, 256),
    "hidden": (1, 2**16),
    "registers": (0, 64),
    "grid": (1, 256),
}
_COARSE_LIMITS = {
    "encoder_depth": (min(BLOCKS), max(BLOCKS)),
    "decoder_width": (8, 4096),
}
_COARSE_HEADS = 8  # of MaSSFormer's attention; they divide its decoder's width


def check_coordformer(architecture: Mapping[str, Any]) -> None:
    """Checks that CoordFormer(**architecture) can be built, see `build.check_architecture`."""
    encoder = architecture["encoder"]
    if not isinstance(encoder, Mapping):
        raise InputError(
            f"architecture.encoder is {str(encoder)[:40]!r}; it must have keys and values"
        )
    numbers = {key: value for key, value in architecture.items() if key != "encoder"}
    side = architecture.get("side", SIDE)
    _check_numbers("architecture", {**numbers, "side": side}, _COORDINATE_LIMITS)
    check = _check_coarse_maps if has_coarse_maps(encoder) else _check_vit
    divisors = (
        *check(encoder, side),
        ("decoder_width", architecture["decoder_width"], architecture["heads"]),
        ("decoder_width", architecture["decoder_width"], 4),
    )
    for key, value, divisor in divisors:
        if value % divisor:
            raise InputError(f"architecture.{key} is {value}; it must be a multiple of {divisor}")


def _check_vit(encoder: Mapping[str, Any], side: int) -> list[tuple[str, int, int]]:
    """Checks ViT(**encoder); returns keys, their values, and what has to divide these."""
    gated, grid = encoder.get("gated"), encoder.get("grid")
    if type(gated) is not bool or "grid" not in encoder:
        what = "grid is missing" if type(gated) is bool else "gated must be True or False"
        raise InputError(f"architecture.encoder.{what}")
    left_out = {"gated"} | ({"grid"} if grid is None else set())
    numbers = {key: value for key, value in encoder.items() if key not in left_out}
    limits = {key: limit for key, limit in _ENCODER_LIMITS.items() if key not in left_out}
    _check_numbers("architecture.encoder", {"registers": 4, **numbers}, limits)
    # Rotary positions turn quarters of a head's features.
    return [
        ("encoder.features", encoder["features"], encoder["heads"] * (4 if grid is None else 1)),
        ("side", side, encoder["patch"]),
    ]


def _check_coarse_maps(encoder: Mapping[str, Any], side: int) -> list[tuple[str, int, int]]:
    """Checks CoarseMaps(**encoder); returns the same as `_check_vit`."""
    numbers = {key: value for key, value in encoder.items() if key != "map"}
    _check_numbers("architecture.encoder", numbers, _COARSE_LIMITS)
    if encoder["encoder_depth"] not in BLOCKS:
        raise InputError(wrong_depth("encoder.encoder_depth", encoder["encoder_depth"]))
    if encoder.get("map") not in MAPS:
        found = str(encoder.get("map"))[:40]
        raise InputError(f"architecture.encoder.map is {found!r}; use {' or '.join(MAPS)}")
    return [
        ("encoder.decoder_width", encoder["decoder_width"], _COARSE_HEADS),
        ("side", side, STRIDE),
    ]


def wrong_depth(key: str, value: int) -> str:
    """Returns the message that there is no ResNet of this depth."""
    return f"architecture.{key} is {value}; it must be {' or '.join(map(str, sorted(BLOCKS)))}"


def _check_numbers(
    where: str, given: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]
) -> None:
    """Checks that these are whole numbers within their limits, and all of them."""
    unknown = sorted(str(key) for key in given if key not in limits)
    if unknown:
        raise InputError(f"there is no {where}.{unknown[0][:40]}; use {', '.join(limits)}")
    for key, (least, most) in limits.items():
        if key not in given:
            raise InputError(f"{where}.{key} is missing")
        value = given[key]
        if type(value) is not int or not least <= value <= most:
            raise InputError(
                f"{where}.{key} is {str(value)[:40]}; it must be a whole number, {least} to {most}"
            )
