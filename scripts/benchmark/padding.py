"""Measures which way of padding disturbs the answer least, for docs/padding.md.

    python -m scripts.benchmark.padding --checkpoint sample/run

Scenes whose sides are multiples of 256 are segmented whole. Then they are cut at the bottom and at
the right, padded back to the size that they had, in different ways, and segmented again. A way of
padding is the better, the closer the second answer is to the first on the part that was not cut.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import normalize
from massformer_jax.models.weights import load_weights
from massformer_jax.ops.rows import Rows

SIZE = (768, 1024)
CUTS = ((760, 1016), (700, 900), (600, 800), (520, 780))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--scenes", type=int, default=8)
    args = parser.parse_args()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = load_weights(args.checkpoint, device)
    graph = model_graph(weights.architecture, training=False)

    @jax.jit
    def scores(params, batch_stats, images):
        model = nnx.merge(graph, params, batch_stats, copy=True)
        rows = images.shape[1] // 2
        return model.scores(model.in_strips(images, rows), Rows(0, rows))[0]

    def segment(images):
        return np.asarray(scores(weights.params, weights.batch_stats, images))

    ways = {
        "zeros": {"mode": "constant"},
        "edge": {"mode": "edge"},
        "reflect": {"mode": "reflect"},
        "symmetric": {"mode": "symmetric"},
    }
    print(f"{'cut to':>12}  " + "".join(f"{way:>22}" for way in ways))
    print(f"{'':>12}  " + f"{'labels    scores':>22}" * len(ways))
    for h, w in CUTS:
        results = {way: [] for way in ways}
        for seed in range(args.scenes):
            rng = np.random.default_rng(seed)
            image, _ = render_scene(rng, *SIZE, water=seed % 2 == 0)
            whole = normalize(jnp.asarray(image))[None]
            expected = segment(whole)[:h, :w]
            for way, options in ways.items():
                # This is what inference does: it pads only up to the next multiples of 256.
                widths = ((0, 0), (0, -h % 256), (0, -w % 256), (0, 0))
                got = segment(jnp.pad(whole[:, :h, :w], widths, **options))[:h, :w]
                equal = (got.argmax(-1) == expected.argmax(-1)).mean()
                results[way].append((equal, np.abs(got - expected).mean()))
        cells = (np.mean(results[way], 0) for way in ways)
        print(f"{h:>6}x{w:<5}  " + "".join(f"{100 * a:>12.3f} %{b:>8.4f}" for a, b in cells))


if __name__ == "__main__":
    main()
