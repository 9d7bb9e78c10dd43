// The page: views, keys, the status line, the dialogs.
import {$, begin, element, hear, percent, say, send, shared, take, telling} from "./common.js";
import * as label from "./label.js";
import * as grid from "./grid.js";
import * as review from "./review.js";
import * as map from "./map.js";

const POLL_MS = 1500;
const VIEWS = ["label", "grid", "review", "map"];

function go(view, ...details) {
  const before = shared.view;
  shared.view = view;
  for (const name of VIEWS) {
    $(`${name}-view`).hidden = name !== view;
    $(`to-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  for (const id of ["skip", "back", "undo", "hint"]) $(id).hidden = view !== "label";
  if (view !== "label") $("accept").hidden = true;
  if (view === "label") label.receive(shared.state, before !== "label");
  if (view === "grid") grid.open(...details);
  if (view === "review") review.open();
  if (view === "map") map.open((numbers) => go("grid", undefined, numbers));
}

function status(state) {
  const round = state.round.of ? `, ${state.round.done} of ${state.round.of} in this round` : "";
  let text = `${state.labelled.toLocaleString()} of ${state.pool.toLocaleString()} labelled${round}`;
  const found = state.accuracy;
  if (found) {
    const ends = `${Math.round(100 * found.low)} to ${Math.round(100 * found.high)}`;
    text += `; estimated accuracy ${percent(found.value)} (${ends})`;
  }
  $("status").textContent = text;
  $("progress").max = Math.max(1, state.round.of);
  $("progress").value = state.round.done;
}

function classes(state) {
  const key = JSON.stringify(state.classes.map((entry) => [entry.name, entry.key]));
  if ($("classes").dataset.key !== key) {
    $("classes").dataset.key = key;
    $("classes").replaceChildren(...state.classes.map(classButton));
    $("names").replaceChildren(...state.classes.map((entry) => new Option(entry.name, entry.name)));
  }
  $("none").hidden = state.classes.length > 0;
  [...$("classes").children].forEach((button, place) => {
    button.querySelector(".count").textContent = state.classes[place].count || "";
  });
}

function classButton(entry) {
  const button = element("button", {type: "button"});
  button.dataset.name = entry.name;
  if (entry.key) {
    button.append(element("kbd", {textContent: entry.key, ariaHidden: "true"}));
    button.setAttribute("aria-keyshortcuts", entry.key);
  }
  button.append(entry.name, element("span", {className: "count", ariaHidden: "true"}));
  button.addEventListener("click", () => pick(entry.name));
  return button;
}

function pick(name) {
  if (shared.view === "label") label.answer(name);
  else if (shared.view === "grid") grid.choose(name);
  else if (shared.view === "review") review.fix(name);
}

shared.listeners.push(status, classes, (state) => { if (shared.view === "label") label.receive(state); });

// --- dialogs ----------------------------------------------------------------------------------

function about() {
  const state = shared.state;
  const facts = [...Object.entries(state.learnt).map(([title, text]) => `${title}: ${text}`)];
  if (state.expected) {
    const gain = state.expected;
    facts.unshift(`the next ${gain.labels} labels are expected to bring ${signed(gain.gain)} points `
      + `(${signed(gain.low)} to ${signed(gain.high)})`);
  }
  if (state.skipped) facts.push(`${state.skipped} skipped`);
  const people = Object.entries(state.people).map(([name, count]) => `${name} ${count}`);
  if (people.length) facts.push(`answers by ${people.join(", ")}`);
  if (state.agreement) facts.push(`agreement: ${state.agreement.said}`);
  facts.push(`${state.here} answered here${state.user ? `, as ${state.user}` : ""}`);
  if (state.working) facts.push(`${state.working}...`);
  if (state.why_stop) facts.unshift(`the stop rule is met: ${state.why_stop}`);
  if (state.stop) facts.unshift(state.stop);
  $("facts").replaceChildren(...facts.map((text) => element("li", {textContent: text})));
  curve(state.curve);
  $("about").showModal();
}

const signed = (share) => `${share >= 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(1)}`;

function curve(entries) {
  const svg = $("curve"), space = "http://www.w3.org/2000/svg";
  svg.replaceChildren();
  if (entries.length < 2) return svg.setAttribute("hidden", "");
  svg.removeAttribute("hidden");
  const most = Math.max(...entries.map((entry) => entry.labels));
  const x = (labels) => 30 + 280 * labels / most, y = (share) => 105 - 95 * share;
  const add = (kind, values) => {
    const made = document.createElementNS(space, kind);
    for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
    return svg.appendChild(made);
  };
  for (const share of [0, 0.5, 1]) {
    add("line", {x1: 30, x2: 310, y1: y(share), y2: y(share), stroke: "currentColor", "stroke-opacity": 0.25});
    add("text", {x: 2, y: y(share) + 3}).textContent = percent(share);
  }
  for (const entry of entries) {
    add("line", {x1: x(entry.labels), x2: x(entry.labels), y1: y(entry.low), y2: y(entry.high),
      stroke: "currentColor", "stroke-opacity": 0.45});
  }
  add("polyline", {points: entries.map((entry) => `${x(entry.labels)},${y(entry.value)}`).join(" "),
    fill: "none", stroke: "currentColor", "stroke-width": 1.5});
  add("text", {x: 250, y: 118}).textContent = `${most} labels`;
}

function edit() {
  $("editing").replaceChildren(...shared.state.classes.map((entry) => {
    const key = element("input", {value: entry.key || "", maxLength: 1, className: "key", ariaLabel: `Key of ${entry.name}`});
    const name = element("input", {value: entry.name, maxLength: 100, ariaLabel: `Name of ${entry.name}`});
    const remove = element("button", {type: "button", textContent: "Remove", disabled: entry.count > 0});
    key.addEventListener("change", () => change("key", {name: entry.name, key: key.value}));
    name.addEventListener("change", () => rename(entry.name, name.value.trim()));
    remove.addEventListener("click", () => change("remove", {name: entry.name}));
    return element("tr", {}, ...[key, name, String(entry.count), remove].map((part) => element("td", {}, part)));
  }));
  $("edit-note").textContent = "";
  if (!$("editor").open) $("editor").showModal();
}

async function rename(name, to) {
  if (!to || to === name) return;
  const merges = shared.state.classes.some((entry) => entry.name === to);
  const asked = `Merge "${name}" into "${to}"? All its labels become "${to}", and z does not split them again: `
    + "a copy of labels.csv that you make before does (alprune tell DIR COPY --replace --new-classes).";
  if (merges && !window.confirm(asked)) return edit();
  await change("rename", {name, to});
}

async function change(what, body) {
  const fields = () => [...$("editing").querySelectorAll("input, button")];
  let failed = "";
  try {
    take(await send(what, body));
  } catch (error) {
    failed = error.message;
  }
  const place = fields().indexOf(document.activeElement);
  edit();
  if (fields()[place]) fields()[place].focus();
  $("edit-note").textContent = failed;
}

// --- classes by name --------------------------------------------------------------------------

async function named(event) {
  event.preventDefault();
  const name = $("name").value.trim();
  if (!name) return;
  let known = shared.state.classes.find((entry) => entry.name.toLowerCase() === name.toLowerCase());
  if (!known) {
    if (!window.confirm(`Add the class "${name}"?`)) return;
    try {
      take(await send("class", {name}));
      hear(`Class ${name} added.`);
    } catch (error) {
      return say(error.message);
    }
    known = {name};
  }
  $("name").value = "";
  $("name").blur();
  pick(known.name);
}

// --- keys -------------------------------------------------------------------------------------

const KEYS = {
  label: {s: () => label.answer(null), z: label.undo, g: label.toggleGuesses, a: label.toggleTogether,
    Enter: label.accept, ArrowLeft: label.back, Backspace: label.back, ArrowRight: label.forward,
    "+": () => label.zoomBy(1.5), "=": () => label.zoomBy(1.5), "-": () => label.zoomBy(1 / 1.5), ".": label.onePixel},
  grid: {Enter: grid.done},
  review: {Enter: () => review.fix()},
  map: {},
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !shared.state) return;
  if (document.querySelector("dialog[open]")) return;
  const inField = ["INPUT", "SELECT"].includes(event.target.tagName);
  if (inField) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.repeat) return;  // a key held down is one answer
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const own = KEYS[shared.view][key];
  const chosen = shared.state.classes.find((entry) => entry.key === key);
  const button = event.target.tagName === "BUTTON" && !event.target.classList.contains("tile");
  if (key === "Enter" && button && event.target.id !== `to-${shared.view}`) return;
  if (own) own();
  else if (key === "n") $("name").focus();
  else if (key === "?") about();
  else if (chosen) pick(chosen.name);
  else return;
  event.preventDefault();
});

for (const view of VIEWS) $(`to-${view}`).addEventListener("click", () => go(view));
$("help").addEventListener("click", about);
$("edit").addEventListener("click", edit);
$("skip").addEventListener("click", () => label.answer(null));
$("back").addEventListener("click", label.back);
$("undo").addEventListener("click", label.undo);
$("hint").addEventListener("click", label.toggleGuesses);
$("accept").addEventListener("click", label.accept);
$("adding").addEventListener("submit", named);

let next;

async function poll() {
  if (!document.hidden && !label.waiting()) {
    try {
      const state = await send("state");
      if (!label.waiting()) take(state);
    } catch (error) {
      if (!telling()) say(error.message);
    }
  }
  clearTimeout(next);  // one goes on although a page that was left is returned to
  next = setTimeout(poll, POLL_MS);
}
window.addEventListener("pagehide", () => {
  label.leave();
  send("leave", {}, {keepalive: true}).catch(() => {});
});
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  begin();  // the window that it was has been closed
  poll();
});
poll();
