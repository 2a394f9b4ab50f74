"use strict";

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

let model = null; // classes, palette and limits
let photo = null; // the photograph that is shown: key, name, width, height, levels
let turn = 0; // counts photographs, so that late answers for an older one are dropped
let downloading = 0;
const shown = new Set(); // the labels that are switched on

const viewer = new Viewer($("view"), $("divider"), (scale) => {
  $("scale").value = `${Math.round(scale * 100)} %`;
});
viewer.hovered = (label) => { $("under").value = label === undefined ? "" : model.classes[label]; };

/* Asks the server, and throws an error with its line if it refuses. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start it again, and drop the photograph again.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answers ${answer.status}.`);
}

const json = async (path, options) => (await ask(path, options)).json();

function say(state, text, seconds = "") {
  $("work").dataset.state = state;
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").title = text; // it may be longer than the line
  $("seconds").textContent = seconds;
  $("progress").hidden = state !== "working";
}

/* Shows a line until it is closed, or something else is done; "" for none. */
function complain(text) {
  $("problem-told").textContent = text;
  $("problem").hidden = !text;
}

/* Sends a photograph, and shows what comes back of it. */
async function open(file) {
  complain("");
  if (!model) return;
  const name = file.name || "pasted.png";
  if (file.size > model.most_bytes) {
    complain(`${name} has ${Math.ceil(file.size / 1e6)} MB; the page takes up to `
      + `${model.most_bytes / 1e6} MB.`);
    return;
  }
  const mine = ++turn;
  const before = photo;
  say("working", `Reading ${name}`);
  $("progress").removeAttribute("value");
  try {
    const path = `photographs?name=${encodeURIComponent(name)}`;
    const found = await json(path, { method: "POST", body: file });
    if (mine !== turn) {
      ask(`photographs/${found.key}`, { method: "DELETE" }).catch(() => {});
      return;
    }
    // What is computed for the photograph before is in the way, unless a download waits for it.
    if (before && !downloading) {
      ask(`photographs/${before.key}`, { method: "DELETE" }).catch(() => {});
    }
    begin(found);
    await Promise.all([showPhotograph(mine), follow(mine)]);
  } catch (error) {
    if (mine !== turn) return;
    complain(error.message);
    // A refused photograph leaves the one before as it was.
    if (photo === before && before) say(before.state, before.told, before.seconds);
    else say(photo ? "failed" : "", photo ? "Stopped" : "");
  }
}

function begin(found) {
  photo = found;
  for (const id of ["view", "divider", "zoom"]) $(id).hidden = false;
  $("empty").hidden = true;
  $("name").textContent = $("name").title = found.name;
  $("size").textContent = `${found.width} × ${found.height}`;
  $("view").setAttribute("aria-label", `${found.name} with its classes in colour. Plus and minus `
    + "zoom, arrow keys move, 0 shows the whole, 1 every pixel.");
  viewer.begin(found.width, found.height);
  count(null);
  showDownloads();
}

async function showPhotograph(mine) {
  for (const level of photo.levels) {
    const answer = await ask(`photographs/${photo.key}/photograph.jpg?level=${level}`);
    const bitmap = await createImageBitmap(await answer.blob());
    if (mine !== turn) return;
    viewer.setPhoto(bitmap);
  }
}

/* Waits for the labels of each level, and shows them. */
async function follow(mine) {
  const have = new Set();
  while (mine === turn) {
    const status = await json(`photographs/${photo.key}`);
    if (mine !== turn) return;
    const level = status.levels.at(-1);
    if (level && !have.has(level)) {
      await showLabels(level, mine);
      have.add(level);
    }
    if (mine !== turn) return;
    tell(status);
    if (status.state === "done" || status.state === "failed") return;
    await pause(200);
  }
}

async function showLabels(level, mine) {
  const answer = await ask(`photographs/${photo.key}/labels?level=${level}`);
  const values = new Uint8Array(await answer.arrayBuffer());
  if (mine !== turn) return;
  const height = Number(answer.headers.get("X-Rows"));
  const labels = { values, width: values.length / height, height };
  viewer.setLabels(labels);
  count(labels);
}

/* Says how far the photograph is. */
function tell(status) {
  const { state, told, running, levels, ahead, expected } = status;
  const seconds = `${Math.floor(status.seconds)} s`;
  const bar = $("progress");
  if (expected && !told) bar.value = Math.min(0.98, status.seconds / expected);
  else bar.removeAttribute("value");
  const coarse = levels.includes("coarse") ? "Shown coarse. " : "";
  if (state === "waiting") {
    const others = ahead === 1 ? "one pass before it" : `${ahead} passes before it`;
    say("working", coarse + (ahead ? `Waiting for ${others}` : "Waiting"), seconds);
  } else if (state === "running") {
    const what = running === "coarse" ? "Looking at it coarse" : "Looking at every pixel";
    const wait = `${told} Only the first photograph of a size waits for this.`;
    say("working", coarse + (told ? wait : what), expected && !told
      ? `${seconds} of about ${Math.max(1, Math.round(expected))} s` : seconds);
  } else if (state === "done") {
    const full = told ? `Full resolution; ${told}` : "Full resolution";
    say("done", full, `${status.took.toFixed(1)} s`);
    photo.done = true;
  } else {
    say("failed", levels.length ? "Shown coarse: the pass over all pixels failed" : "Failed");
    complain(told);
  }
  if (state === "done" || state === "failed") {
    Object.assign(photo, {
      state, told: $("status").textContent, seconds: $("seconds").textContent,
    });
  }
  showDownloads();
}

/* Writes the share of each class beside it. */
function count(labels) {
  const counts = new Float64Array(256);
  if (labels) for (const label of labels.values) counts[label]++;
  for (const [label, row] of [...$("classes").children].entries()) {
    const share = labels ? counts[label] / labels.values.length : 0;
    row.style.setProperty("--share", share);
    row.querySelector("output").value = labels ? percent(share) : "";
  }
}

function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

function listClasses() {
  $("classes").replaceChildren(...model.classes.map((name, label) => {
    const row = document.createElement("li");
    const [red, green, blue] = model.palette[label];
    const light = 0.3 * red + 0.59 * green + 0.11 * blue > 140;
    row.style.setProperty("--colour", `rgb(${red} ${green} ${blue})`);
    row.style.setProperty("--tick", light ? "#000" : "#fff");
    const box = Object.assign(document.createElement("input"), { type: "checkbox" });
    box.addEventListener("change", () => choose(label, box.checked));
    const title = Object.assign(document.createElement("span"), { className: "name" });
    title.textContent = name;
    const only = Object.assign(document.createElement("button"), {
      type: "button", className: "only", textContent: "only",
    });
    only.setAttribute("aria-label", `Only ${name}`);
    only.addEventListener("click", () => chooseAll([label]));
    const wrap = document.createElement("label");
    wrap.append(box, title, document.createElement("output"));
    row.append(wrap, only);
    return row;
  }));
}

function choose(label, on) {
  if (on) shown.add(label);
  else shown.delete(label);
  showChoice();
}

function chooseAll(labels) {
  shown.clear();
  for (const label of labels) shown.add(label);
  showChoice();
}

/* Shows which classes are switched on: in the list, in the overlay, and for the downloads. */
function showChoice() {
  const colours = new Uint32Array(256); // as bytes: red, green, blue, opacity
  const bytes = new Uint8Array(colours.buffer);
  for (const [label, row] of [...$("classes").children].entries()) {
    const on = shown.has(label);
    row.classList.toggle("off", !on);
    row.querySelector("input").checked = on;
    if (on) bytes.set([...model.palette[label], 255], 4 * label);
  }
  viewer.setColours(colours);
  showDownloads();
}

const members = () => [...shown].sort((a, b) => a - b);

function showDownloads() {
  const names = members().map((label) => model.classes[label]);
  $("chosen").textContent = names.length
    ? `Alpha and cutout are of the classes that are switched on: ${names.join(" + ")}.`
    : "Switch a class on for alpha and cutout.";
  for (const button of document.querySelectorAll("[data-file]")) {
    const some = button.dataset.file === "labels.png" || names.length > 0;
    button.disabled = !photo?.done || !some || "busy" in button.dataset;
  }
}

/* Waits for a file and hands it to the browser, which saves it. */
async function download(button) {
  const told = button.querySelector("span");
  const text = told.textContent;
  const began = Date.now();
  const clock = setInterval(() => {
    told.textContent = `being computed: ${Math.round((Date.now() - began) / 1000)} s`;
  }, 1000);
  told.textContent = "being computed";
  button.dataset.busy = "";
  downloading++;
  showDownloads();
  complain("");
  try {
    const { file } = button.dataset;
    const answer = await ask(`photographs/${photo.key}/${file}?classes=${members().join(",")}`);
    const name = answer.headers.get("Content-Disposition").split("''")[1];
    const url = URL.createObjectURL(await answer.blob());
    const link = Object.assign(document.createElement("a"), {
      href: url, download: decodeURIComponent(name),
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    complain(error.message);
  } finally {
    clearInterval(clock);
    downloading--;
    told.textContent = text;
    delete button.dataset.busy;
    showDownloads();
  }
}

function listen() {
  for (const id of ["choose", "empty"]) $(id).addEventListener("click", () => $("input").click());
  $("input").addEventListener("change", () => {
    if ($("input").files.length) open($("input").files[0]);
    $("input").value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) open(event.clipboardData.files[0]);
  });
  let inside = 0; // elements of the page that a dragged file is over
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (hasFiles(event)) document.body.classList.toggle("dropping", ++inside > 0);
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event)) document.body.classList.toggle("dropping", --inside > 0);
  });
  document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    inside = 0;
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  $("in").addEventListener("click", () => viewer.zoomBy(1.5));
  $("out").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
  $("fit").addEventListener("click", () => viewer.fit());
  $("actual").addEventListener("click", () => viewer.actual());
  $("all").addEventListener("click", () => chooseAll(model.classes.keys()));
  $("none").addEventListener("click", () => chooseAll([]));
  $("opacity").addEventListener("input", showOpacity);
  $("close").addEventListener("click", () => complain(""));
  for (const button of document.querySelectorAll("[data-file]")) {
    button.addEventListener("click", () => download(button));
  }
}

function showOpacity() {
  $("opacity-told").value = `${$("opacity").value} %`;
  viewer.setOpacity($("opacity").value / 100);
}

async function start() {
  listen();
  try {
    model = await json("model");
  } catch (error) {
    complain(error.message);
    return;
  }
  $("model").textContent = model.name;
  $("model").title = model.name;
  $("limits").textContent = `${model.reads}, up to ${model.most_bytes / 1e6} MB and `
    + `${model.most_pixels / 1e6} megapixels. It is kept in the memory of the computer that serves `
    + "this page, and written nowhere.";
  listClasses();
  showOpacity();
  // The background is what belongs to no class, and mostly black in a palette.
  chooseAll([...model.classes.keys()].filter((label) => model.classes[label] !== "background"));
}

start();
