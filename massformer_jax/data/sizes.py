"""The recipe's rule for the size of a resized photograph, which needs no image library."""


def resized_size(height: int, width: int, *, long_edge: int, short_edge: int) -> tuple[int, int]:
    """Returns the largest (height, width) of this aspect ratio within a long and a short edge.

    The recipe trains at a long edge of 8192 with one of 16 short edges, and the release evaluates
    at 4096 and 3072. Both do so even if this enlarges the photograph.

    Args:
        height: of the photograph, in pixels, as all that follows.
        width: of the photograph.
        long_edge: the largest length of the longer side.
        short_edge: the largest length of the shorter side.
    """
    factor = min(long_edge / max(height, width), short_edge / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
