"""A Hub of Hugging Face in the memory of this process, which answers `huggingface_hub` on loopback.

It knows repositories, commits, and two ways in which files come: within a commit, or before it as
large ones (LFS). It refuses what the real one refuses, as far as the tests need that.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

from huggingface_hub import ModelCard

TOKEN = "hf_of_the_test"
_LARGE = 10_000  # files of so many bytes come as large ones


class FakeHub:
    """The repositories and what was asked of them.

    Attributes:
        address: for HF_ENDPOINT.
        repositories: the files of each commit by path, the newest commit last, by repository.
        branches: names of branches and tags, besides `main`, and the number of a commit of each.
        gated: repositories to which access has to be granted.
        requests: method and path of each request.
        broken: what it answers instead of everything, a status, if not None.
    """

    def __init__(self, address: str):
        self.address = address
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], int] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.broken: int | None = None
        self._large: dict[str, bytes] = {}

    @property
    def downloaded(self) -> list[str]:
        """The paths of the files whose content was asked for, in their repositories."""
        return [
            found[1]
            for text in self.requests
            if (found := re.match(r"GET .*/resolve/\w+/(.+)", text))
        ]

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> "_Answer":
        """Returns the answer to a request."""
        self.requests.append(f"{method} {path}")
        if self.broken:
            return _Answer(self.broken)
        if path == "/api/validate-yaml":
            ModelCard(json.loads(body)["content"])  # raises if it has no sound front matter
            return _Answer.of({"errors": [], "warnings": []})
        if path.startswith("/large/"):
            oid = path.removeprefix("/large/")
            assert hashlib.sha256(body).hexdigest() == oid
            self._large[oid] = body
            return _Answer(200)
        if method == "POST" and token != TOKEN:
            return _Answer(401, error="")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for pattern, act in (
            (r"/api/models/([^/]+/[^/]+)/revision/(.+)", self._info),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch()", self._batch),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"/([^/]+/[^/]+)/resolve/(.+)", self._file),
            (r"/api/models/([^/]+/[^/]+)()", self._info),
        ):
            if found := re.fullmatch(pattern, path.split("?")[0]):
                return self._of_repository(*found.groups(), act, body)
        return _Answer(404)

    def _of_repository(self, repository, revision, act, body) -> "_Answer":
        if repository not in self.repositories:
            return _Answer(404, error="RepoNotFound")
        if repository in self.gated:
            return _Answer(403, error="GatedRepo")
        revision, _, path = (revision or "main").partition("/")
        number = self._number(repository, revision)
        if number is None:
            return _Answer(404, error="RevisionNotFound")
        return act(repository, number, path, body)

    def _number(self, repository: str, revision: str) -> int | None:
        """Returns the index of a commit, -1 for an empty repository; None if there is none."""
        last = len(self.repositories[repository]) - 1
        if revision == "main":
            return last
        known = {_commit_id(repository, i): i for i in range(last + 1)}
        return known.get(revision, self.branches.get((repository, revision)))

    def _create(self, wanted) -> "_Answer":
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.repositories:
            told = {"error": "You already created this model repo"}
            return _Answer(409, {**told, "url": f"{self.address}/{name}"})
        self.repositories[name] = []
        return _Answer.of({"url": f"{self.address}/{name}"})

    def _info(self, repository, number, path, body) -> "_Answer":
        files = self._files(repository, number)
        return _Answer.of(
            {
                "id": repository,
                "sha": _commit_id(repository, number),
                "siblings": [{"rfilename": name} for name in files],
            }
        )

    def _file(self, repository, number, path, body) -> "_Answer":
        files = self._files(repository, number)
        if path not in files:
            return _Answer(404, error="EntryNotFound")
        headers = {
            "ETag": f'"{_sha1(files[path])}"',
            "X-Repo-Commit": _commit_id(repository, number),
        }
        return _Answer(200, files[path], headers)

    def _preupload(self, repository, number, path, body) -> "_Answer":
        return _Answer.of(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] >= _LARGE else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def _batch(self, repository, number, path, body) -> "_Answer":
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.address}/large/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        return _Answer.of({"transfer": "basic", "objects": objects})

    def _commit(self, repository, number, path, body) -> "_Answer":
        files = dict(self._files(repository, number))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
        self.repositories[repository].append(files)
        commit = _commit_id(repository, len(self.repositories[repository]) - 1)
        url = f"{self.address}/{repository}/commit/{commit}"
        return _Answer.of({"commitUrl": url, "commitOid": commit})

    def _files(self, repository: str, number: int) -> dict[str, bytes]:
        return self.repositories[repository][number] if number >= 0 else {}


class _Answer:
    """What is sent: a status, a body of bytes or of JSON, and headers."""

    def __init__(
        self,
        status: int,
        body: Any = b"",
        headers: dict[str, str] | None = None,
        *,
        error: str | None = None,
    ):
        self.status, self.headers = status, dict(headers or {})
        if error:
            self.headers["X-Error-Code"] = error
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    @classmethod
    def of(cls, body: Any) -> "_Answer":
        return cls(200, body, {"Content-Type": "application/json"})


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _commit_id(repository: str, number: int) -> str:
    return _sha1(f"{repository} {number}".encode())


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serves a Hub without repositories on the loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            answer = hub.answer(self.command, self.path, token, body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = handle_one

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
