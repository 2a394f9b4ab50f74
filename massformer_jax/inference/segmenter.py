"""A trained model that segments photographs: the interface from Python."""

import os
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.views import label_function, score_function, show
from massformer_jax.models.build import model_graph
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.ops.precision import computation
from massformer_jax.parallel import sharding


class Segmenter:
    """A trained model that segments photographs of any size.

    Attributes:
        classes: names of the labels 0..K-1.
        palette: their colours, RGB, uint8 [K, 3].
    """

    def __init__(
        self,
        weights: Weights,
        *,
        dtype: str = "float32",
        devices: int = 1,
        **protocol: Any,
    ):
        """Places weights, which may lie anywhere, on the devices; other arguments: see `load`."""
        self._protocol = Protocol(**protocol)
        computation(dtype)
        self.classes = weights.classes
        self.palette = np.array(weights.palette, np.uint8)
        graph = model_graph(weights.architecture, training=False)
        there = jax.local_devices()
        if devices > len(there):
            raise InputError(f"devices is {devices}, and there are {len(there)}")
        mesh = sharding.make_mesh(there[:devices], {sharding.SPATIAL: devices})
        self._weights = jax.device_put(
            (weights.params, weights.batch_stats), sharding.replicated(mesh)
        )
        self._scores, self._labels = (
            function(graph, self._protocol, dtype=dtype, mesh=mesh)
            for function in (score_function, label_function)
        )

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        *,
        dtype: str = "float32",
        devices: int = 1,
        **protocol: Any,
    ) -> "Segmenter":
        """Loads the best weights of a workdir, or converted ones.

        Args:
            directory: a training run's workdir, or what `massformer_jax.convert` wrote.
            dtype: that the network computes in: "float32", exact; "tf32", faster on accelerators;
                "bfloat16", faster still there, and half the memory (docs/performance.md).
            devices: over how many devices the rows of a photograph are split: 1, 2, 4 or 8.
            **protocol: how photographs are shown to the network, the arguments of
                `massformer_jax.inference.protocol.Protocol`; by default in one piece, as they are.

        Raises:
            InputError: no checkpoint there, an unknown protocol or dtype, too few devices.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        weights = load_weights(directory, device)
        return cls(weights, dtype=dtype, devices=devices, **protocol)

    def predict(self, image: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """Returns the class of every pixel.

        Args:
            image: a photograph, RGB, uint8 [h, w, 3].

        Raises:
            InputError: an array of another shape or dtype.
        """
        return np.asarray(self._run(self._labels, image))[0]

    def scores(self, image: np.ndarray) -> Float[np.ndarray, "h w k"]:
        """Returns class scores of every pixel, float32, at least 0; not normalised over classes.

        Where there are several views (scales, mirror images), they are means of probabilities.
        Arguments and errors are those of `predict`.
        """
        return np.asarray(self._run(self._scores, image))[0]

    def _run(self, function, image):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"an image of shape {image.shape} and dtype {image.dtype}; "
                "pass RGB as uint8 [height, width, 3]"
            )
        shown = show(self._protocol, [image])
        return function(*self._weights, shown, image.shape[:2])
