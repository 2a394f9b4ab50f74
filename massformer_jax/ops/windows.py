"""Square windows of a map, as used by the attention of CST (paper, section 4.2)."""

from jaxtyping import Array, Shaped


def to_windows(x: Shaped[Array, "b h w c"], size: int) -> Shaped[Array, "b windows n c"]:
    """Cuts the map into windows of size x size positions, each flattened in row-major order.

    Raises:
        ValueError: a side is no multiple of `size`.
    """
    b, h, w, c = x.shape
    if h % size or w % size:
        raise ValueError(f"a map of {h}x{w} does not divide into windows of {size}x{size}")
    x = x.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, size * size, c)


def from_windows(
    x: Shaped[Array, "b windows n c"], height: int, width: int, size: int
) -> Shaped[Array, "b {height} {width} c"]:
    """Undoes `to_windows`."""
    b, _, _, c = x.shape
    x = x.reshape(b, height // size, width // size, size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)
