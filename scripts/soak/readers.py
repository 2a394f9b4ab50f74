"""What reads each kind of file that the project reads, and what its answers to altered files are.

A reader makes sound files of its kind, and reads them after one of them was altered. Where a format
or a list has checksums, the only right answer is that of the sound file. Elsewhere a changed number
cannot be told from a written one, and the answer has to be one that the file can have.
"""

import contextlib
import io
import json
import pathlib
import traceback
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import safetensors.numpy
from PIL import Image

from massformer_jax import command
from massformer_jax.errors import InputError
from massformer_jax.tree import leaves_by_path
from scripts.soak.alterations import altered, mended_png
from tests.helpers import pickles, tiny_config

RIGHT, REFUSED = "right", "refused"


class Wrong(Exception):
    """A wrong answer to an altered file, which nothing gave away."""


class Reader:
    """A reader of one kind of file; subclasses make sound files and read them.

    Attributes:
        folder: where the files lie, which belongs to the reader alone.
        files: the bytes of the sound files by their paths in the folder.
    """

    folder: pathlib.Path
    files: dict[str, bytes]

    def __init__(self, folder: pathlib.Path):
        """Makes the sound files, and reads them once."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.files = self.sound()
        for name, data in self.files.items():
            self.write(name, data)
        for name in self.files:
            self.read(name)

    def sound(self) -> dict[str, bytes]:
        """Returns the sound files; those that are in the folder already, too."""
        raise NotImplementedError

    def read(self, name: str) -> None:
        """Reads a file, which may be altered.

        Raises:
            Wrong: the answer is wrong.
            InputError, OSError: the file is refused, with the line that a command prints.
        """
        raise NotImplementedError

    def alter(self, data: bytes, rng: np.random.Generator) -> tuple[bytes | None, str]:
        """Returns an altered file, None if it is deleted, and what was done."""
        return altered(data, rng)

    def write(self, name: str, data: bytes | None) -> None:
        """Puts bytes in the place of a file, or removes it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)

    def restore(self, name: str) -> None:
        """Puts the sound file back."""
        self.write(name, self.files[name])

    def try_one(self, rng: np.random.Generator) -> tuple[str, str]:
        """Alters one of the files and reads it.

        Returns:
            (RIGHT or REFUSED, what was done and said); or ("found", a problem).
        """
        name = list(self.files)[int(rng.integers(len(self.files)))]
        data, done = self.alter(self.files[name], rng)
        self.write(name, data)
        done = f"{name}: {done}"
        try:
            self.read(name)
        except Wrong as error:
            return "found", f"{error}; {done}"
        except (InputError, OSError) as error:
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                command.print_error(error)
            if said.getvalue().count("\n") != 1:
                return "found", f"a message that is no line: {str(error)[:300]!r}; {done}"
            return REFUSED, f"{error}; {done}"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
            text = " ".join(str(error).split())[:200]
            return "found", f"{type(error).__name__} at {place}: {text}; {done}"
        finally:
            self.restore(name)
        return RIGHT, done


def run_command(main: Callable[[Sequence[str]], int], *argv: object) -> str:
    """Runs a command in this process and returns what it printed.

    Raises:
        InputError: it printed one line that begins with `error: ` and has status 2.
        Wrong: it printed anything else and has another status than 0.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in argv])
    if status == 0:
        return out.getvalue()
    lines = err.getvalue().splitlines()
    if status == 2 and len(lines) == 1 and lines[0].startswith("error: "):
        raise InputError(lines[0].removeprefix("error: "))
    raise Wrong(f"status {status} and {err.getvalue()[:300]!r}")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns smooth colours, RGB, uint8."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


class Photographs(Reader):
    """Photographs: whole, reduced and in part; all of these accept or refuse the same files."""

    def sound(self) -> dict[str, bytes]:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {
            "upright.jpg": {"quality": 90},
            "progressive.jpg": {"progressive": True},
            "restarts.jpg": {"restart_marker_rows": 1},
            "turned.jpg": {"exif": exif.tobytes(), "subsampling": 0},
            "grey.jpg": {"mode": "L"},
            "photograph.png": {"format": "PNG"},
            "photograph.webp": {"format": "WEBP"},
            "photograph.tif": {"format": "TIFF"},
        }
        return {name: _encoded(picture(72, 96), **kind) for name, kind in options.items()}

    def read(self, name: str) -> None:
        from massformer_jax.data.images import (
            decode_image,
            decode_reduced,
            decode_window,
            image_size,
        )

        path = self.folder / name
        data = path.read_bytes()
        rows, columns = slice(8, 16), slice(4, 20)
        whole, *others = (
            _answer(decode)
            for decode in (
                lambda: decode_image(path),
                lambda: decode_reduced(path),
                lambda: decode_window(data, rows, columns),
                lambda: image_size(path),
            )
        )
        if isinstance(whole, Exception):
            # What lies above the damage may be read.
            if not isinstance(others[0], Exception):
                raise Wrong("the builder takes a photograph that readers refuse")
            raise whole
        for answer, reader in zip(others, ("the builder", "crops", "sizes"), strict=True):
            if isinstance(answer, Exception):
                raise Wrong(f"{reader} refuse(s) a photograph that is read: {answer}")
        reduced, part, size = others
        h, w = whole.shape[:2]
        if whole.dtype != np.uint8 or whole.shape != (h, w, 3) or (h, w) != size:
            raise Wrong(f"an image of {whole.shape} where the header says {size}")
        if reduced.shape[:2] != (-(-h // 8), -(-w // 8)):
            raise Wrong(f"reduced to {reduced.shape} from {whole.shape}")
        if not np.array_equal(part, whole[rows, columns]):
            raise Wrong("a part of the photograph has other pixels than the whole")


class LabelMaps(Reader):
    """Label maps: checksums of PNG tell each change, so labels are those of the sound file."""

    exact = True

    def sound(self) -> dict[str, bytes]:
        from massformer_jax.classes import PALETTE
        from massformer_jax.data.images import encode_mask

        labels = (
            np.random.default_rng(0).integers(0, 7, (9, 12), np.uint8).repeat(8, 0).repeat(8, 1)
        )
        self.labels = {"four_bits.png": labels, "palette.png": labels.copy(), "grey.png": labels}
        self.labels["palette.png"][:3] = 255
        four = Image.fromarray(labels)
        four.putpalette(PALETTE.tobytes())
        return {
            "palette.png": encode_mask(self.labels["palette.png"]),
            "grey.png": _encoded(labels, mode="L", format="PNG"),
            "four_bits.png": _encoded(four, mode="P", format="PNG", bits=4),
        }

    def read(self, name: str) -> None:
        from massformer_jax.data.images import decode_mask

        labels = decode_mask(self.folder / name, classes=7)
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise Wrong(f"labels of {labels.dtype} {labels.shape}")
        if self.exact and not np.array_equal(labels, self.labels[name]):
            raise Wrong("other labels than those of the sound file")


class MendedLabelMaps(LabelMaps):
    """Label maps with right checksums: what a program writes that does not know what it does."""

    exact = False

    def alter(self, data: bytes, rng: np.random.Generator) -> tuple[bytes | None, str]:
        data, done = altered(data, rng)
        return data if data is None else mended_png(data), done


class TorchFiles(Reader):
    """Files of `torch.save`; the zip archive has checksums, the older format none."""

    def sound(self) -> dict[str, bytes]:
        rng = np.random.default_rng(0)
        self.state = {
            f"backbone.layer1.0.conv{i}.weight": rng.random((4, 3, 3), np.float32) for i in range(4)
        } | {"decode_head.cls_embed.bias": np.arange(8, dtype=np.float16)}
        tree = {"meta": {"iter": 5, "CLASSES": ["a", "b"]}, "state_dict": self.state}
        one = pickles.dictionary({"w": pickles.tensor()})
        return {"zip.pth": pickles.saved(tree), "legacy.pth": pickles.legacy(one)}

    def read(self, name: str) -> None:
        from massformer_jax.convert.weights_file import read_weights

        path = self.folder / name
        found = read_weights(path)
        size = sum(tensor.nbytes for tensor in found.tensors.values())
        if size > 8 * path.stat().st_size:
            raise Wrong(f"tensors of {size} bytes from a file of {path.stat().st_size}")
        if name == "zip.pth" and not _equal(found.tensors, self.state):
            raise Wrong("other tensors than those of the sound file")
        for tensor in found.tensors.values():
            np.array(tensor)  # each number can be read


class SafeTensors(TorchFiles):
    """Files of safetensors, which have no checksums."""

    def sound(self) -> dict[str, bytes]:
        super().sound()
        meta = {"format": "pt", "massformer": json.dumps({"iter": 5, "classes": ["a", "b"]})}
        return {"weights.safetensors": safetensors.numpy.save(self.state, meta)}


class Configs(Reader):
    """The `config.json` of a workdir: another one than the run's is refused."""

    def sound(self) -> dict[str, bytes]:
        self.config = tiny_config.get_config()
        return {"config.json": (json.dumps(json.loads(self.config.to_json()), indent=1)).encode()}

    def read(self, name: str) -> None:
        from massformer_jax.training.config import CHANGEABLE
        from massformer_jax.training.workdir import claim

        claim(self.folder, self.config, write=False)
        path = self.folder / name
        if not path.exists():
            return  # a workdir without one belongs to nobody
        there, mine = (
            {key: value for key, value in _by_key(tree).items() if key not in CHANGEABLE}
            for tree in (json.loads(path.read_bytes()), json.loads(self.config.to_json()))
        )
        if there != mine:
            raise Wrong("the config of another run is taken for this one's")


class Evaluations(Reader):
    """The `metrics.json` of evaluations, which `compare` reads."""

    def sound(self) -> dict[str, bytes]:
        from massformer_jax.data.images import encode_mask
        from massformer_jax.evaluate_files import main

        for folder, seed in (("labels", 0), ("predictions", 1)):
            labels = np.random.default_rng(seed).integers(0, 7, (6, 8), np.uint8)
            for i in range(2):
                self.write(f"{folder}/{i}.png", encode_mask(np.roll(labels, i, 1).repeat(9, 0)))
        folders = ["--predictions", self.folder / "predictions", "--labels", self.folder / "labels"]
        for name in ("a.json", "b.json"):
            run_command(main, *folders, "--output", self.folder / name, "--compilation_cache", "")
        return {name: (self.folder / name).read_bytes() for name in ("a.json", "b.json")}

    def read(self, name: str) -> None:
        from massformer_jax.compare import main

        page = self.folder / "page.html"
        page.unlink(missing_ok=True)
        pair = [self.folder / "a.json", self.folder / "b.json"]
        try:
            run_command(main, *pair, "--output", page, "--compilation_cache", "")
        except InputError:
            if page.exists():
                raise Wrong("a page of evaluations that are refused") from None
            raise
        if not page.read_text().rstrip().endswith("</html>"):
            raise Wrong("a page without an end")


def _by_key(tree: dict) -> dict[str, object]:
    return leaves_by_path(tree, separator=".", is_leaf=lambda node: not isinstance(node, dict))


def _answer(read: Callable[[], object]) -> object:
    """Returns what a reader returns, or its refusal."""
    try:
        return read()
    except (InputError, OSError) as error:
        return error


def _equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array)
        for name, array in expected.items()
    )


def _encoded(
    pixels: np.ndarray | Image.Image, *, mode: str = "RGB", format: str = "JPEG", **options
) -> bytes:
    """Returns an image file."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(buffer, format, **options)
    return buffer.getvalue()
