"""For what size of picture weights are meant: what is written beside them, and what is compared.

A network knows things at the sizes, in pixels, at which training showed them. Photographs that are
much larger or smaller than those of the training are segmented, but worse.
"""

import math
from collections.abc import Sequence
from typing import Any

RELEASED_PICTURES = (3072, 4096)  # height and width of the photographs of MaSS13K
# Times as many pixels. The released recipe shows photographs at half to twice the length of their
# sides, which is this factor in both directions.
FACTOR = 4
_LARGEST = 10**6  # pixels of a side


def pictures_of(value: Any) -> tuple[int, int] | None:
    """Returns (height, width) from what a file says under `pictures`; None if it says neither."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    if not all(type(side) is int and 0 < side <= _LARGEST for side in value):
        return None
    return value[0], value[1]


def trained_pictures(short_edges: Sequence[int]) -> tuple[int, int]:
    """Returns the (height, width) that training shows most, of a photograph in landscape format.

    Args:
        short_edges: the lengths in pixels to which the short sides of photographs are resized. The
            answer is the middle of their range in factors: for the released recipe, of 1536 to 6144
            pixels, 3072. The long side is the one that photographs of MaSS13K have.
    """
    short = round(math.sqrt(min(short_edges) * max(short_edges)))
    return short, round(short * RELEASED_PICTURES[1] / RELEASED_PICTURES[0])


def remark(pictures: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> str:
    """Returns a line about photographs of other sizes than weights are meant for, "" for none.

    Args:
        pictures: (height, width) that the weights are meant for.
        sizes: (height, width) at which the network sees each photograph. Those that have `FACTOR`
            times as many pixels, or as few, are counted.
    """
    ratios = [math.prod(size) / math.prod(pictures) for size in sizes]
    kinds = {
        "larger": sum(ratio >= FACTOR for ratio in ratios),
        "smaller": sum(ratio <= 1 / FACTOR for ratio in ratios),
    }
    found = {kind: count for kind, count in kinds.items() if count}
    if not found:
        return ""
    height, width = pictures
    meant = (
        f"the pictures that the weights are meant for, {width}x{height}; classes may be wrong, and "
        f"--resolution {height}x{width} shows them at that size"
    )
    if len(sizes) == 1:
        (kind,), ((h, w),) = found, sizes
        return f"the network sees {w}x{h} pixels, far {kind} than {meant}"
    counts = " and ".join(f"{count} far {kind}" for kind, count in found.items())
    return f"of {len(sizes)} photographs the network sees {counts} than {meant}"
