"""The server of the page: what it answers, and whom it refuses."""

import gzip
import http.server
import importlib.resources
import ipaddress
import json
import socket
import sys
import threading
import traceback
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from massformer_jax.data.images import encode_mask
from massformer_jax.data.photographs import READ, photograph_size, read_photograph
from massformer_jax.demo import downloads
from massformer_jax.demo.studio import FULL, Forgotten, NotYet, Studio
from massformer_jax.errors import InputError
from massformer_jax.output.pictures import cutout_png, grey_png

MOST_BYTES = 200_000_000  # of a file that is sent
MOST_PIXELS = 100_000_000  # of a photograph
_PIECE = 1 << 20  # bytes that are read at once

_FILES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
}
# A browser that is told this policy fetches nothing from anywhere else, and no other page may show
# this one inside of itself.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_JSON = "application/json"


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


class _Refused(Exception):
    """The error of a request that is answered by a status and one line."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    """The answers to the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "massformer", ""
    timeout = 60  # seconds without a byte until a connection is closed
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: the terminal is for errors."""

    def do_GET(self) -> None:
        """Answers with a file of the page, or with what is known of a photograph."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Takes a photograph."""
        self._answer(self._post)

    def do_DELETE(self) -> None:
        """Forgets a photograph."""
        self._answer(self._delete)

    def _answer(self, work: Callable[[list[str], dict[str, str]], None]) -> None:
        """Calls a function with the parts of the path and the query, or says what is wrong."""
        try:
            address = self._split(self.path)
            query = dict(urllib.parse.parse_qsl(address.query))
            self._check_sender()
            work(urllib.parse.unquote(address.path).split("/")[1:], query)
        except _Refused as error:
            self._send_json({"error": str(error)}, error.status)
        except Forgotten:
            line = "This photograph is no longer kept; drop it again."
            self._send_json({"error": line}, HTTPStatus.GONE)
        except NotYet:
            line = "Wait until all pixels of the photograph have been segmented."
            self._send_json({"error": line}, HTTPStatus.CONFLICT)
        except InputError as error:
            self._send_json({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except MemoryError:
            line = "There is not the memory for it."
            self._send_json({"error": line}, HTTPStatus.INSUFFICIENT_STORAGE)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            raise
        except Exception:
            traceback.print_exc()
            line = "The program failed; its terminal shows where."
            self._send_json({"error": line}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _check_sender(self) -> None:
        """Refuses what other pages make a browser send.

        A page may give its own name the address of this machine, and then read what this server
        answers. The name stays in `Host`, so only addresses are accepted there, and names of this
        machine. What a page sends without reading carries its `Origin`.
        """
        host = self.headers.get("Host", "")
        name = self._split(f"//{host}").hostname or ""
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if not (name in ("localhost", self.server.host.lower()) or _is_address(name)):
            line = f"This machine is not known as {name!r} here; use its address."
        elif origin not in (None, f"http://{host}") or site not in ("none", "same-origin"):
            line = "Other pages may not use this one."
        else:
            return
        self.close_connection = True
        raise _Refused(HTTPStatus.FORBIDDEN, line)

    def _split(self, address: str) -> urllib.parse.SplitResult:
        """Returns the parts of an address that the request carries; raises _Refused if it is none.

        A body that may follow is not read, so the connection ends.
        """
        try:
            return urllib.parse.urlsplit(address)
        except ValueError as error:
            self.close_connection = True
            line = f"{address!r} is no address."
            raise _Refused(HTTPStatus.BAD_REQUEST, line) from error

    def _get(self, path: list[str], query: dict[str, str]) -> None:
        studio = self.server.studio
        match path:
            case [""]:
                self._send_file("page.html")
            case [name] if name in _FILES:
                self._send_file(name)
            case ["model"]:
                self._send_json(self._model())
            case ["photographs", key]:
                self._send_json(studio.status(key))
            case ["photographs", key, "photograph.jpg"]:
                level, images = query.get("level", FULL), studio.photograph(key).images
                if level not in images:
                    raise _Refused(HTTPStatus.NOT_FOUND, "There is no such level.")
                self._send(downloads.shown_jpeg(images[level]), "image/jpeg")
            case ["photographs", key, "labels"]:
                labels = studio.photograph(key).labels
                level = query.get("level", FULL)
                if level not in labels:
                    raise NotYet
                # Bytes, since what a browser makes of the colours of a PNG is its own affair.
                packed = gzip.compress(labels[level].tobytes(), 1)
                extra = {"Content-Encoding": "gzip", "X-Rows": str(len(labels[level]))}
                self._send(packed, "application/octet-stream", extra=extra)
            case ["photographs", key, "labels.png"]:
                photograph = studio.photograph(key)
                if FULL not in photograph.labels:
                    raise NotYet
                data = encode_mask(photograph.labels[FULL], studio.palette)
                self._send_download(data, downloads.file_name(photograph.name, "labels"))
            case ["photographs", key, "alpha.png" | "cutout.png" as kind]:
                self._send_soft(key, kind, self._members(query))
            case _:
                raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing at this address.")

    def _post(self, path: list[str], query: dict[str, str]) -> None:
        if path != ["photographs"]:
            self.close_connection = True
            raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        name = _printable(query.get("name", "")) or "photograph"
        data = self._body()
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
        self._send_json(found, HTTPStatus.CREATED)

    def _delete(self, path: list[str], query: dict[str, str]) -> None:
        if path[:-1] != ["photographs"]:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        self.server.studio.forget(path[-1])
        self._send_json({})

    def _body(self) -> bytes:
        """Returns the file that the request carries.

        Raises:
            _Refused: it is empty, too large, of unknown length, or did not arrive completely.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "The request does not tell its length.")
        left, pieces = int(length), []
        large = left > MOST_BYTES
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            if not piece:
                self.close_connection = True
                raise _Refused(HTTPStatus.BAD_REQUEST, "The file did not arrive completely.")
            left -= len(piece)
            # What is too large is read and dropped: many clients read no answer before they have
            # sent everything.
            if not large:
                pieces.append(piece)
        if large:
            line = f"The file has more than {MOST_BYTES / 1e6:.0f} MB; the page takes no more."
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)
        if not pieces:
            raise _Refused(HTTPStatus.BAD_REQUEST, "The file is empty.")
        return b"".join(pieces)

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
            raise _Refused(HTTPStatus.BAD_REQUEST, line)
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
        self._send_download(data, downloads.file_name(original, what, names))

    def _send_file(self, name: str) -> None:
        files = importlib.resources.files("massformer_jax.demo")
        self._send(files.joinpath(name).read_bytes(), _FILES[name])

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), _JSON, status)

    def _send_download(self, data: bytes, name: str) -> None:
        quoted = urllib.parse.quote(name, safe="")
        extra = {"Content-Disposition": f"attachment; filename*=UTF-8''{quoted}"}
        self._send(data, "image/png", extra=extra)

    def _send(
        self,
        data: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        extra: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        headers = {**_HEADERS, **(extra or {})}
        headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _is_address(name: str) -> bool:
    """Tells whether a name is an IP address, which no other page can be called by."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _printable(name: str) -> str:
    """Returns the last part of a path as one line of at most 200 letters that can be printed."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[-200:]
