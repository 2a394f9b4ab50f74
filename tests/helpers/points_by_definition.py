"""A loop that reads a map at points, written from the definition."""

import numpy as np


def by_definition(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Reads [h, w, c] bilinearly at [p, 2]: the centre of pixel (i, j) is at (i + ½, j + ½)."""
    height, width, _ = image.shape
    out = np.zeros((len(points), image.shape[2]))
    for n, (x, y) in enumerate(points.astype(np.float64)):
        for i in range(height):
            for j in range(width):
                near_y = max(0.0, 1 - abs(y * height - (i + 0.5)))
                near_x = max(0.0, 1 - abs(x * width - (j + 0.5)))
                out[n] += near_y * near_x * image[i, j]
    return out
