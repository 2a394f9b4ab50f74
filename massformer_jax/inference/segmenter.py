"""A trained model that segments photographs: the interface from Python."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from massformer_jax.classes import labels_of_union
from massformer_jax.data.ahead import Stopwatch
from massformer_jax.data.colours import in_srgb
from massformer_jax.data.orientation import orientation, upright
from massformer_jax.data.photographs import read_photograph
from massformer_jax.errors import InputError
from massformer_jax.inference import stream
from massformer_jax.inference.alpha import coverage
from massformer_jax.inference.network import pad_to_stride
from massformer_jax.inference.protocol import Protocol, network_size
from massformer_jax.inference.stream import Answer, TooLargeError
from massformer_jax.inference.views import label_function, score_function, show
from massformer_jax.models import picture_size
from massformer_jax.models.build import model_graph
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.ops.precision import computation
from massformer_jax.parallel import sharding

# What devices say: accelerators the first, CPUs the second, as an internal error.
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)


class Segmenter:
    """A trained model that segments photographs of any size.

    Attributes:
        classes: names of the labels 0..K-1.
        palette: their colours, RGB, uint8 [K, 3].
        pictures: (height, width) of the pictures that the weights are meant for; None if that is
            not known.
    """

    pictures: tuple[int, int] | None = None

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
        self._dtype = dtype
        self.classes = weights.classes
        self.palette = np.array(weights.palette, np.uint8)
        self.pictures = weights.pictures
        graph = model_graph(weights.architecture, training=False)
        there = jax.local_devices()
        if not 1 <= devices <= len(there):
            raise InputError(f"devices is {devices}, and there are {len(there)}")
        mesh = sharding.make_mesh(there[:devices], {sharding.SPATIAL: devices})
        self._weights = jax.device_put(
            (weights.params, weights.batch_stats), sharding.replicated(mesh)
        )
        self._parameters = sum(x.size for x in jax.tree.leaves(weights.params))
        # On CPUs photographs that go together only take more memory.
        self._accelerated = devices == 1 and there[0].platform != "cpu"
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
            directory: a training run's workdir, or what `massformer_jax.convert` wrote; or the name
                of such weights on the Hub of Hugging Face, "hf://OWNER/NAME" (docs/weights.md).
            step: loads the weights after this step, and no others.
            dtype: that the network computes in: "float32", exact; "tf32", faster on accelerators;
                "bfloat16", faster still there, and half the memory (docs/performance.md).
            devices: over how many devices the rows of a photograph are split: 1, 2, 4 or 8.
            **protocol: how photographs are shown to the network, the arguments of
                `massformer_jax.inference.protocol.Protocol`; by default in one piece, as they are.

        Raises:
            InputError: no checkpoint there, or none of `step`, or it cannot be downloaded; an
                unknown argument, protocol or dtype; too few devices.
        """
        _protocol(protocol)  # before the weights are read, which takes longer
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        weights = load_weights(directory, device, step=step)
        return cls(weights, dtype=dtype, devices=devices, **protocol)

    def predict(self, image: Any) -> UInt8[np.ndarray, "h w"]:
        """Returns the class of every pixel.

        Args:
            image: a photograph: the path of a file, or a PIL image, both of which are turned
                upright and converted to sRGB as their metadata say; or an array, RGB in sRGB, uint8
                [h, w, 3].

        Raises:
            InputError: a damaged file, or something else, such as an array of another shape.
            TooLargeError: the memory does not suffice; windows need less.
            OSError: the path cannot be read.
        """
        return self._answer(self._labels, _pixels(image))

    def predict_many(self, images: Iterable[Any]) -> Iterator[UInt8[np.ndarray, "h w"]]:
        """Yields what `predict` returns of each photograph, and reads the next ones meanwhile.

        Raises:
            InputError, TooLargeError, OSError: as `predict`, in the place of the photograph's
                answer; `answers` goes on.
        """
        for answer in self.answers(images):
            if answer.error:
                raise answer.error
            yield np.array(answer.answer)

    def scores(self, image: Any) -> Float[np.ndarray, "h w k"]:
        """Returns class scores of every pixel, float32, at least 0; not normalised over classes.

        Where there are several views (scales, mirror images), they are means of probabilities.
        Arguments and errors are those of `predict`.
        """
        return self._answer(self._scores, _pixels(image))

    def alpha(self, image: Any, classes: Any) -> Float[np.ndarray, "h w"]:
        """Returns the share of every pixel that some classes cover together, float32 in 0..1.

        Args:
            image: a photograph, as `predict` takes it.
            classes: a name or a label, several names with plus signs between them, such as
                "person+tree", or a sequence of names and labels.

        Raises:
            InputError: there is no such class; and what `predict` raises.
            TooLargeError, OSError: as `predict`.
        """
        members = labels_of_union(classes, self.classes)
        pixels = _pixels(image)
        return coverage(self.scores(pixels), pixels, members)

    def answers(
        self,
        images: Iterable[Any],
        *,
        scores: bool = False,
        stopwatch: Stopwatch | None = None,
    ) -> Iterator[Answer]:
        """Yields the labels, or the scores, of each photograph, in their order.

        What is wrong with a photograph is in its answer, and does not stop the others.

        Args:
            images: photographs, each as `predict` takes them.
            scores: whether the answers are scores, as `scores` returns them, or labels.
            stopwatch: notes how long this waited for "reading" and for the "network".
        """
        function = self._scores if scores else self._labels
        return stream.answers(
            images,
            _pixels,
            functools.partial(self._begin, function),
            _end,
            self._padded_size,
            together=self._accelerated,
            stopwatch=stopwatch or Stopwatch(),
        )

    def size_remark(self, sizes: Sequence[tuple[int, int]]) -> str:
        """Returns a line about photographs of other sizes than the weights are meant for, or "".

        Args:
            sizes: (height, width) of each photograph. Other sizes have `picture_size.FACTOR` times
                as many pixels, or as few, when the network sees them.
        """
        if self.pictures is None:
            return ""
        shown = (network_size(h, w, self._protocol.resolution) for h, w in sizes)
        return picture_size.remark(self.pictures, list(shown))

    def __repr__(self) -> str:
        return (
            f"<Segmenter: {self._parameters / 1e6:.1f} M parameters, {len(self.classes)} classes "
            f"({', '.join(self.classes)}), {self._dtype}, {self._protocol.in_words()}>"
        )

    def _answer(self, function, pixels: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        return np.array(_end(self._begin(function, [pixels]))[0])

    def _padded_size(self, pixels: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int] | None:
        """Returns the size at which the network sees a photograph, if it sees it as it is."""
        if not self._protocol.as_it_is:
            return None
        h, w = pixels.shape[:2]
        return h + -h % STRIDE, w + -w % STRIDE

    def _begin(self, function, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> "_Running":
        """Gives photographs of one padded size to the device, and does not wait for its answer."""
        sizes = [image.shape[:2] for image in images]
        what = f"{sizes[0][0]} rows of {sizes[0][1]} pixels in " + (
            f"windows of {self._protocol.window}" if self._protocol.window else "one piece"
        )
        with _lack_of_memory(what):
            # Padded and cropped here, all photographs of one padded size have one program.
            size = self._padded_size(images[0])
            if size:
                shown = np.concatenate([pad_to_stride(image[None]) for image in images])
            else:
                shown, size = show(self._protocol, images), sizes[0]
            return _Running(function(*self._weights, shown, size), sizes, what)


class _Running(NamedTuple):
    """What the device computes: its answer, the sizes of the photographs, and what they are."""

    answer: jax.Array
    sizes: Sequence[tuple[int, int]]
    what: str


def _end(running: _Running) -> list[np.ndarray]:
    """Waits for an answer, and returns that of each photograph, which may be read-only."""
    with _lack_of_memory(running.what):
        answers = np.asarray(running.answer)
    return [answer[:h, :w] for answer, (h, w) in zip(answers, running.sizes, strict=True)]


@contextlib.contextmanager
def _lack_of_memory(what: str) -> Iterator[None]:
    """Raises TooLargeError if the memory does not suffice for the body."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise TooLargeError(
            f"{what} need more memory than there is; show smaller windows, for instance of "
            "1024x1024"
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
