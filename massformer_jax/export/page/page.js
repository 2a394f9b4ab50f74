/* Takes a photograph, has the worker label its pixels, and shows the classes in colour. */

const $ = (id) => document.getElementById(id);
const SIDES = [512, 768, 1024]; // of what a program for any size is shown, in pixels

const worker = new Worker("worker.js", { type: "module" });
let facts = null; // what export.json says
let photograph = null; // name, width and height of the one that is shown
let turn = 0; // counts photographs, so that late answers for an older one are dropped

function say(text, state = "") {
  document.body.dataset.state = state;
  $("status").textContent = text;
}

function context(id, width, height, settings) {
  $(id).width = width;
  $(id).height = height;
  $(id).hidden = false;
  return $(id).getContext("2d", { colorSpace: "srgb", ...settings });
}

/* Returns rows and columns that a photograph is shown to the network with. It is made smaller if
   it does not fit, and never larger. */
function shown(height, width) {
  const [rows, columns] = facts.input.size ?? Array(2).fill(Number($("side").value));
  const scale = Math.min(1, rows / height, columns / width);
  return [height, width].map((side) => Math.max(1, Math.round(side * scale)));
}

async function open(file) {
  if (!facts) return;
  const mine = ++turn;
  say(`Reading ${file.name}`, "working");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    say(`${file.name} is no picture that this browser reads.`, "failed");
    return;
  }
  if (mine !== turn) return;
  const [height, width] = shown(bitmap.height, bitmap.width);
  const canvas = context("photograph", width, height, { alpha: false, willReadFrequently: true });
  canvas.imageSmoothingQuality = "high";
  canvas.drawImage(bitmap, 0, 0, width, height);
  photograph = { name: file.name, width: bitmap.width, height: bitmap.height };
  bitmap.close();
  $("name").textContent = `${photograph.name}, ${photograph.width} × ${photograph.height}`;
  $("mask").hidden = $("empty").hidden = true;
  $("save").disabled = true;
  count(null);
  say(`Segmenting ${width} × ${height} pixels`, "working");
  const { data } = canvas.getImageData(0, 0, width, height);
  worker.postMessage({ turn: mine, pixels: data, height, width }, [data.buffer]);
}

function show({ labels, height, width, seconds }) {
  const canvas = context("mask", width, height);
  const image = canvas.createImageData(width, height);
  const colours = new Uint32Array(image.data.buffer);
  const table = facts.palette.map(([r, g, b]) => (0xff << 24 | b << 16 | g << 8 | r) >>> 0);
  for (let i = 0; i < labels.length; i++) colours[i] = table[labels[i]];
  canvas.putImageData(image, 0, 0);
  count(labels);
  $("save").disabled = false;
  say(`${width} × ${height} pixels in ${seconds.toFixed(1)} s`, "done");
}

/* Writes the share of each class; `null` for none. */
function count(labels) {
  const counts = new Array(facts.classes.length).fill(0);
  for (const label of labels ?? []) counts[label]++;
  [...$("classes").children].forEach((row, i) => {
    row.querySelector("output").value =
      labels ? `${(100 * counts[i] / labels.length).toFixed(1)} %` : "";
  });
}

function describe() {
  for (const [i, name] of facts.classes.entries()) {
    const row = document.createElement("li");
    row.innerHTML = "<i></i><span></span><output></output>";
    row.style.setProperty("--colour", `rgb(${facts.palette[i]})`);
    row.querySelector("span").textContent = name;
    $("classes").append(row);
  }
  for (const side of SIDES) $("side").add(new Option(`${side} pixels`, side));
  $("sized").hidden = facts.input.size !== null;
  $("choose").disabled = false;
}

/* Saves the mask with the photograph's own size, in the colours of the classes. */
async function save() {
  const { width, height, name } = photograph;
  const canvas = new OffscreenCanvas(width, height);
  const drawing = canvas.getContext("2d");
  drawing.imageSmoothingEnabled = false;
  drawing.drawImage($("mask"), 0, 0, width, height);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  link.download = `${name.replace(/\.[^.]*$/, "")}_mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

worker.onmessage = ({ data }) => {
  if (data.loading) say(data.loading);
  if (data.facts) {
    ({ facts } = data);
    describe();
    say("Ready");
  }
  if (data.turn === turn && data.labels) show(data);
  if (data.error && (data.turn ?? turn) === turn) say(data.error, "failed");
};
worker.onerror = () => say("worker.js could not be loaded. Serve this folder by http.", "failed");

$("choose").onclick = () => $("input").click();
$("input").onchange = () => {
  if ($("input").files.length) open($("input").files[0]);
  $("input").value = "";
};
$("save").onclick = save;
$("opacity").oninput = () => { $("mask").style.opacity = $("opacity").value / 100; };
$("opacity").oninput();
document.onpaste = (event) => {
  if (event.clipboardData.files.length) open(event.clipboardData.files[0]);
};
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}
