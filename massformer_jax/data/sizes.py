"""The recipe's rule for resized sizes: plain integers, so that it needs no image library."""


def resized_size(height: int, width: int, *, long_edge: int, short_edge: int) -> tuple[int, int]:
    """The largest (height, width) of this aspect ratio within a long and a short edge, in pixels.

    The recipe trains at (8192, one of 16 short edges), the release evaluates at (4096, 3072), both
    also when that enlarges the image.
    """
    factor = min(long_edge / max(height, width), short_edge / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)
