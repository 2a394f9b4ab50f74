"""Inputs of deformable convolutions, and their results by definition."""

import numpy as np

WIDENING = 3, 5  # features in and out


def by_definition(x, offsets, modulation, kernel):
    """Samples first and then multiplies, one output position at a time, in float64."""
    b, h, w, _ = x.shape
    k = kernel.shape[0]
    out = np.zeros((b, h, w, kernel.shape[-1]))

    def value(image, y, x_):
        inside = 0 <= y < h and 0 <= x_ < w
        return image[y, x_] if inside else np.zeros(image.shape[-1])

    for n, i, j, t in np.ndindex(b, h, w, k * k):
        dy, dx = offsets[n, 2 * t : 2 * t + 2, i, j]
        y = i + t // k - k // 2 + dy
        x_ = j + t % k - k // 2 + dx
        y0, x0 = int(np.floor(y)), int(np.floor(x_))
        sample = sum(
            (1 - abs(y - yy)) * (1 - abs(x_ - xx)) * value(x[n], yy, xx)
            for yy in (y0, y0 + 1)
            for xx in (x0, x0 + 1)
        )
        out[n, i, j] += modulation[n, t, i, j] * sample @ kernel[t // k, t % k]
    return out


def random_inputs(k, *, reach, features=WIDENING, size=(6, 7), batch=2, dtype=np.float64):
    """Returns inputs with offsets up to `reach` pixels in every direction, even past borders."""
    rng = np.random.default_rng(k)
    c, o = features
    x = rng.standard_normal((batch, *size, c))
    offsets = rng.uniform(-reach, reach, (batch, 2 * k * k, *size))
    modulation = rng.uniform(0, 1, (batch, k * k, *size))
    kernel = rng.standard_normal((k, k, c, o))
    return tuple(a.astype(dtype) for a in (x, offsets, modulation, kernel))
