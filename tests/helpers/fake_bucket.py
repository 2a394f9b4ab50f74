"""A bucket of Google Cloud Storage in the memory of this process, which answers on the loopback.

The server is `gcp_storage_emulator`. It is given what TensorStore relies on and the emulator leaves
out: an object is replaced only if it is still of the generation that the request names, and whoever
reads it is told its generation. All four libraries that read or write gs:// are sent there: gcsfs
and google-cloud-storage, Orbax's TensorStore, and the reader of records.
"""

import contextlib
import http.server
import logging
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler, Storage

from massformer_jax.files import Place, place

# Read when gcsfs is imported: otherwise it asks another server for the kind of the bucket.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

NAME = "bucket"


class FakeBucket:
    """The bucket.

    Attributes:
        environment: variables of the environment that send libraries to the bucket.
        on_upload: called with the name of each object that is about to be written, which waits.
    """

    def __init__(self, port: int):
        address = f"http://127.0.0.1:{port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": address,  # gcsfs and google-cloud-storage
            "TENSORSTORE_GCS_HTTP_URL": address,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # array_record
            # Nobody looks for credentials.
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "NO_GCE_CHECK": "true",
        }
        self.on_upload: Callable[[str], None] = lambda name: None

    def __truediv__(self, name: str) -> Place:
        return place(f"gs://{NAME}/{name}")

    def copy(self, folder: Path, name: str) -> Place:
        """Copies the files below a folder into the bucket."""
        for path in folder.rglob("*"):
            if path.is_file():
                (self / name / path.relative_to(folder)).write_bytes(path.read_bytes())
        return self / name


class _Storage(Storage):
    def _write_config_to_file(self) -> None:
        """Spares the description of all objects, which nobody reads, at each change."""


class _Server(http.server.ThreadingHTTPServer):
    # TensorStore opens many connections at once, and some before it has something to say.
    request_queue_size = 128

    def handle_error(self, *_) -> None:
        """Keeps silent of clients that are gone, such as one that was killed."""


@contextlib.contextmanager
def fake_bucket() -> Iterator[FakeBucket]:
    """Serves an empty bucket; inside, this process takes it for Google's."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    storage = _Storage(use_memory_fs=True)
    create_bucket(NAME, storage)

    def generation(name: str) -> str:
        return storage.objects.get(NAME, {}).get(name, {}).get("generation", "0")

    one_at_a_time = threading.RLock()

    class Handler(RequestHandler):
        def do_GET(self) -> None:
            with one_at_a_time:
                super().do_GET()

        def do_DELETE(self) -> None:
            with one_at_a_time:
                super().do_DELETE()

        def do_PUT(self) -> None:
            with one_at_a_time:
                super().do_PUT()

        def do_POST(self) -> None:
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            name = query.get("name", "")
            bucket.on_upload(name)
            with one_at_a_time:
                if query.get("ifGenerationMatch", generation(name)) == generation(name):
                    super().do_POST()
                else:
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    self.send_response(412, "Precondition Failed")
                    self.end_headers()

        def end_headers(self) -> None:
            _, _, name = urllib.parse.urlsplit(self.path).path.partition(f"/b/{NAME}/o/")
            self.send_header("x-goog-generation", generation(urllib.parse.unquote(name)))
            super().end_headers()

    server = _Server(("127.0.0.1", 0), lambda *arguments: Handler(storage, *arguments))
    bucket = FakeBucket(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    before = {name: os.environ.get(name) for name in bucket.environment}
    os.environ.update(bucket.environment)
    try:
        yield bucket
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.shutdown()
        server.server_close()
        thread.join()
