// Many at once: what the learner takes for one class, surest first; or what was selected on the map.
import {$, ask, element, hear, percent, say, send, shared, take, tile} from "./common.js";

const MOST = 2000;    // images that one request may name
let laid = null;      // what is shown: {class, left, images}; null until it has come
let selected = null;  // numbers of a selection, which stays whatever class is chosen for it
let turn = 0;         // counts what was opened
let painting = null;  // whether a drag marks or clears
let byMouse = false;  // what was pressed last

export async function open(name, numbers) {
  const chosen = list(name);
  turn += 1;
  laid = null;
  selected = chosen && numbers ? numbers : null;
  $("grid").replaceChildren();  // these were of another class, for which Enter would take them
  count();
  if (!chosen) {
    $("grid-said").textContent = "There is no class yet.";
    return;
  }
  const question = selected ? ["selected", {numbers: selected.slice(0, MOST)}]
    : [`grid?class=${encodeURIComponent(chosen)}`];
  let found;
  try {
    found = await ask("grid", ...question);
  } catch (error) {
    return say(error.message);
  }
  if (!found) return;
  laid = found;
  $("grid").replaceChildren(...laid.images.map((image) => tile(image,
    image.probability === null ? "" : percent(image.probability))));
  count();
}

// Choose a class: for the images of a selection, or to see those that are taken for it.
export function choose(name) {
  if (!selected || (laid && !laid.images.length)) return open(name);
  list(name);
  count();
}

function list(name) {
  const names = shared.state.classes.map((entry) => entry.name);
  const chosen = [name, $("grid-class").value].find((entry) => names.includes(entry)) || names[0];
  $("grid-class").replaceChildren(...names.map((entry) => new Option(entry, entry)));
  $("grid-class").value = chosen || "";
  return chosen;
}

function marked(value) {
  return [...$("grid").children].filter((entry) => entry.getAttribute("aria-pressed") === String(value))
    .map((entry) => Number(entry.dataset.number));
}

function count() {
  const right = marked(false).length;
  $("grid-done").disabled = !right;
  $("grid-done").replaceChildren(element("kbd", {textContent: "Enter"}), `Label ${right} as ${$("grid-class").value}`);
  $("grid-said").textContent = laid ? said($("grid").children.length) : "";
}

function said(shown) {
  if (selected) {
    const all = laid.left + Math.max(0, selected.length - MOST);
    return shown ? `${shown} of ${all} selected. Choose their class, click or drag over those of another one, then Enter.`
      : "All that were selected have answers, or are asked about one at a time.";
  }
  return shown ? "Click or drag over those that are wrong, then Enter."
    : "The learner takes no open image for this class yet: label a few more one by one.";
}

export async function done() {
  const right = marked(false), wrong = marked(true), tiles = [...$("grid").children];
  if (!right.length) return;
  const label = $("grid-class").value, before = laid;
  const more = selected && (laid.left > tiles.length || selected.length > MOST);  // else the others have answers
  const rest = more && selected.filter((number) => !right.includes(number) && !wrong.includes(number));
  const mine = turn += 1;
  laid = null;
  $("grid").replaceChildren();
  count();
  try {
    take(await send("answers", {
      labels: right.map((number) => ({number, label})), set_aside: wrong, fresh: true,
    }, {keepalive: true}));
    hear(`${right.length} labelled as ${label}.`);
    if (mine !== turn) return;  // something else was opened meanwhile
    await (rest && rest.length ? open(undefined, rest) : open(label));
  } catch (error) {
    say(`Not saved. ${error.message}`);
    if (mine !== turn) return;
    laid = before;
    $("grid").replaceChildren(...tiles);
    count();
  }
}

function mark(entry, value) {
  if (!entry || !entry.classList.contains("tile")) return;
  entry.setAttribute("aria-pressed", String(value));
  count();
}

// A mouse marks at once, and what it is dragged over. A finger that comes down may begin to scroll.
$("grid").addEventListener("pointerdown", (event) => {
  const entry = event.target.closest(".tile");
  byMouse = event.pointerType === "mouse";
  if (!entry || !byMouse) return;
  painting = entry.getAttribute("aria-pressed") === "false";
  mark(entry, painting);
});
$("grid").addEventListener("click", (event) => {
  const entry = event.target.closest(".tile");
  if (!entry || (byMouse && event.detail)) return;  // detail 0: by a key or a screen reader
  mark(entry, entry.getAttribute("aria-pressed") === "false");
});
$("grid").addEventListener("pointermove", (event) => {
  if (painting === null || !event.buttons) return;
  const under = document.elementFromPoint(event.clientX, event.clientY);
  mark(under && under.closest("#grid .tile"), painting);
});
window.addEventListener("pointerup", () => { painting = null; });
$("grid-class").addEventListener("change", () => choose($("grid-class").value));
$("grid-done").addEventListener("click", done);
