"use strict";

/* An element; text is set as text, never parsed. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/* Object URLs of encoded layers, so that panels share one decoded picture. */
const urls = new Map();
function urlOf(encoded) {
  if (!urls.has(encoded)) {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    urls.set(encoded, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
  }
  return urls.get(encoded);
}

const CLOSEST = 16; // screen pixels a pixel of the image

/* The panels of one picture, which move and zoom together. Positions are in pixels of the image. */
function viewer(picture, panels) {
  const { width, height, parts, levels } = picture;
  const box = el("div", {
    class: "viewer", tabindex: 0, role: "group", style: `--columns:${Math.min(4, panels.length)}`,
    "aria-label": "Zoomable: plus and minus, arrow keys, 1 to 3 for details, 0 for the whole",
  });
  if (panels.length === 6) box.style.setProperty("--columns", 3);
  const stages = panels.map((panel) => {
    const world = el("div", { class: "world", style: `width:${width}px;height:${height}px` });
    for (const level of levels) {
      for (const [i, layer] of panel.layers.entries()) {
        if (!level.layers[layer]) continue;
        const image = el("img", { alt: `${panel.title}: ${layer}`, draggable: "false" });
        image.src = urlOf(level.layers[layer]);
        image.dataset.step = level.step;
        const errors = panel.layers.some((name) => name.startsWith("errors"));
        image.className = errors ? (i ? "" : "faint") : i ? "over" : "";
        Object.assign(image.style, {
          left: `${level.x}px`, top: `${level.y}px`,
          width: `${level.width * level.step}px`, height: `${level.height * level.step}px`,
        });
        world.append(image);
      }
    }
    const cross = el("div", { class: "cross" });
    const frames = parts.map((part, i) => el("div", { class: "frame", "data-number": i + 1 }));
    const stage = el("div", { class: "stage", style: `aspect-ratio:${width}/${height}` });
    stage.append(world, ...frames, cross);
    box.append(el("div", { class: "panel" }, el("span", {}, panel.title), stage));
    return { stage, world, frames, cross };
  });

  const at = { x: width / 2, y: height / 2, zoom: 1 };
  const told = el("output"), where = el("output");
  const size = () => [stages[0].stage.clientWidth, stages[0].stage.clientHeight];
  const fit = () => Math.min(size()[0] / width, size()[1] / height);

  function show() {
    const [w, h] = size();
    if (!w) return;
    at.zoom = Math.min(Math.max(at.zoom, 1), CLOSEST / fit());
    const scale = fit() * at.zoom;
    const clamp = (value, half, most) =>
      2 * half >= most ? most / 2 : Math.min(Math.max(value, half), most - half);
    at.x = clamp(at.x, w / 2 / scale, width);
    at.y = clamp(at.y, h / 2 / scale, height);
    const left = w / 2 - at.x * scale, top = h / 2 - at.y * scale;
    for (const { world, frames } of stages) {
      world.style.transform = `translate(${left}px,${top}px) scale(${scale})`;
      for (const image of world.children) {
        image.classList.toggle("pixels", scale * image.dataset.step > 1);
      }
      for (const [i, [x, y, side]] of parts.entries()) {
        Object.assign(frames[i].style, {
          left: `${left + x * scale}px`, top: `${top + y * scale}px`,
          width: `${side * scale}px`, height: `${side * scale}px`,
        });
      }
    }
    box.dataset.scale = scale;
    told.value = scale < 1
      ? `1 screen pixel shows ${(1 / scale).toFixed(1)} pixels`
      : `a pixel is ${scale.toFixed(1)} screen pixels wide`;
  }

  /* Zooms about a point of the stage (its middle by default), which stays where it is. */
  function zoomBy(factor, px = size()[0] / 2, py = size()[1] / 2) {
    const before = fit() * at.zoom;
    const after = Math.min(Math.max(before * factor, fit()), CLOSEST);
    at.x += (px - size()[0] / 2) * (1 / before - 1 / after);
    at.y += (py - size()[1] / 2) * (1 / before - 1 / after);
    at.zoom = after / fit();
    show();
  }

  function goTo(part) {
    const [x, y, side] = part || [0, 0, 0];
    Object.assign(at, part
      ? { x: x + side / 2, y: y + side / 2, zoom: Math.min(...size()) / side / fit() }
      : { zoom: 1 });
    show();
  }

  function move(dx, dy) {
    at.x -= dx / (fit() * at.zoom);
    at.y -= dy / (fit() * at.zoom);
    show();
  }

  for (const { stage } of stages) {
    let drag = null;
    const place = (event) => {
      const frame = stage.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      drag = place(event);
    });
    stage.addEventListener("pointerup", () => { drag = null; });
    stage.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      if (drag) {
        move(x - drag[0], y - drag[1]);
        drag = [x, y];
      }
      for (const other of stages) {
        Object.assign(other.cross.style, { left: `${x}px`, top: `${y}px`, display: "block" });
      }
      const scale = fit() * at.zoom, [w, h] = size();
      where.value = `column ${Math.floor(at.x + (x - w / 2) / scale)}, `
        + `row ${Math.floor(at.y + (y - h / 2) / scale)}`;
    });
    stage.addEventListener("pointerleave", () => {
      for (const other of stages) other.cross.style.display = "none";
      where.value = "";
    });
    stage.addEventListener("dblclick", (event) => zoomBy(2, ...place(event)));
    stage.addEventListener("wheel", (event) => {
      const active = document.activeElement === box || event.ctrlKey || event.metaKey;
      if (!active || (event.deltaY > 0 && at.zoom <= 1)) return; // the page scrolls
      event.preventDefault();
      zoomBy(2 ** (-event.deltaY / 240), ...place(event));
    }, { passive: false });
  }

  const far = 60;
  const keys = {
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: () => goTo(),
    ArrowLeft: () => move(far, 0), ArrowRight: () => move(-far, 0),
    ArrowUp: () => move(0, far), ArrowDown: () => move(0, -far),
  };
  parts.forEach((part, i) => { keys[i + 1] = () => goTo(part); });
  box.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });

  const button = (text, title, act) => {
    const node = el("button", { type: "button", title }, text);
    if (text.length === 1) node.setAttribute("aria-label", title);
    node.addEventListener("click", act);
    return node;
  };
  const tools = el(
    "div", { class: "tools" },
    button("Whole", "Key 0", () => goTo()),
    ...parts.map((part, i) => button(`Detail ${i + 1}`, `Key ${i + 1}`, () => goTo(part))),
    button("−", "Zoom out", () => zoomBy(1 / 1.5)),
    button("+", "Zoom in", () => zoomBy(1.5)),
    button("Enlarge", "Larger or smaller panels", (event) => {
      const large = box.closest(".card").classList.toggle("large");
      event.target.textContent = large ? "Shrink" : "Enlarge";
    }),
    told, where,
  );
  new ResizeObserver(show).observe(box);
  return [tools, box];
}
