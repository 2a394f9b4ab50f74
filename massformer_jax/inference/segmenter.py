"""A trained model that segments photographs: the interface from Python."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from massformer_jax.classes import labels_of_union
from massformer_jax.data.ahead import Stopwatch
from massformer_jax.data.coordinates import coordinates_in, grid_in
from massformer_jax.errors import InputError
from massformer_jax.inference import coordinates as at
from massformer_jax.inference import stream
from massformer_jax.inference.alpha import HALVED, coverage, soft_edges_of
from massformer_jax.inference.coordinate_network import Asker
from massformer_jax.inference.image_pixels import pixels_of
from massformer_jax.inference.network import pad_to_stride
from massformer_jax.inference.protocol import Protocol, network_size
from massformer_jax.inference.stream import Answer, Remedy, lack_of_memory
from massformer_jax.inference.views import label_function, score_function, show
from massformer_jax.models import picture_size
from massformer_jax.models.build import answers_at_coordinates, family_name, model_graph
from massformer_jax.models.massformer import STRIDE
from massformer_jax.models.weights import Weights, load_weights
from massformer_jax.ops.precision import computation
from massformer_jax.parallel import sharding


class Segmenter:
    """A trained model that segments photographs of any size.

    Attributes:
        classes: names of the labels 0..K-1.
        palette: their colours, RGB, uint8 [K, 3].
        pictures: (height, width) of the pictures that the weights are meant for; None if that is
            not known.
    """

    pictures: tuple[int, int] | None = None
    _asker: Asker | None = None

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
        self._family = family_name(weights.architecture)
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
        if answers_at_coordinates(graph):
            self._asker = Asker(graph, self._weights, dtype=dtype, mesh=mesh)

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
                A CoordFormer takes only `ask`, which pixels it is asked; by default every one.

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
        return self._answer(self._labels, pixels_of(image))

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
        Those of a CoordFormer are the probabilities themselves, and add up to 1.
        Arguments and errors are those of `predict`.
        """
        return self._answer(self._scores, pixels_of(image))

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
        pixels = pixels_of(image)
        scores = self.scores(pixels)
        with lack_of_memory(soft_edges_of(pixels), HALVED):
            return coverage(scores, pixels, members)

    def check_asked(self) -> None:
        """Checks that the network can be asked about coordinates.

        Raises:
            InputError: it is a MaSSFormer.
        """
        if self._asker is None:
            raise InputError(
                "the network is a MaSSFormer, which answers for whole photographs; ask, region and "
                "grown need the weights of a CoordFormer"
            )

    def ask(
        self, image: Any, coordinates: Any, *, scores: bool = False
    ) -> Shaped[np.ndarray, " p *_"]:
        """Returns the class at any coordinates of a photograph; of a CoordFormer.

        Of a photograph that was asked about right before, only the coordinates are computed.

        Args:
            image: a photograph, as `predict` takes it.
            coordinates: [p, 2], each (x, y): column and row of a pixel, from 0, as integers; or as
                floats a place between the centres of pixels, of which (0, 0) is the upper left.
            scores: whether to return the probability of every class, float32 [p, k], instead of
                labels, uint8 [p].

        Raises:
            InputError: coordinates outside of the photograph; the network is a MaSSFormer; and what
                `predict` raises.
            TooLargeError, OSError: as `predict`.
        """
        self.check_asked()
        pixels = pixels_of(image)
        places = coordinates_in(coordinates, pixels.shape[:2])
        if not len(places):
            return np.zeros((0, len(self.classes)) if scores else 0, _ASKED[scores][1])
        return self._ask(at.ask_at, pixels, places, count=len(places), finish=_ASKED[scores][0])

    def region(
        self, image: Any, box: Any, *, step: int | float = 1, scores: bool = False
    ) -> Shaped[np.ndarray, "i j *_"]:
        """Returns the class of every pixel of a rectangle of a photograph; of a CoordFormer.

        Args:
            image: a photograph, as `predict` takes it.
            box: (left, top, right, bottom), as PIL has it: the first column and row, and those
                after the last.
            step: from one column or row to the next: 8 for every 8th, 0.5 for twice as many.
            scores: as in `ask`.

        Raises:
            InputError, TooLargeError, OSError: as `ask`.
        """
        self.check_asked()
        pixels = pixels_of(image)
        rows, columns = grid_in(box, step, pixels.shape[:2])
        count, finish = len(rows) * len(columns), _ASKED[scores][0]
        return self._ask(at.ask_grid, pixels, rows, columns, count=count, finish=finish)

    def grown(self, image: Any, pixel: Any) -> Bool[np.ndarray, "h w"]:
        """Returns the pixels of one class that are connected with a pixel; of a CoordFormer.

        Only the squares of 64x64 pixels that they touch are asked.

        Args:
            image: a photograph, as `predict` takes it.
            pixel: (x, y), its column and row, from 0.

        Raises:
            InputError, TooLargeError, OSError: as `ask`.
        """
        self.check_asked()
        pixels = pixels_of(image)
        place = coordinates_in([pixel], pixels.shape[:2])
        if place.shape != (1, 2) or (place % 1).any():
            raise InputError(f"{pixel!r} is no pixel; pass its column and row, (x, y)")
        return self._ask(at.grown, pixels, *map(int, place[0]), count=1)

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
            pixels_of,
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
                as many pixels, or as few, when the network sees them. A CoordFormer sees all at one
                size.
        """
        if self.pictures is None or self._asker:
            return ""
        shown = (network_size(h, w, self._protocol.resolution) for h, w in sizes)
        return picture_size.remark(self.pictures, list(shown))

    def __repr__(self) -> str:
        return (
            f"<Segmenter: {self._family}, {self._parameters / 1e6:.1f} M parameters, "
            f"{len(self.classes)} classes ({', '.join(self.classes)}), {self._dtype}, "
            f"{self._protocol.in_words()}>"
        )

    def _answer(self, function, pixels: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        (answer,) = _end(self._begin(function, [pixels]))
        # What lies on the host already is not copied: scores of 64 megapixels are gigabytes.
        return answer if answer.flags.writeable else np.array(answer)

    def _ask(
        self, how, pixels: UInt8[np.ndarray, "h w 3"], *where, count: int, **settings
    ) -> np.ndarray:
        """Asks for so many coordinates, by one of the functions of `inference.coordinates`."""
        with lack_of_memory(self._what(pixels.shape[:2]), self._remedy):
            pixels = np.ascontiguousarray(pixels)  # at once, not again for each bucket
            bucket = self._asker.bucket(count)
            return how(self._asker.about(pixels), pixels, *where, **settings, bucket=bucket)

    def _padded_size(self, pixels: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int] | None:
        """Returns the size at which the network sees a photograph, if it sees it as it is."""
        if not self._protocol.as_it_is or self._asker:
            return None
        h, w = pixels.shape[:2]
        return h + -h % STRIDE, w + -w % STRIDE

    def _begin(self, function, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> "_Running":
        """Gives photographs of one padded size to the device, and does not wait for its answer."""
        sizes = [image.shape[:2] for image in images]
        what = self._what(sizes[0])
        with lack_of_memory(what, self._remedy):
            # Padded and cropped here, all photographs of one padded size have one program.
            size = self._padded_size(images[0])
            if size:
                shown = np.concatenate([pad_to_stride(image[None]) for image in images])
            else:
                shown, size = show(self._protocol, images), sizes[0]
            return _Running(function(*self._weights, shown, size), sizes, what, self._remedy)

    def _what(self, size: tuple[int, int]) -> str:
        """Returns what is computed, for an error message."""
        how = f"windows of {self._protocol.window}" if self._protocol.window else "one piece"
        return f"{size[0]} rows of {size[1]} pixels in {how}"

    @property
    def _remedy(self) -> Remedy:
        return _LESS_PRECISE if self._asker else _WINDOWS


_WINDOWS = Remedy("show smaller windows, for instance of 1024x1024", "--window")
_LESS_PRECISE = Remedy("compute in bfloat16", "--dtype")

# By whether scores are asked for: what is made of logits, and its dtype.
_ASKED = ((at.highest, np.uint8), (at.probabilities, np.float32))


class _Running(NamedTuple):
    """What the device computes: its answer, the sizes of the photographs, and what they are."""

    answer: jax.Array | np.ndarray
    sizes: Sequence[tuple[int, int]]
    what: str
    remedy: Remedy


def _end(running: _Running) -> list[np.ndarray]:
    """Waits for an answer, and returns that of each photograph, which may be read-only."""
    with lack_of_memory(running.what, running.remedy):
        answers = np.asarray(running.answer)
    return [answer[:h, :w] for answer, (h, w) in zip(answers, running.sizes, strict=True)]


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
