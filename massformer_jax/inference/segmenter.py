"""A trained model that segments photographs: the interface from Python."""

import dataclasses
import os
import re
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from massformer_jax.data.colours import in_srgb
from massformer_jax.data.orientation import orientation, upright
from massformer_jax.data.photographs import read_photograph
from massformer_jax.errors import InputError
from massformer_jax.inference.protocol import Protocol
from massformer_jax.inference.views import label_function, score_function, show
from massformer_jax.models.build import model_graph
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.ops.precision import computation
from massformer_jax.parallel import sharding

# What devices say: accelerators the first, CPUs the second, as an internal error.
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)


class TooLargeError(InputError):
    """The error of a photograph for which the memory does not suffice."""


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
        self._protocol = _protocol(protocol)
        computation(dtype)
        self.classes = weights.classes
        self.palette = np.array(weights.palette, np.uint8)
        graph = model_graph(weights.architecture, training=False)
        there = jax.local_devices()
        if not 1 <= devices <= len(there):
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
        step: int | None = None,
        dtype: str = "float32",
        devices: int = 1,
        **protocol: Any,
    ) -> "Segmenter":
        """Loads the best weights of a workdir, or converted ones.

        Args:
            directory: a training run's workdir, or what `massformer_jax.convert` wrote.
            step: loads the weights after this step, and no others.
            dtype: that the network computes in: "float32", exact; "tf32", faster on accelerators;
                "bfloat16", faster still there, and half the memory (docs/performance.md).
            devices: over how many devices the rows of a photograph are split: 1, 2, 4 or 8.
            **protocol: how photographs are shown to the network, the arguments of
                `massformer_jax.inference.protocol.Protocol`; by default in one piece, as they are.

        Raises:
            InputError: no checkpoint there, or none of `step`; an unknown argument, protocol or
                dtype; too few devices.
        """
        _protocol(protocol)  # before the weights are read, which takes longer
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        weights = load_weights(directory, device, step=step)
        return cls(weights, dtype=dtype, devices=devices, **protocol)

    def predict(self, image: Any) -> UInt8[np.ndarray, "h w"]:
        """Returns the class of every pixel, in an array that may be written to.

        Args:
            image: a photograph: the path of a file, or a PIL image, both of which are turned
                upright and converted to sRGB as their metadata say; or an array, RGB in sRGB, uint8
                [h, w, 3].

        Raises:
            InputError: a damaged file, or something else, such as an array of another shape.
            TooLargeError: the memory does not suffice; windows need less.
            OSError: the path cannot be read.
        """
        return np.array(self._run(self._labels, image)[0])

    def scores(self, image: Any) -> Float[np.ndarray, "h w k"]:
        """Returns class scores of every pixel, float32, at least 0; not normalised over classes.

        Where there are several views (scales, mirror images), they are means of probabilities.
        Arguments and errors are those of `predict`. The array is read-only, because a copy of it
        would take hundreds of megabytes.
        """
        return self._run(self._scores, image)[0]

    def _run(self, function, image) -> np.ndarray:
        pixels = _pixels(image)
        try:
            shown = show(self._protocol, [pixels])
            return np.asarray(function(*self._weights, shown, pixels.shape[:2]))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                raise
            h, w = pixels.shape[:2]
            shown = f"windows of {self._protocol.window}" if self._protocol.window else "one piece"
            raise TooLargeError(
                f"{h} rows of {w} pixels in {shown} need more memory than there is; show smaller "
                "windows, for instance of 1024x1024"
            ) from error


def _protocol(settings: dict[str, Any]) -> Protocol:
    """Returns the protocol of these settings; raises InputError if one is unknown or wrong."""
    known = {field.name: type(field.default) for field in dataclasses.fields(Protocol)}
    examples = {str: "text", bool: "True or False", tuple: "several numbers: (1.0, 1.5)"}
    for name, value in settings.items():
        if name not in known:
            raise InputError(
                f"there is no argument {name!r}; use step, dtype, devices, {', '.join(known)}"
            )
        kind = known[name]
        numbers = isinstance(value, list | tuple) and all(isinstance(x, int | float) for x in value)
        if not (numbers if kind is tuple else isinstance(value, kind)):
            raise InputError(f"{name} is {value!r}; pass {examples[kind]}")
    if "scales" in settings:
        settings = {**settings, "scales": tuple(map(float, settings["scales"]))}
    return Protocol(**settings)


def _pixels(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of what `Segmenter.predict` takes for a photograph, RGB and upright."""
    if isinstance(image, str | os.PathLike):
        return read_photograph(image)
    if isinstance(image, Image.Image):
        return _pixels_of_pil(image)
    if not hasattr(image, "__array__"):
        raise InputError(
            f"a {type(image).__name__} is no photograph; pass a path, a PIL image, or RGB as uint8 "
            "[height, width, 3]"
        )
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(
            f"an image of shape {pixels.shape} and dtype {pixels.dtype}; "
            "pass RGB as uint8 [height, width, 3]"
        )
    return pixels


def _pixels_of_pil(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a PIL image, as `read_photograph` returns those of its file."""
    if image.mode in ("I", "F") or not image.width or not image.height:
        raise InputError(
            f"a PIL image of mode {image.mode} and size {image.width}x{image.height}; convert it "
            "to RGB"
        )
    turned, size = orientation(image), image.size
    try:
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            pixels = np.repeat(grey[..., None], 3, 2)
        else:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a PIL image that cannot be read: {error}") from error
    if image.size != size:
        # Pillow does this to uncompressed TIFF files that it maps into memory and has to turn.
        raise InputError(
            "a PIL image that Pillow mixed up when it loaded it; pass the path instead"
        )
    return upright(in_srgb(pixels, image, "a PIL image"), turned)
