"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const comparing = data.runs.length === 2;
const text = (value) => (value === null ? "-" : value.toFixed(2));
const signed = (value) => (value > 0 ? "+" : "") + text(value);
const byPanel = data.panels.filter(({ layers }) => layers.length);

/* What is chosen: a score, a class, and in a comparison whether better or worse. */
const chosen = () => ({
  measure: Number($("measure").value),
  kind: Number($("class").value),
  better: comparing && $("direction").value === "1",
});

const score = (run, measure, i, kind) => data.scores[run][measure][i][kind];

function change(measure, i, kind) {
  const [before, after] = [score(0, measure, i, kind), score(1, measure, i, kind)];
  return before === null || after === null ? null : after - before;
}

/* The columns of the table of images, and of what is written above a picture. */
function columns() {
  const { measure, kind } = chosen();
  if (!comparing) {
    return data.measures.map((title, m) => ({ title, value: (i) => score(0, m, i, kind) }));
  }
  return [
    ...data.runs.map((title, run) => ({ title, value: (i) => score(run, measure, i, kind) })),
    { title: "change", value: (i) => change(measure, i, kind), signed: true },
  ];
}

/* Images, least first; those without the score last. */
function ranked(value, up = true) {
  const sign = up ? 1 : -1;
  return data.names.map((_, i) => i).sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y) || a - b;
  });
}

function card(i, rank) {
  const name = data.names[i];
  const node = el("article", { class: "card", "data-name": name });
  const told = el("div", { class: "told" });
  for (const column of columns()) {
    const value = column.value(i);
    told.append(`${column.title} `, el("b", {}, column.signed ? signed(value) : text(value)));
  }
  const picture = data.pictures[name];
  if (picture) told.append(`${picture.width} × ${picture.height}`);
  node.append(el("h4", {}, rank ? `${rank}. ${name}` : name), told);
  if (picture) {
    const has = picture.levels[0].layers;
    const panels = byPanel.filter(({ layers }) => has[layers[layers.length - 1]]);
    if (!has.photo) node.classList.add("plain");
    node.append(...viewer(picture, panels));
  } else {
    node.append(el("p", { class: "note" }, "This page has no picture of it."));
  }
  return node;
}

function heading() {
  const { measure, kind, better } = chosen();
  const what = `${data.measures[measure]} of ${data.classes[kind]}`;
  if (!comparing) return `Worst by ${what}`;
  return `${better ? "Gained" : "Lost"} most in ${what}`;
}

function showWorst() {
  const { measure, kind, better } = chosen();
  const value = comparing ? (i) => change(measure, i, kind) : (i) => score(0, measure, i, kind);
  const worst = ranked(value, !better).filter((i) => {
    if (value(i) === null) return false;
    return !comparing || (better ? value(i) > 0 : value(i) < 0);
  });
  $("shown").textContent = worst.length ? heading() : `${heading()}: none`;
  $("cards").replaceChildren(...worst.slice(0, data.worst).map((i, n) => card(i, n + 1)));
}

function showOne(i) {
  const back = el("button", { type: "button" }, "Back to the list");
  back.addEventListener("click", showWorst);
  $("shown").replaceChildren("Chosen image ", back);
  $("cards").replaceChildren(card(i));
  $("shown").scrollIntoView();
}

const sorted = { column: null, up: true };

function showTable() {
  const table = $("images");
  const shown = columns();
  const { measure } = chosen();
  const standard = comparing ? 2 : measure;
  const key = sorted.column === null || sorted.column >= shown.length ? standard : sorted.column;
  const head = el("tr");
  ["image", ...shown.map(({ title }) => title)].forEach((title, c) => {
    const button = el("button", { type: "button" }, title);
    const up = c - 1 === key ? (sorted.up ? "ascending" : "descending") : "none";
    button.addEventListener("click", () => {
      Object.assign(sorted, { column: c - 1, up: c - 1 === key ? !sorted.up : true });
      showTable();
    });
    head.append(el("th", { scope: "col", "aria-sort": up }, button));
  });
  table.tHead.replaceChildren(head);
  const wanted = $("filter").value.toLowerCase();
  const order = key < 0
    ? data.names.map((_, i) => i).sort((a, b) =>
      (sorted.up ? 1 : -1) * data.names[a].localeCompare(data.names[b]))
    : ranked(shown[key].value, sorted.up);
  const rows = order.filter((i) => data.names[i].toLowerCase().includes(wanted)).map((i) => {
    const name = data.names[i];
    const title = el("th", { scope: "row" });
    if (data.pictures[name]) {
      const button = el("button", { type: "button", class: "link" }, name);
      button.addEventListener("click", () => showOne(i));
      title.append(button);
    } else title.append(name);
    const cells = shown.map((column) => {
      const value = column.value(i);
      const cell = el("td", {}, column.signed ? signed(value) : text(value));
      if (column.signed && value) cell.className = value > 0 ? "better" : "worse";
      return cell;
    });
    return el("tr", {}, title, ...cells);
  });
  table.tBodies[0].replaceChildren(...rows);
  $("matching").value = `${rows.length} of ${data.names.length} images`;
}

for (const id of ["measure", "class", "direction"]) {
  $(id)?.addEventListener("change", () => { sorted.column = null; showWorst(); showTable(); });
}
$("filter").addEventListener("input", showTable);
$("mix").addEventListener("input", (event) => {
  document.documentElement.style.setProperty("--mix", event.target.value / 100);
});
$("normalised")?.addEventListener("change", (event) => {
  for (const cell of $("confusion").querySelectorAll("tbody td")) {
    const [shown, heat] = cell.dataset[event.target.value].split("|");
    cell.textContent = shown;
    cell.style.setProperty("--heat", heat);
  }
});
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = $(button.dataset.copy);
    getSelection().selectAllChildren(source); // where pages may not write to the clipboard
    await navigator.clipboard?.writeText(source.textContent).catch(() => {});
    button.textContent = "Copied";
  });
}
showWorst();
showTable();
