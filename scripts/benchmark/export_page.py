"""An exported page as a function, for `scripts.benchmark.exports`: Chromium runs it."""

import atexit
import functools
import http.server
import io
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable

import numpy as np
from PIL import Image

_FILES = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_TIMEOUT = 1_800_000  # milliseconds


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def of_page(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what has a page in Chromium label an image.

    Args:
        folder: the exported one. The files of onnxruntime-web are copied there from the folder that
            ONNXRUNTIME_WEB names.
    """
    from playwright.sync_api import sync_playwright

    place = pathlib.Path(folder)
    for name in _FILES:
        shutil.copy(pathlib.Path(os.environ["ONNXRUNTIME_WEB"]) / name, place / name)
    handler = functools.partial(_Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    driver = sync_playwright().start()
    atexit.register(driver.stop)
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
    page = browser.new_page()
    page.set_default_timeout(_TIMEOUT)
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.wait_for_selector("#choose:enabled")
    page.select_option("#side", "1024")
    palette = np.array(json.loads((place / "export.json").read_text())["palette"])

    def run(image):
        data = io.BytesIO()
        Image.fromarray(image).save(data, "PNG", compress_level=1)
        file = {"name": "image.png", "mimeType": "image/png", "buffer": data.getvalue()}
        page.set_input_files("#input", file)
        page.wait_for_selector("body[data-state=done]")
        with page.expect_download() as download:
            page.locator("#save").click()
        mask = np.asarray(Image.open(download.value.path()).convert("RGB"))
        labels = np.zeros(mask.shape[:2], np.uint8)
        for label, colour in enumerate(palette):
            labels[(mask == colour).all(-1)] = label
        return labels

    return run
