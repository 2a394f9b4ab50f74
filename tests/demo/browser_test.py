"""The page in a real browser, with a photograph of 12 megapixels, at two sizes of the window."""

import base64
import io
import re
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from massformer_jax.classes import CLASSES, PALETTE
from massformer_jax.data.images import decode_image
from massformer_jax.data.sample.scenes import render_scene
from massformer_jax.demo.server import Server
from massformer_jax.demo.studio import Studio
from massformer_jax.inference import alpha
from tests.helpers import fake_segmenter
from tests.helpers.browser import NEEDS_CHROMIUM, launched
from tests.helpers.fake_segmenter import BLUE, GREEN, FakeSegmenter

pytestmark = NEEDS_CHROMIUM
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")

HEIGHT, WIDTH = 3072, 4096
WINDOWS = {
    "desk": {"viewport": {"width": 1440, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    """A scene, enlarged, and grainy so that neighbours differ."""
    scene, _ = render_scene(np.random.default_rng(3), HEIGHT // 8, WIDTH // 8, water=True)
    image = cv2.resize(scene, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 24, (256, 256, 3)).astype(np.int16)
    image = np.clip(image + np.tile(grain, (HEIGHT // 256, WIDTH // 256, 1)), 0, 255)
    path = tmp_path_factory.mktemp("photograph") / "By the lake.jpg"
    cv2.imwrite(str(path), image[..., ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path


@pytest.fixture(scope="module")
def labels(jpeg):
    return FakeSegmenter().predict(decode_image(jpeg))


@pytest.fixture
def server(monkeypatch):
    """A server whose segmenters can be held: `preview` and `segmenter`."""
    # Soft edges of a picture that is grainy everywhere would take long, and have no simple truth.
    for name in ("coverage", "foreground"):
        monkeypatch.setattr(alpha, name, getattr(fake_segmenter, name))
    preview, segmenter = FakeSegmenter(), FakeSegmenter()
    with Server("127.0.0.1", 0, Studio(preview, segmenter), "runs/test") as server:
        server.preview, server.segmenter = preview, segmenter
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with launched(sync_api) as browser:
        yield browser


@pytest.fixture(params=WINDOWS)
def page(browser, server, request):
    """The page at one size of the window; its errors, and what it fetches elsewhere, fail."""
    context = browser.new_context(**WINDOWS[request.param])
    page = context.new_page()
    page.set_default_timeout(120_000)  # other tests may run on the same cores
    wrong, fetched = [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda sent: fetched.append(sent.url))
    page.goto(server.address)
    page.wait_for_selector("#classes li")
    yield page
    width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    context.close()
    assert width <= inner
    assert all(url.startswith((server.address, "blob:", "data:")) for url in fetched)
    # The browser, too, tells of what is refused or forgotten.
    assert not [line for line in wrong if not re.search("status of (410|422) ", line)]


class Stage:
    """What is on the screen where the photograph is shown."""

    def __init__(self, page):
        self.page = page
        self.ratio = page.evaluate("devicePixelRatio")
        self.box = page.locator("#stage").bounding_box()

    @property
    def scale(self):
        """How many CSS pixels a pixel of the photograph is wide."""
        self.page.evaluate("new Promise(requestAnimationFrame)")
        return float(self.page.locator("#view").get_attribute("data-scale"))

    def picture(self):
        """Returns what is shown, in pixels of the screen, RGB."""
        self.page.evaluate("new Promise(requestAnimationFrame)")
        data = self.page.locator("#stage").screenshot()
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def around(self, dx, dy):
        """Returns the colour at so many CSS pixels from the middle."""
        picture = self.picture()
        h, w = picture.shape[:2]
        return picture[round(h / 2 + dy * self.ratio), round(w / 2 + dx * self.ratio)]

    def drag(self, start, end):
        """Drags the mouse from one x to another, in shares of the width, at half the height."""
        mouse, y = self.page.mouse, self.box["y"] + self.box["height"] / 2
        mouse.move(self.box["x"] + start * self.box["width"], y)
        mouse.down()
        mouse.move(self.box["x"] + end * self.box["width"], y, steps=4)
        mouse.up()


def row(page, name):
    return page.locator("#classes li").filter(has_text=re.compile(f"^{name}"))


def shares(page):
    return [
        None if not text else 0.05 if text.startswith("<") else float(text.split()[0])
        for text in page.locator("#classes output").all_inner_texts()
    ]


def test_from_a_photograph_to_its_cutout(page, server, jpeg, labels):
    stage = Stage(page)
    assert "HEIC, JPEG XL or camera RAW, up to 200 MB" in page.locator("#limits").inner_text()
    assert page.locator("[data-file=alpha\\.png]").is_disabled()
    with server.segmenter.held():
        with server.preview.held():
            page.set_input_files("#input", jpeg)
            page.get_by_text("Preparing the network of the test…").wait_for()
            assert page.locator("#progress").is_visible()
        page.wait_for_selector("#view[data-level=coarse]")
        assert page.get_by_text("Shown coarse.").is_visible()
        assert all(share is not None for share in shares(page))
        assert page.locator("[data-file=alpha\\.png]").is_disabled()
    page.wait_for_selector("#view[data-level=full]")
    page.wait_for_selector("#work[data-state=done]")
    assert not page.locator("#progress").is_visible()
    expected = 100 * np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    np.testing.assert_allclose(shares(page), expected, atol=0.051)
    assert not row(page, "background").get_by_role("checkbox").is_checked()

    # The overlay, all of it, on the right of the line alone.
    page.locator("#opacity").fill("100")
    row(page, "background").get_by_role("checkbox").check()
    page.locator("#divider").press("Home")
    middle = slice(HEIGHT // 2, HEIGHT // 2 + 6), slice(WIDTH // 2, WIDTH // 2 + 6)
    page.locator("#actual").click()
    np.testing.assert_allclose(stage.scale, 1 / stage.ratio)
    page.locator("#view").focus()
    while stage.scale < 16:
        page.keyboard.press("+")
    picture = stage.picture()
    h, w = picture.shape[:2]
    step = round(16 * stage.ratio)
    blocks = picture[h // 2 + step // 2 :: step, w // 2 + step // 2 :: step][:6, :6]
    np.testing.assert_array_equal(blocks, PALETTE[labels[middle]])
    page.locator("#divider").press("End")
    assert page.locator("#divider").get_attribute("aria-valuenow") == "100"
    picture = stage.picture()
    blocks = picture[h // 2 + step // 2 :: step, w // 2 + step // 2 :: step][:6, :5]
    np.testing.assert_allclose(blocks, decode_image(jpeg)[middle][:, :5].astype(int), atol=30)
    page.locator("#divider").press("Home")

    # A class can be seen alone.
    row(page, "tree").get_by_role("button").click()
    assert page.locator("#classes input:checked").count() == 1
    y, x = np.argwhere(labels[middle] == GREEN)[0]
    offset = 16 * x + 8, 16 * y + 8
    np.testing.assert_array_equal(stage.around(*offset), PALETTE[GREEN])
    page.locator("#none").click()
    assert page.locator("[data-file=cutout\\.png]").is_disabled()
    assert np.abs(stage.around(*offset) - PALETTE[GREEN]).max() > 30

    # Alpha and cutout are of the chosen classes.
    row(page, "tree").get_by_role("checkbox").check()
    row(page, "sky").get_by_role("checkbox").check()
    files = {}
    for kind in ("alpha", "cutout", "labels"):
        button = page.locator(f"[data-file={kind}\\.png]")
        with page.expect_download() as download:
            button.click()
        names = "" if kind == "labels" else "_tree+sky"
        assert download.value.suggested_filename == f"By the lake{names}_{kind}.png"
        files[kind] = cv2.imread(str(download.value.path()), cv2.IMREAD_UNCHANGED)
        button.is_enabled()
    chosen = np.isin(labels, (GREEN, BLUE))
    np.testing.assert_array_equal(files["alpha"] > 1 << 15, chosen)
    np.testing.assert_array_equal(files["cutout"][..., 3] > 127, chosen)
    assert files["cutout"].shape == (HEIGHT, WIDTH, 4)
    assert Image.open(download.value.path()).mode == "P"


def test_moving_zooming_and_comparing(page, server, jpeg):
    stage = Stage(page)
    page.set_input_files("#input", jpeg)
    page.wait_for_selector("#work[data-state=done]")
    divider = page.locator("#divider")
    whole = stage.scale
    assert whole * WIDTH <= stage.box["width"] and whole * HEIGHT <= stage.box["height"]
    assert divider.get_attribute("aria-valuenow") == "50"
    before = stage.picture()
    stage.drag(0.5, 0.8)
    assert divider.get_attribute("aria-valuenow") == "80"
    changed = (np.abs(stage.picture() - before).max(-1) > 30).mean(0)
    # The handle of the line reaches over it on both sides.
    at = np.arange(len(changed)) / len(changed)
    assert changed[(at > 0.52) & (at < 0.78)].mean() > 0.5
    assert not changed[(at < 0.44) | (at > 0.86)].any()
    divider.press("ArrowLeft")
    assert divider.get_attribute("aria-valuetext") == "photograph on 78 % of the width"
    assert stage.scale == whole

    x, y = stage.box["x"] + stage.box["width"] / 4, stage.box["y"] + stage.box["height"] / 2
    page.mouse.dblclick(x, y)
    np.testing.assert_allclose(stage.scale, 1 / stage.ratio)
    zoomed = stage.picture()
    stage.drag(0.25, 0.35)
    moved = stage.picture()
    by = round(0.1 * stage.box["width"] * stage.ratio)
    part = slice(20, 100), slice(20, 60)
    np.testing.assert_allclose(
        moved[part[0], 20 + by : 60 + by].mean(), zoomed[part].mean(), atol=3
    )
    page.mouse.dblclick(x, y)
    assert stage.scale == whole
    page.locator("#in").click()
    np.testing.assert_allclose(stage.scale, 1.5 * whole)
    assert page.locator("#scale").inner_text() == f"{round(150 * whole * stage.ratio)} %"
    page.locator("#view").press("0")
    assert stage.scale == whole
    if stage.ratio == 1:
        page.mouse.move(x, y)
        page.mouse.wheel(0, -120)
        np.testing.assert_allclose(stage.scale, 2**0.5 * whole)
    else:
        pinch(page, x, y, apart=(40, 100))
        np.testing.assert_allclose(stage.scale, 2.5 * whole, rtol=0.01)


def pinch(page, x, y, apart):
    """Moves two fingers on the screen, with so many CSS pixels between them."""
    session = page.context.new_cdp_session(page)

    def touch(kind, distance):
        points = [{"x": x + side * distance / 2, "y": y, "id": side + 1} for side in (-1, 1)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", apart[0])
    for distance in np.linspace(*apart, 5)[1:]:
        touch("touchMove", float(distance))
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


DROP = """([name, encoded]) => {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  const event = (type) => new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer });
  document.body.dispatchEvent(event("dragenter"));
  const dropping = document.body.classList.contains("dropping");
  document.body.dispatchEvent(event("drop"));
  return dropping;
}"""


def drop(page, name, data):
    assert page.evaluate(DROP, [name, base64.b64encode(data).decode()])


def test_drops_refusals_and_what_is_forgotten(page, server):
    def photograph(side):
        image = np.zeros((side, 2 * side, 3), np.uint8)
        image[:, :, 0] = 220
        return cv2.imencode(".png", image)[1].tobytes()

    drop(page, "first.png", photograph(64))
    page.wait_for_selector("#work[data-state=done]")
    assert page.locator("#file").inner_text() == "first.png\n128 \N{MULTIPLICATION SIGN} 64"
    assert page.locator("#problem").is_hidden()
    drop(page, "note.txt", b"no photograph")
    page.get_by_role("alert").filter(has_text="note.txt: not a readable image").wait_for()
    page.get_by_label("Close this message").click()
    assert page.locator("#problem").is_hidden()
    # The photograph before stays as it was.
    assert page.locator("#work").get_attribute("data-state") == "done"
    assert page.locator("#file").inner_text().startswith("first.png")
    server.segmenter.error = MemoryError()
    drop(page, "second.png", photograph(32))
    page.get_by_role("alert").filter(has_text="There is not the memory for it").wait_for()
    assert page.locator("[data-file=labels\\.png]").is_disabled()
    # What was replaced is forgotten at once, and the server says so of what it no longer has.
    server.segmenter.error = None
    drop(page, "third.png", photograph(16))
    page.wait_for_selector("#work[data-state=done]")
    kept = list(server.studio._photographs)
    assert len(kept) == 1
    server.studio.forget(kept[0])
    page.locator("[data-file=alpha\\.png]").click()
    page.get_by_role("alert").filter(has_text="no longer kept; drop it again").wait_for()


def test_the_keyboard_reaches_everything(page, server, jpeg):
    reached = []
    page.locator("#choose").focus()
    drop(page, "red.png", cv2.imencode(".png", np.uint8([[[0, 0, 255]] * 40] * 40))[1].tobytes())
    page.wait_for_selector("#work[data-state=done]")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
    assert {"view", "divider", "in", "out", "fit", "actual", "all", "none", "opacity"} <= set(
        reached
    )
    assert reached.count("checkbox") >= len(CLASSES)
    # What is a control has a name.
    for control in page.locator("button:visible, input:visible, [role=slider]").all():
        assert control.evaluate(
            "e => (e.getAttribute('aria-label') || e.innerText || e.labels?.[0]?.innerText).trim()"
        )
    first = page.locator("#classes input").nth(1)
    first.focus()
    page.keyboard.press("Space")
    assert not first.is_checked()
