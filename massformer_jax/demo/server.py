"""The server of the page: its addresses, and what is done there."""

import gzip
import http.server
import importlib.resources
import socket
import sys
import threading
from http import HTTPStatus
from typing import Any

from massformer_jax.data.images import encode_mask
from massformer_jax.data.photographs import READ, photograph_size, read_photograph
from massformer_jax.demo import downloads
from massformer_jax.demo.connection import Connection, Refused
from massformer_jax.demo.studio import FULL, NotYet, Studio
from massformer_jax.errors import InputError
from massformer_jax.output.pictures import cutout_png, grey_png

MOST_BYTES = 200_000_000  # of a file that is sent
MOST_PIXELS = 100_000_000  # of a photograph

_FILES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
}


class Server(http.server.ThreadingHTTPServer):
    """A server with a thread for each connection; the studio does one thing after the other.

    Attributes:
        studio: segments the photographs.
        model: what the page says of the network.
        host: the name that it was told to listen at.
    """

    # Threads that wait for the network do not keep the process from ending.
    daemon_threads = True

    def __init__(self, host: str, port: int, studio: Studio, model: str):
        """Begins to listen.

        Args:
            host: name or address of this machine.
            port: 0 for any that is free.
            studio: segments the photographs.
            model: what the page says of the network, for instance the folder of its weights.

        Raises:
            InputError: it cannot listen there.
        """
        self.studio, self.model, self.host = studio, model, host
        self.decoding = threading.Lock()  # one photograph at a time, since each takes memory
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise InputError(
                f"cannot listen at port {port} of {host}: {error.strerror or error}; pass another "
                "--port, 0 for any that is free"
            ) from error

    @property
    def address(self) -> str:
        """The address of the page, for a browser on this machine."""
        # These two stand for all addresses of the machine, which a browser cannot go to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of browsers that went away; shows any other error as usual."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(Connection):
    """The addresses of the page, and what is done there."""

    server: Server

    @property
    def host(self) -> str:
        """The name that the server was told to listen at."""
        return self.server.host

    def do_GET(self) -> None:
        """Answers with a file of the page, or with what is known of a photograph."""
        self.answer(self._get)

    def do_POST(self) -> None:
        """Takes a photograph."""
        self.answer(self._post)

    def do_DELETE(self) -> None:
        """Forgets a photograph."""
        self.answer(self._delete)

    def _get(self, path: list[str], query: dict[str, str]) -> None:
        studio = self.server.studio
        match path:
            case [""]:
                self._send_file("page.html")
            case [name] if name in _FILES:
                self._send_file(name)
            case ["model"]:
                self.send_json(self._model())
            case ["photographs", key]:
                self.send_json(studio.status(key))
            case ["photographs", key, "photograph.jpg"]:
                level, images = query.get("level", FULL), studio.photograph(key).images
                if level not in images:
                    raise Refused(HTTPStatus.NOT_FOUND, "There is no such level.")
                self.send(downloads.shown_jpeg(images[level]), "image/jpeg")
            case ["photographs", key, "labels"]:
                labels = studio.photograph(key).labels
                level = query.get("level", FULL)
                if level not in labels:
                    raise NotYet
                # Bytes, since what a browser makes of the colours of a PNG is its own affair.
                packed = gzip.compress(labels[level].tobytes(), 1)
                extra = {"Content-Encoding": "gzip", "X-Rows": str(len(labels[level]))}
                self.send(packed, "application/octet-stream", extra=extra)
            case ["photographs", key, "labels.png"]:
                photograph = studio.photograph(key)
                if FULL not in photograph.labels:
                    raise NotYet
                data = encode_mask(photograph.labels[FULL], studio.palette)
                self.send_download(data, downloads.file_name(photograph.name, "labels"))
            case ["photographs", key, "alpha.png" | "cutout.png" as kind]:
                self._send_soft(key, kind, self._members(query))
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, "There is nothing at this address.")

    def _post(self, path: list[str], query: dict[str, str]) -> None:
        if path != ["photographs"]:
            self.close_connection = True
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        name = _printable(query.get("name", "")) or "photograph"
        data = self.body(MOST_BYTES)
        with self.server.decoding:
            h, w = photograph_size(data, name)
            if h * w > MOST_PIXELS:
                raise InputError(
                    f"{name} has {h * w / 1e6:.0f} megapixels; the page takes up to "
                    f"{MOST_PIXELS / 1e6:.0f}, `massformer predict` any number"
                )
            image = read_photograph(data, name)
        key = self.server.studio.add(name, image)
        h, w = image.shape[:2]
        levels = list(reversed(self.server.studio.photograph(key).images))
        found = {"key": key, "name": name, "height": h, "width": w, "levels": levels}
        self.send_json(found, HTTPStatus.CREATED)

    def _delete(self, path: list[str], query: dict[str, str]) -> None:
        if path[:-1] != ["photographs"]:
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        self.server.studio.forget(path[-1])
        self.send_json({})

    def _model(self) -> dict[str, Any]:
        studio = self.server.studio
        return {
            "name": self.server.model,
            "classes": list(studio.classes),
            "palette": studio.palette.tolist(),
            "reads": READ,
            "most_bytes": MOST_BYTES,
            "most_pixels": MOST_PIXELS,
        }

    def _members(self, query: dict[str, str]) -> list[int]:
        """Returns the labels that a query asks for, sorted."""
        count = len(self.server.studio.classes)
        try:
            members = sorted({int(label) for label in query.get("classes", "").split(",")})
        except ValueError:
            members = []
        if not members or not 0 <= members[0] <= members[-1] < count:
            line = f"Name classes by their numbers, from 0 to {count - 1}."
            raise Refused(HTTPStatus.BAD_REQUEST, line)
        return members

    def _send_soft(self, key: str, kind: str, members: list[int]) -> None:
        """Sends the alpha or the cutout of some classes of a photograph."""
        studio = self.server.studio
        original = studio.photograph(key).name
        alpha = studio.alpha(key, members)
        if kind == "alpha.png":
            data = grey_png(alpha, bits=16)
        else:
            data = cutout_png(studio.foreground(key, alpha), alpha)
        what = kind.removesuffix(".png")
        names = [studio.classes[label] for label in members]
        self.send_download(data, downloads.file_name(original, what, names))

    def _send_file(self, name: str) -> None:
        files = importlib.resources.files("massformer_jax.demo")
        self.send(files.joinpath(name).read_bytes(), _FILES[name])


def _printable(name: str) -> str:
    """Returns the last part of a path as one line of at most 200 letters that can be printed."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[-200:]
