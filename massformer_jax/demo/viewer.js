"use strict";

const CLOSEST = 16; // screen pixels a pixel of the photograph
const STRIP = 256; // rows that are coloured at once
const MARGIN = 16; // CSS pixels around a whole photograph, in a window wider than ROOMY
const ROOMY = 600;

/* A picture and its halves, so that each size on the screen is drawn from one at most twice as
   large: all pixels count, and little is read. */
class Pyramid {
  constructor(base) {
    this.levels = [base];
    this.width = base.width;
    this.height = base.height;
    let { width, height } = base;
    while (Math.max(width, height) > 512) {
      const below = this.levels[this.levels.length - 1];
      [width, height] = [Math.ceil(width / 2), Math.ceil(height / 2)];
      const half = canvasOf(width, height);
      half.getContext("2d").drawImage(below, 0, 0, width, height);
      this.levels.push(half);
    }
  }

  /* Draws it with its corner at (left, top), `across` wide and `down` high, cut to `cut`. */
  draw(context, left, top, across, down, cut, pixels) {
    const ratio = this.width / across;
    const level = Math.max(0, Math.min(this.levels.length - 1, Math.floor(Math.log2(ratio))));
    const source = this.levels[level];
    const [x0, x1] = [Math.max(left, cut.left), Math.min(left + across, cut.right)];
    const [y0, y1] = [Math.max(top, 0), Math.min(top + down, cut.bottom)];
    if (x1 <= x0 || y1 <= y0) return;
    const [sx, sy] = [source.width / across, source.height / down];
    context.imageSmoothingEnabled = !(pixels && ratio < 0.5);
    context.drawImage(
      source, (x0 - left) * sx, (y0 - top) * sy, (x1 - x0) * sx, (y1 - y0) * sy,
      x0, y0, x1 - x0, y1 - y0,
    );
  }
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  return canvas;
}

/* The label map in its colours; `colours` are 256 of RGBA, of which unwanted ones are 0. */
function coloured({ values, width, height }, colours) {
  const canvas = canvasOf(width, height);
  const context = canvas.getContext("2d");
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    const strip = context.createImageData(width, rows);
    const pixels = new Uint32Array(strip.data.buffer);
    const start = top * width;
    for (let i = 0; i < pixels.length; i++) pixels[i] = colours[values[start + i]];
    context.putImageData(strip, 0, top);
  }
  return canvas;
}

/* A photograph and its overlay on a canvas that moves and zooms, with a line between the two.
   Positions are in pixels of the photograph, whatever is there of it; the scale is in CSS pixels. */
class Viewer {
  constructor(canvas, divider, told) {
    Object.assign(this, { canvas, divider, told });
    this.opacity = 0.55;
    this.split = 0.5;
    this.clear();
    new ResizeObserver(() => this.resized()).observe(canvas);
    this.listen();
    this.listenToDivider();
  }

  clear() {
    Object.assign(this, { photo: null, overlay: null, labels: null, width: 0, height: 0 });
    this.at = { x: 0, y: 0, scale: null }; // null: the whole photograph, whatever the window
  }

  /* Begins with another photograph of this size. */
  begin(width, height) {
    this.clear();
    Object.assign(this, { width, height });
    this.moveSplit(0.5);
  }

  setPhoto(bitmap) {
    this.photo = new Pyramid(bitmap);
    this.draw();
  }

  setLabels(labels) {
    this.labels = labels;
    this.colour();
  }

  setColours(colours) {
    this.colours = colours;
    this.colour();
  }

  colour() {
    if (!this.labels || !this.colours) return;
    this.overlay = new Pyramid(coloured(this.labels, this.colours));
    this.draw();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.draw();
  }

  get size() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  /* The scale at which the whole photograph is seen, with a margin; small ones are not enlarged. */
  get whole() {
    const margin = this.size[0] > ROOMY ? MARGIN : 0;
    const [w, h] = this.size.map((side) => side - 2 * margin);
    return Math.min(w / this.width, h / this.height, 1 / devicePixelRatio);
  }

  get scale() {
    return this.at.scale ?? this.whole;
  }

  resized() {
    const [w, h] = this.size;
    this.canvas.width = Math.round(w * devicePixelRatio);
    this.canvas.height = Math.round(h * devicePixelRatio);
    this.paint(); // at once, since a canvas of a new size is empty
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const [w, h] = this.size;
    if (!w || !this.width) return;
    this.settle();
    const ratio = devicePixelRatio, scale = this.scale;
    const place = [
      (w / 2 - this.at.x * scale) * ratio, (h / 2 - this.at.y * scale) * ratio,
      this.width * scale * ratio, this.height * scale * ratio,
    ];
    const cut = { left: 0, right: this.canvas.width, bottom: this.canvas.height };
    const line = this.split * this.canvas.width;
    context.imageSmoothingQuality = "medium";
    context.globalAlpha = 1;
    this.photo?.draw(context, ...place, cut, true);
    context.globalAlpha = this.opacity;
    const fine = this.labels?.width === this.width;
    this.overlay?.draw(context, ...place, { ...cut, left: line }, fine);
    this.canvas.dataset.scale = scale;
    this.canvas.dataset.level = this.overlay ? (fine ? "full" : "coarse") : "";
    this.told(scale * ratio);
  }

  /* Keeps the photograph in the window, and in its middle where it is smaller. */
  settle() {
    const [w, h] = this.size, { at, whole } = this;
    if (at.scale !== null && at.scale <= whole) at.scale = null;
    if (at.scale !== null) at.scale = Math.min(at.scale, CLOSEST);
    const scale = this.scale;
    const clamp = (value, half, most) =>
      2 * half >= most ? most / 2 : Math.min(Math.max(value, half), most - half);
    at.x = clamp(at.x, w / 2 / scale, this.width);
    at.y = clamp(at.y, h / 2 / scale, this.height);
  }

  /* Where a point of the window lies in the photograph. */
  position([px, py]) {
    const [w, h] = this.size;
    return [this.at.x + (px - w / 2) / this.scale, this.at.y + (py - h / 2) / this.scale];
  }

  /* The label under a point of the window; undefined outside and while there is none. */
  labelAt(point) {
    const [x, y] = this.position(point);
    if (!this.labels || x < 0 || y < 0 || x >= this.width || y >= this.height) return undefined;
    const { values, width, height } = this.labels;
    const row = Math.floor(y / this.height * height);
    return values[row * width + Math.floor(x / this.width * width)];
  }

  /* Zooms about a point of the window, which stays where it is. */
  zoomTo(scale, point = this.size.map((side) => side / 2)) {
    if (!this.width) return;
    const before = this.position(point);
    this.at.scale = Math.min(Math.max(scale, this.whole), CLOSEST);
    const after = this.position(point);
    this.at.x += before[0] - after[0];
    this.at.y += before[1] - after[1];
    this.draw();
  }

  zoomBy(factor, point) {
    this.zoomTo(this.scale * factor, point);
  }

  fit() {
    this.at.scale = null;
    this.draw();
  }

  actual(point) {
    this.zoomTo(1 / devicePixelRatio, point);
  }

  move(dx, dy) {
    this.at.x -= dx / this.scale;
    this.at.y -= dy / this.scale;
    this.draw();
  }

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    const place = (event) => {
      const frame = canvas.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    /* The middle of the fingers, and how far they are apart. */
    const spread = () => {
      const points = [...fingers.values()];
      const middle = [0, 1].map((i) => points.reduce((sum, p) => sum + p[i], 0) / points.length);
      const apart = points.length > 1 ? Math.hypot(
        points[0][0] - points[1][0], points[0][1] - points[1][1]) : 0;
      return { middle, apart };
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.hovered?.(this.labelAt(place(event)));
      if (!fingers.has(event.pointerId)) return;
      const before = spread();
      fingers.set(event.pointerId, place(event));
      const after = spread();
      this.move(...after.middle.map((value, i) => value - before.middle[i]));
      if (before.apart) this.zoomBy(after.apart / before.apart, after.middle);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    canvas.addEventListener("pointerleave", () => this.hovered?.(undefined));
    canvas.addEventListener("dblclick", (event) => {
      if (this.at.scale === null) this.actual(place(event));
      else this.fit();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode ? 16 : 1; // some wheels tell lines
      const change = Math.max(-120, Math.min(120, event.deltaY * lines));
      this.zoomBy(2 ** (-change / 240), place(event));
    }, { passive: false });
    const far = 60;
    const keys = {
      "+": () => this.zoomBy(1.5), "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1 / 1.5),
      0: () => this.fit(), 1: () => this.actual(),
      ArrowLeft: () => this.move(far, 0), ArrowRight: () => this.move(-far, 0),
      ArrowUp: () => this.move(0, far), ArrowDown: () => this.move(0, -far),
    };
    canvas.addEventListener("keydown", (event) => act(keys, event));
  }

  listenToDivider() {
    const { divider } = this;
    let held = null; // how far from the line it was taken
    const x = (event) => event.clientX - this.canvas.getBoundingClientRect().left;
    divider.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      divider.setPointerCapture(event.pointerId);
      held = x(event) - this.split * this.size[0];
    });
    divider.addEventListener("pointermove", (event) => {
      if (held !== null) this.moveSplit((x(event) - held) / this.size[0]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      divider.addEventListener(end, () => { held = null; });
    }
    divider.addEventListener("dblclick", () => this.moveSplit(0.5));
    const by = (share) => () => this.moveSplit(this.split + share);
    const keys = {
      ArrowLeft: by(-0.02), ArrowRight: by(0.02), ArrowDown: by(-0.02), ArrowUp: by(0.02),
      PageDown: by(-0.1), PageUp: by(0.1),
      Home: () => this.moveSplit(0), End: () => this.moveSplit(1),
    };
    divider.addEventListener("keydown", (event) => act(keys, event));
  }

  moveSplit(share) {
    this.split = Math.min(Math.max(share, 0), 1);
    const percent = Math.round(this.split * 100);
    this.divider.style.left = `${this.split * 100}%`;
    this.divider.setAttribute("aria-valuenow", percent);
    this.divider.setAttribute("aria-valuetext", `photograph on ${percent} % of the width`);
    this.draw();
  }
}

/* Does what a key stands for. */
function act(keys, event) {
  const does = keys[event.key];
  if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  does();
}
