"""The page of an exported folder labels a photograph in a real browser, as onnxruntime does."""

import functools
import http.server
import io
import os
import pathlib
import threading

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import NEEDS_CHROMIUM, launched
from tests.helpers.exported import exported, photograph, weights
from tests.helpers.onnx_models import answer

RUNTIME = pathlib.Path(
    os.environ.get("ONNXRUNTIME_WEB")
    or pathlib.Path(__file__).parents[2] / "node_modules/onnxruntime-web/dist"
)
FILES = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
pytestmark = [
    *NEEDS_CHROMIUM,
    pytest.mark.skipif(
        not all((RUNTIME / name).exists() for name in FILES),
        reason="no onnxruntime-web: npm install --no-save onnxruntime-web",
    ),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")


class Handler(http.server.SimpleHTTPRequestHandler):
    """A static server that says nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Serves a folder on this machine, and returns the address."""
    servers = []

    def start(folder):
        handler = functools.partial(Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    with launched(sync_api) as browser:
        yield browser


@pytest.fixture
def page(browser):
    """A page; its errors fail."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(300_000)  # other tests may run on the same cores
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    page.close()
    assert not wrong


def png(image: np.ndarray) -> dict:
    """Returns a picture as a file of a form."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return {"name": "a lake.png", "mimeType": "image/png", "buffer": data.getvalue()}


def labelled(page, image: np.ndarray) -> np.ndarray:
    """Has the page label a picture, and returns the mask that it saves."""
    page.wait_for_selector("#choose:enabled")
    page.set_input_files("#input", png(image))
    page.wait_for_selector("body[data-state=done]")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "a lake_mask.png"
    return np.asarray(Image.open(download.value.path()).convert("RGB"))


def expected(folder: pathlib.Path, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    margin = (0, size[0] - height), (0, size[1] - width), (0, 0)
    padded = np.pad(image, margin, mode="edge")
    labels = answer(folder / "model.onnx", images=padded[None])[0, :height, :width]
    assert len(np.unique(labels)) > 1
    return labels


def beside(folder: pathlib.Path) -> None:
    for name in FILES:
        (folder / name).symlink_to(RUNTIME / name)


def test_a_photograph_becomes_a_mask(page, serve, tmp_path):
    folder = exported(tmp_path, "256x512", "--format", "onnx", "--weights", "float16", "--page")
    beside(folder)
    address, fetched = serve(folder), []
    page.on("request", lambda sent: fetched.append(sent.url))
    page.goto(address)
    scene = photograph(250, 401)
    labels = expected(folder, scene, (256, 512))
    mask = labelled(page, scene)
    agree = (mask == np.array(weights().palette, np.uint8)[labels]).all(-1)
    assert agree.mean() >= 0.9999
    # The shares of the classes, and nothing from anywhere else.
    shares = page.locator("#classes output").all_inner_texts()
    counts = np.bincount(labels.ravel(), minlength=len(shares)) / labels.size
    np.testing.assert_allclose([float(x.split()[0]) for x in shares], 100 * counts, atol=0.06)
    assert all(url.startswith((address, "blob:", "data:")) for url in fetched)
    # What is larger than the program takes is made smaller, and its mask is not.
    large = scene.repeat(2, 0).repeat(2, 1)
    assert labelled(page, large).shape == large.shape
    page.set_input_files("#input", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"})
    page.get_by_text("a.txt is no picture that this browser reads.").wait_for()


def test_what_is_missing_is_said(page, serve, tmp_path):
    folder = exported(tmp_path, "256x256", "--format", "onnx", "--page")
    page.goto(serve(folder))
    page.get_by_text("ort.wasm.bundle.min.mjs is not beside this page").wait_for()
    assert page.locator("#choose").is_disabled()
