"""The server of the page, without a browser: answers, files, refusals, and the order of work."""

import concurrent.futures
import gc
import gzip
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import weakref

import cv2
import numpy as np
import optax
import pytest
from PIL import Image

from massformer_jax.classes import CLASSES
from massformer_jax.demo import __main__ as demo
from massformer_jax.demo import server as server_module
from massformer_jax.demo import studio as studio_module
from massformer_jax.demo.downloads import file_name, shown_jpeg
from massformer_jax.demo.server import Server
from massformer_jax.demo.studio import Studio
from massformer_jax.errors import InputError
from massformer_jax.training.checkpoint import Checkpoints
from tests.helpers.fake_segmenter import BLUE, GREEN, RED, FakeSegmenter
from tests.helpers.tiny_weights import TINY, tiny_train_state

STRIPES = (RED, GREEN, BLUE, 0)


def photograph(height=60, width=80):
    """Four upright stripes: red, green, blue and grey."""
    colours = np.uint8([[220, 20, 20], [20, 220, 20], [20, 20, 220], [90, 90, 90]])
    return np.repeat(np.repeat(colours[None], height, 0), width // 4, 1)


def stripes(height=60, width=80):
    return np.repeat(np.repeat(np.uint8([STRIPES]), height, 0), width // 4, 1)


def encoded(image, suffix=".png"):
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


class Client:
    """A browser's part of the conversation, with headers as we like them."""

    def __init__(self, server):
        self.server, self.segmenter = server, server.segmenter

    def ask(self, method, path, body=None, **headers):
        """Returns status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=120)
        connection.request(
            method, path, body, {key.replace("_", "-"): text for key, text in headers.items()}
        )
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def json(self, method, path, body=None, **headers):
        status, _, body = self.ask(method, path, body, **headers)
        return status, json.loads(body)

    def send(self, image, name="a.png"):
        """Sends a photograph and returns the key of it."""
        path = f"/photographs?name={urllib.parse.quote(name)}"
        status, found = self.json("POST", path, encoded(image))
        assert status == 201, found
        return found["key"]

    def until(self, key, **wanted):
        """Returns the status of a photograph as soon as it says what is wanted."""
        limit = time.monotonic() + 30
        while True:
            _, status = self.json("GET", f"/photographs/{key}")
            if {name: status.get(name) for name in wanted} == wanted:
                return status
            ended = status.get("state") in ("done", "failed")
            assert not ended and time.monotonic() < limit, status
            time.sleep(0.01)


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(studio_module, "COARSE_ROWS", 76)
    monkeypatch.setattr(studio_module, "COARSE_COLUMNS", 100)
    segmenter = FakeSegmenter()
    with Server("127.0.0.1", 0, Studio(segmenter, segmenter), "runs/test") as server:
        server.segmenter = segmenter
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def unpacked(data):
    return np.frombuffer(gzip.decompress(data), np.uint8)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_page_needs_nothing_from_elsewhere(client):
    for path in ("/", "/page.css", "/page.js", "/viewer.js"):
        status, headers, body = client.ask("GET", path)
        assert status == 200 and b"//" not in body.replace(b"// ", b""), path
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    _, model = client.json("GET", "/model")
    assert model["classes"] == list(CLASSES) and model["name"] == "runs/test"
    assert model["most_bytes"] == server_module.MOST_BYTES
    for path in ("/other", "/photographs", "/..%2fserver.py", "/server.py"):
        status, told = client.json("GET", path)
        assert status == 404 and "nothing at this address" in told["error"]


def test_a_small_photograph_is_seen_once(client):
    key = client.send(photograph(), "Bäume 1.png")
    status = client.until(key, state="done")
    assert status["levels"] == ["full"] and status["told"] == ""
    assert client.segmenter.seen == [(60, 80)]
    _, headers, data = client.ask("GET", f"/photographs/{key}/labels")
    assert headers["X-Rows"] == "60"
    np.testing.assert_array_equal(unpacked(data).reshape(60, 80), stripes())
    _, headers, data = client.ask("GET", f"/photographs/{key}/labels.png")
    np.testing.assert_array_equal(pixels(data), stripes())
    name = headers["Content-Disposition"].split("''")[1]
    assert urllib.parse.unquote(name) == "Bäume 1_labels.png"
    _, _, data = client.ask("GET", f"/photographs/{key}/photograph.jpg")
    assert np.abs(pixels(data)[:, 30].astype(int) - photograph()[:, 30]).max() < 12
    assert client.ask("GET", f"/photographs/{key}/photograph.jpg?level=coarse")[0] == 404


def test_a_large_photograph_is_seen_coarse_first(client):
    with client.segmenter.held():
        key = client.send(photograph(120, 200))
        first = client.until(key, state="running")
        assert (first["running"], first["levels"]) == ("coarse", [])
        told = client.json("GET", f"/photographs/{key}/alpha.png?classes=1")
        assert told[0] == 409 and "Wait until" in told[1]["error"]
        assert client.ask("GET", f"/photographs/{key}/labels?level=coarse")[0] == 409
    assert client.until(key, state="done")["levels"] == ["coarse", "full"]
    assert client.segmenter.seen == [(60, 100), (120, 200)]
    _, headers, data = client.ask("GET", f"/photographs/{key}/labels?level=coarse")
    np.testing.assert_array_equal(unpacked(data).reshape(60, 100), stripes(60, 100))
    assert headers["X-Rows"] == "60"
    _, _, data = client.ask("GET", f"/photographs/{key}/photograph.jpg?level=coarse")
    assert pixels(data).shape == (60, 100, 3)


def test_photographs_take_turns_and_coarse_ones_go_first(client):
    with client.segmenter.held():
        keys = [client.send(photograph(80, 120 + 4 * i)) for i in range(3)]
        client.until(keys[0], state="running")
        ahead = [client.json("GET", f"/photographs/{key}")[1]["ahead"] for key in keys]
        assert ahead == [0, 1, 2]
    for key in keys:
        client.until(key, state="done")
    assert [w for h, w in client.segmenter.seen if h < 80] == [100] * 3
    assert client.segmenter.seen[3:] == [(80, 120), (80, 124), (80, 128)]


def test_a_compile_is_told_and_no_part_of_the_expected_time(client):
    preparing = "Preparing the network of the test…"
    with client.segmenter.held():
        key = client.send(photograph())
        status = client.until(key, state="running", told=preparing)
        assert status["expected"] is None
        time.sleep(0.5)
    assert client.until(key, state="done")["took"] > 0.5
    with client.segmenter.held():
        key = client.send(photograph())
        status = client.until(key, state="running")
        assert status["told"] == "" and 0 < status["expected"] < 0.4


def test_alpha_and_cutout_are_of_the_classes_that_are_asked_for(client):
    size = 60, 400
    key = client.send(photograph(*size), "tree.jpg")
    client.until(key, state="done")
    path = f"/photographs/{key}/alpha.png?classes={GREEN},{RED}"
    status, headers, data = client.ask("GET", path)
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert headers["Content-Disposition"].endswith("''tree_person%2Btree_alpha.png")
    alpha = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert alpha.dtype == np.uint16
    inside = np.isin(stripes(*size), (RED, GREEN))
    np.testing.assert_allclose(alpha / 65535, inside, atol=0.01)
    _, headers, data = client.ask("GET", path.replace("alpha", "cutout"))
    assert headers["Content-Disposition"].endswith("''tree_person%2Btree_cutout.png")
    cutout = pixels(data)
    np.testing.assert_allclose(cutout[..., 3] / 255, inside, atol=0.01)
    np.testing.assert_allclose(cutout[inside][:, :3], photograph(*size)[inside], atol=1)
    assert not cutout[:, -50:].any()
    for classes in ("", "7", "-1", "tree", "1,,2", "1e3"):
        status, told = client.json("GET", f"/photographs/{key}/alpha.png?classes={classes}")
        assert status == 400 and "from 0 to 6" in told["error"], classes


def test_what_is_no_photograph_is_refused_in_one_line(client):
    status, told = client.json("POST", "/photographs?name=/etc/note%0A.txt", b"no photograph")
    assert status == 422
    assert told["error"].startswith("note.txt: ") and "\n" not in told["error"]
    status, told = client.json(
        "POST", "/photographs?name=a.jpg", encoded(photograph(), ".jpg")[:-9]
    )
    assert status == 422 and told["error"].startswith("a.jpg: ")
    status, told = client.json("POST", "/photographs?name=a.jpg", b"")
    assert status == 400 and "empty" in told["error"]
    assert client.json("POST", "/elsewhere", b"x")[0] == 404


def test_photographs_are_read_as_those_of_files(client):
    """Turned upright, and in formats that browsers do not show."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph()).save(buffer, "TIFF", exif=exif)
    status, found = client.json("POST", "/photographs?name=scan.tif", buffer.getvalue())
    assert (status, found["height"], found["width"]) == (201, 80, 60)
    client.until(found["key"], state="done")
    _, _, data = client.ask("GET", f"/photographs/{found['key']}/labels.png")
    np.testing.assert_array_equal(pixels(data), np.rot90(stripes(), -1))


def test_a_bug_in_a_download_is_told(client, monkeypatch, capfd):
    key = client.send(photograph())
    client.until(key, state="done")
    monkeypatch.setattr(server_module, "encode_mask", lambda labels, palette: 1 / 0)
    status, told = client.json("GET", f"/photographs/{key}/labels.png")
    assert (status, told["error"]) == (500, "The program failed; its terminal shows where.")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_sizes_are_limited(client, monkeypatch):
    data = encoded(photograph())
    monkeypatch.setattr(server_module, "MOST_BYTES", len(data) - 1)
    status, told = client.json("POST", "/photographs?name=a.png", data)
    assert status == 413 and "MB" in told["error"]
    monkeypatch.setattr(server_module, "MOST_BYTES", len(data))
    monkeypatch.setattr(server_module, "MOST_PIXELS", 60 * 80 - 1)
    # Its header is enough: what it says is never decoded.
    monkeypatch.setattr(server_module, "read_photograph", None)
    status, told = client.json("POST", "/photographs?name=a.png", data)
    assert status == 422 and "megapixels" in told["error"]
    connection = http.client.HTTPConnection("127.0.0.1", client.server.server_port, timeout=30)
    connection.putrequest("POST", "/photographs?name=a.png")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_the_oldest_are_forgotten(client, monkeypatch):
    monkeypatch.setattr(studio_module, "KEPT", 2)
    keys = [client.send(photograph()) for _ in range(3)]
    for key in keys[1:]:
        client.until(key, state="done")
    for path in ("", "/labels", "/photograph.jpg", "/alpha.png?classes=1"):
        status, told = client.json("GET", f"/photographs/{keys[0]}{path}")
        assert status == 410 and "drop it again" in told["error"]
    every = ",".join(map(str, range(len(CLASSES))))
    assert client.ask("GET", f"/photographs/{keys[2]}/alpha.png?classes={every}")[0] == 200
    known = client.server.studio.photograph(keys[2])
    arrays = [*known.images.values(), *known.labels.values(), known.scores, known.alpha[1]]
    size = sum(array.nbytes for array in arrays)
    monkeypatch.setattr(studio_module, "KEPT_BYTES", 2 * size)
    last = client.send(photograph())
    assert client.ask("GET", f"/photographs/{keys[2]}")[0] == 200
    keys[2] = last
    monkeypatch.setattr(studio_module, "KEPT_BYTES", 2 * size - 1)
    last = client.send(photograph())
    client.until(last, state="done")
    assert client.ask("GET", f"/photographs/{keys[2]}")[0] == 410
    assert client.ask("DELETE", f"/photographs/{last}")[0] == 200
    assert client.ask("GET", f"/photographs/{last}")[0] == 410


def test_nothing_is_computed_for_what_is_forgotten(client):
    with client.segmenter.held():
        first = client.send(photograph(10, 80))
        client.until(first, state="running")
        second = client.send(photograph(20, 80))
        third = client.send(photograph(30, 80))
        client.ask("DELETE", f"/photographs/{second}")
    client.until(third, state="done")
    assert client.segmenter.seen == [(10, 80), (30, 80)]


def test_what_is_forgotten_takes_no_memory(client):
    """Not even while the segmenter or an alpha is waited for."""
    studio = client.server.studio
    first = client.send(photograph())
    client.until(first, state="done")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with client.segmenter.held():
            client.until(client.send(photograph(10, 80)), state="running")
            keys = [first, *(client.send(photograph(20, 80)) for _ in range(3))]
            path = f"/photographs/{first}/alpha.png?classes={RED}"
            alpha = pool.submit(client.json, "GET", path)
            # The one that runs, three that wait for the segmenter, and the alpha.
            while studio._numbered - studio._ended < 5:
                time.sleep(0.01)
            forgotten = [weakref.ref(studio.photograph(key)) for key in keys]
            for key in keys:
                client.ask("DELETE", f"/photographs/{key}")
            gc.collect()
            assert [kept() for kept in forgotten] == [None] * 4
        assert alpha.result()[0] == 410


def test_an_error_is_of_one_photograph(client, capfd):
    for error, line in (
        (MemoryError(), "There is not the memory for it."),
        (InputError("show smaller windows"), "show smaller windows"),
        (ZeroDivisionError("a bug"), "The program failed; its terminal shows where."),
    ):
        client.segmenter.error = error
        key = client.send(photograph())
        assert client.until(key, state="failed")["told"] == line
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err
    client.segmenter.error = None
    client.until(client.send(photograph()), state="done")


def test_other_pages_are_refused(client):
    port, data = client.server.server_port, encoded(photograph())
    ours = f"127.0.0.1:{port}"
    for headers in (
        {"Host": f"evil.example:{port}"},  # a name that leads to this machine
        {"Host": f"127.0.0.1.evil.example:{port}"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{port}"},
        {"Origin": f"https://{ours}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        for method, path, body in (
            ("GET", "/", None),
            ("GET", "/model", None),
            ("POST", "/photographs?name=a.png", data),
            ("DELETE", "/photographs/x", None),
        ):
            status, told = client.json(method, path, body, **headers)
            assert status == 403 and told["error"], (method, headers)
    for headers in (
        {"Host": f"localhost:{port}"},
        {"Host": "localhost:1"},  # at the other end of a tunnel
        {"Host": f"[::1]:{port}"},
        {"Host": ours, "Origin": f"http://{ours}", "Sec_Fetch_Site": "same-origin"},
    ):
        assert client.ask("GET", "/model", **headers)[0] == 200
    assert client.segmenter.seen == []


def test_uploads_that_stall_and_malformed_addresses_print_nothing(client, monkeypatch, capfd):
    monkeypatch.setattr(server_module._Handler, "timeout", 0.2)
    for request, answer in (
        ("POST /photographs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf", b""),
        ("GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 400 "),
        ("GET /model HTTP/1.1\r\nHost: [\r\n\r\n", b"HTTP/1.1 400 "),
    ):
        address = "127.0.0.1", client.server.server_port
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as file:
                assert file.read()[: len(b"HTTP/1.1 400 ")] == answer, request
    assert capfd.readouterr().err == ""


def test_a_connection_serves_many_requests(client):
    connection = http.client.HTTPConnection("127.0.0.1", client.server.server_port, timeout=30)
    for path in ("/model", "/nothing", "/model"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.version == 11 and answer.read() and not answer.will_close
        first = connection.sock
    assert connection.sock is first
    connection.close()


def test_names_and_addresses(client):
    assert client.server.address == f"http://127.0.0.1:{client.server.server_port}/"
    for host, shown in (("0.0.0.0", "127.0.0.1"), ("localhost", "localhost")):
        with Server(host, 0, client.server.studio, "") as server:
            assert server.address == f"http://{shown}:{server.server_port}/"
    assert file_name(".", "alpha") == "photograph_alpha.png"
    many = [f"class {i}" for i in range(150)]
    assert (
        server_module.downloads.file_name("a.b.jpg", "alpha", many) == "a.b_150 classes_alpha.png"
    )


def test_a_photograph_that_no_jpeg_can_hold_is_shown_smaller():
    """OpenCV writes JPEGs of up to 65,500 pixels a side."""
    shown = shown_jpeg(np.full((4, 66_000, 3), (200, 90, 20), np.uint8))
    assert pixels(shown).shape == (4, 65_500, 3)
    np.testing.assert_allclose(pixels(shown)[0, -1], (200, 90, 20), atol=4)
    assert pixels(shown_jpeg(np.zeros((66_000, 1, 3), np.uint8))).shape == (65_500, 1, 3)


def test_wrong_arguments_are_one_line(client, tmp_path, capsys):
    run = ["--checkpoint", str(tmp_path), "--compilation_cache", ""]
    for arguments, said in (
        (run, "holds no checkpoint"),
        ([*run, "--port", "65536"], "from 0 to 65535"),
        ([*run, "--resolution", "large"], "resolution is 'large'"),
    ):
        assert demo.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and said in line
    with pytest.raises(InputError, match="Address already in use; pass another --port"):
        Server("127.0.0.1", client.server.server_port, client.server.studio, "")


def test_a_photograph_of_another_size_than_the_weights_are_meant_for(client):
    """It is said when the photograph is done; of the others, nothing."""
    client.segmenter.pictures = (120, 160)
    told = client.until(client.send(photograph(60, 80)), state="done")["told"]
    assert told.startswith("the network sees 80x60 pixels, far smaller than the pictures")
    assert client.until(client.send(photograph(64, 84)), state="done")["told"] == ""


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path):
    """With the network itself; interrupted while it compiles."""
    with Checkpoints(tmp_path, TINY, every=1) as checkpoints:
        checkpoints.save_best(tiny_train_state(optax.identity()), 0.5)
    command = [sys.executable, "-u", "-m", "massformer_jax", "demo", "--checkpoint", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--port", "0", "--compilation_cache", ""],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as process:
        try:
            words = process.stdout.readline().split()
            port = urllib.parse.urlsplit(words[1]).port
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/photographs?name=a.png", encoded(photograph(256, 256)))
            key = json.loads(connection.getresponse().read())["key"]
            told = ""
            while not told:
                connection.request("GET", f"/photographs/{key}")
                told = json.loads(connection.getresponse().read())["told"]
                time.sleep(0.05)
            assert told == "Preparing the network for up to 256x256 pixels…"
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130 and said == "interrupted\n"
    assert time.monotonic() - began < 5
