"""How photographs are shown to the network: in one piece or in windows, at one scale or several.

Networks that answer at coordinates see every photograph whole; of these it says what is asked.

Sources: `tta_pipeline` of the released configs/_base_/datasets/mass13k.py, and of mmsegmentation
1.x `EncoderDecoder.slide_inference` and `SegTTAModel`. docs/protocols.md says what each costs.
Nothing here needs JAX: `views` does what a protocol asks for.
"""

import dataclasses
import math
import re

import numpy as np
from jaxtyping import Float, Int

from massformer_jax.data.sizes import resized_size
from massformer_jax.errors import InputError

_LARGEST_SCALE = 16
RELEASE_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the released test-time augmentation
BLENDS = ("average", "smooth")
# Which pixels are asked; the settings of each way, with their kind, smallest and largest value.
WAYS_TO_ASK = {
    "every": {},
    "stride": {"stride": (int, 1, 4096)},
    "sefi": {"stride": (int, 1, 4096), "dilation": (int, 0, 4096), "threshold": (float, 0, 2)},
    "entropy": {"stride": (int, 1, 4096), "share": (float, 0, 1)},
}
RELEASE_LONG_EDGE, RELEASE_SHORT_EDGE = 4096, 3072


def network_size(height: int, width: int, resolution: str) -> tuple[int, int]:
    """Returns the size at which an image is shown to the network, before padding.

    Args:
        height: of the photograph, in pixels.
        width: of the photograph.
        resolution: "native" (as it is), "release" (ratio kept, long edge up to 4096 and short edge
            up to 3072, the released evaluation; also enlarges), or "HxW" (ratio kept, as large as
            fits into H rows and W columns).

    Raises:
        InputError: `resolution` is none of these.
    """
    if resolution == "native":
        return height, width
    if resolution == "release":
        return resized_size(
            height, width, long_edge=RELEASE_LONG_EDGE, short_edge=RELEASE_SHORT_EDGE
        )
    parts = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", resolution)
    if not parts:
        raise InputError(f"resolution is {resolution!r}; use native, release or HxW (3072x4096)")
    factor = min(int(parts[1]) / height, int(parts[2]) / width)
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def _parsed(ask: str) -> tuple[str, dict[str, int | float]]:
    """Returns what `Protocol.ask` says: a way to ask, and its settings."""
    first, *rest = ask.split(",")
    way, equals, _ = first.partition("=")
    if way not in WAYS_TO_ASK or bool(equals) != (way == "stride"):
        raise InputError(f"ask is {ask!r}; use every, sefi, entropy, or stride=8")
    settings = {}
    for text in [first, *rest] if equals else rest:
        name, _, value = text.partition("=")
        if name not in WAYS_TO_ASK[way]:
            known = ", ".join(WAYS_TO_ASK[way]) or "none"
            raise InputError(f"ask is {ask!r}: {way} has no setting {name!r}; it has {known}")
        kind, least, most = WAYS_TO_ASK[way][name]
        try:
            settings[name] = kind(value)
        except ValueError:
            settings[name] = math.nan
        if not least <= settings[name] <= most:
            what = "a whole number" if kind is int else "a number"
            raise InputError(
                f"ask is {ask!r}: {name} is {value!r}; it must be {what}, {least} to {most}"
            )
    stride = settings.get("stride", 1)
    if way == "entropy" and stride & (stride - 1):
        raise InputError(
            f"ask is {ask!r}: stride is {stride}, which entropy halves down to 1; use 4, 8, 16, …"
        )
    return way, settings


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How photographs are shown to the network; by default each in one piece, as it is.

    Attributes:
        resolution: size at which a photograph is shown, see `network_size`.
        window: "HxW" (or "N" for "NxN"): the photograph, at that size, is cut into windows of so
            many rows and columns, seen one at a time; "" for none. Where a side of the photograph
            is shorter, so is the window.
        stride: "HxW" or "N", from one window to the next; "" for two thirds of the window, as is
            usual in mmsegmentation. The last window of a row or column is moved back inside.
        blend: of scores where windows overlap: "average" (as released), or "smooth": weights that
            fade to the window's borders, see `windows_along`.
        scales: factors of that size; the release has `RELEASE_SCALES`.
        flip: whether each is also shown mirrored left and right.
        ask: which pixels a network that answers at coordinates is asked: "every"; "stride=8", every
            8th of every 8th row; "sefi", the rule of the paper, or "entropy", those that are least
            certain. Settings may follow: "sefi,stride=32,dilation=15,threshold=0.1",
            "entropy,stride=8,share=0.15"; `inference.ways_to_ask` has what they mean and their
            defaults.

    Several views (scales, mirror images) of a photograph are put together as the release does:
    the mean of softmax(scores). The scores of a single view are those of the network.

    Raises:
        InputError: a value is none of these, or a stride would leave gaps.
    """

    resolution: str = "native"
    window: str = ""
    stride: str = ""
    blend: str = "average"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    ask: str = "every"

    def __post_init__(self):
        _parsed(self.ask)
        network_size(1, 1, self.resolution)
        if self.blend not in BLENDS:
            raise InputError(f"blend is {self.blend!r}; use {' or '.join(BLENDS)}")
        if not self.window and (self.stride or self.blend != "average"):
            raise InputError("stride and blend are of windows; give window, too (HxW: 1024x1024)")
        if any(step > side for side, step in zip(*self.windows(), strict=True)):
            raise InputError(
                f"stride is {self.stride}, more than window, {self.window}: there would be gaps"
            )
        if not self.scales or any(not 0 < scale <= _LARGEST_SCALE for scale in self.scales):
            raise InputError(
                f"scales is {tuple(self.scales)}; use factors above 0 and up to "
                f"{_LARGEST_SCALE}: 0.5, 1, 1.5"
            )

    @property
    def as_it_is(self) -> bool:
        """Whether the network sees each photograph once, in one piece, and at its own size."""
        return self.seen_once and self.resolution == "native" and self.scales == (1.0,)

    def in_words(self) -> str:
        """Returns what differs from the default, as arguments; or that nothing does."""
        fields = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        other = (f"{field.name}={value!r}" for field, value in fields if value != field.default)
        return ", ".join(other) or "photographs as they are"

    @property
    def seen_once(self) -> bool:
        """Whether the network sees each photograph once, in one piece."""
        return not self.window and not self.several_views

    @property
    def several_views(self) -> bool:
        """Whether softmax(scores) of several views are averaged."""
        return len(self.scales) > 1 or self.flip

    def windows(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns rows and columns of the windows, and from one to the next.

        Both are (0, 0) without windows.
        """
        window = _sides(self.window, "window") if self.window else (0, 0)
        if self.stride:
            return window, _sides(self.stride, "stride")
        return window, tuple(-(-2 * side // 3) for side in window)

    @property
    def asking(self) -> tuple[str, dict[str, int | float]]:
        """The way in which coordinates are asked, one of `WAYS_TO_ASK`, and its settings."""
        return _parsed(self.ask)


DEFAULT_PROTOCOL = Protocol()


def check_protocol(protocol: Protocol, *, at_coordinates: bool) -> None:
    """Checks that a protocol asks only for what a network of a kind has.

    Args:
        protocol: how photographs are shown, or what is asked of them.
        at_coordinates: whether the network answers at coordinates (CoordFormer), or for all pixels.

    Raises:
        InputError: it asks for something else.
    """
    if not at_coordinates and protocol.ask != DEFAULT_PROTOCOL.ask:
        raise InputError(
            f"ask is {protocol.ask!r}, and the network is a MaSSFormer, which answers for all "
            "pixels at once; leave ask out, or use the weights of a CoordFormer"
        )
    for field in dataclasses.fields(protocol) if at_coordinates else ():
        value = getattr(protocol, field.name)
        if field.name != "ask" and value != field.default:
            raise InputError(
                f"{field.name} is {value!r}, and the network is a CoordFormer, which sees every "
                f"photograph whole and answers for its own pixels; leave {field.name} out"
            )


def _sides(text: str, name: str) -> tuple[int, int]:
    parts = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not parts:
        raise InputError(f"{name} is {text!r}; use rows x columns (1024x1024), or one for both")
    return int(parts[1]), int(parts[2] or parts[1])


def view_sizes(protocol: Protocol, height: int, width: int) -> list[tuple[int, int]]:
    """Returns the network size (rows, columns) of a photograph at each scale."""
    h, w = network_size(height, width, protocol.resolution)
    sizes = []
    for scale in protocol.scales:
        # Rounded twice, as the released resizing does: the edges, then what fits between them.
        edges = sorted(max(1, int(side * scale + 0.5)) for side in (h, w))
        i, j = resized_size(h, w, long_edge=edges[1], short_edge=edges[0])
        sizes.append((max(1, i), max(1, j)))
    return sizes


def windows_along(
    length: int, window: int, stride: int, blend: str
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n s"]]:
    """Returns the first positions of the windows along a side, and weights of their positions.

    The weights of the windows that hold a position sum up to 1. Before that they are equal
    ("average"), or sin²(π (i + ½) / s), a raised cosine ("smooth"): a window counts least at its
    borders, where the network sees least of what is around, and joins without a step. Windows are
    a grid, so the weight of a pixel is the product of those of its row and its column.

    Args:
        length: of the side, in pixels.
        window: s, likewise; the length of the side if that is shorter.
        stride: from one window to the next, at most `window`.
        blend: one of `BLENDS`.
    """
    window = min(window, length)
    count = -(-(length - window) // stride) + 1
    starts = np.minimum(np.arange(count) * stride, length - window)
    profile = np.ones(window)
    if blend == "smooth":
        profile = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += profile
    weights = [profile / total[start : start + window] for start in starts]
    return starts, np.stack(weights).astype(np.float32)
