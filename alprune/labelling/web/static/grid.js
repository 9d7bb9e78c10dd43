// Many at once: the images that the learner takes for one class, surest first.
import {$, ask, element, hear, percent, say, send, shared, take, tile} from "./common.js";

let laid = null;      // what is shown: {class, images}
let painting = null;  // whether a drag marks or clears

export async function open(name, numbers) {
  const names = shared.state.classes.map((entry) => entry.name);
  const chosen = name || $("grid-class").value || names[0];
  $("grid-class").replaceChildren(...names.map((entry) => new Option(entry, entry)));
  if (!chosen) {
    $("grid-said").textContent = "There is no class yet.";
    return;
  }
  $("grid-class").value = chosen;
  const question = numbers ? ["selected", {numbers}] : [`grid?class=${encodeURIComponent(chosen)}`];
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

function count() {
  const tiles = [...$("grid").children];
  const right = tiles.filter((entry) => entry.getAttribute("aria-pressed") === "false").length;
  $("grid-done").disabled = !right;
  $("grid-done").replaceChildren(element("kbd", {textContent: "Enter"}), `Label ${right} as ${$("grid-class").value}`);
  $("grid-said").textContent = tiles.length
    ? "Click or drag over those that are wrong, then Enter."
    : "The learner takes no open image for this class yet: label a few more one by one.";
}

export async function done() {
  const right = [...$("grid").children].filter((entry) => entry.getAttribute("aria-pressed") === "false");
  if (!right.length) return;
  const label = $("grid-class").value;
  const wrong = [...$("grid").children].filter((entry) => entry.getAttribute("aria-pressed") === "true");
  $("grid-done").disabled = true;
  try {
    take(await send("answers", {
      labels: right.map((entry) => ({number: Number(entry.dataset.number), label})),
      set_aside: wrong.map((entry) => Number(entry.dataset.number)), fresh: true,
    }));
    hear(`${right.length} labelled as ${label}.`);
    await open(label);
  } catch (error) {
    say(`Not saved. ${error.message}`);
    count();
  }
}

function mark(entry, value) {
  if (!entry || !entry.classList.contains("tile")) return;
  entry.setAttribute("aria-pressed", String(value));
  count();
}

$("grid").addEventListener("pointerdown", (event) => {
  const entry = event.target.closest(".tile");
  if (!entry) return;
  painting = entry.getAttribute("aria-pressed") === "false";
  mark(entry, painting);
});
$("grid").addEventListener("pointermove", (event) => {
  if (painting === null || !event.buttons) return;
  const under = document.elementFromPoint(event.clientX, event.clientY);
  mark(under && under.closest("#grid .tile"), painting);
});
window.addEventListener("pointerup", () => { painting = null; });
$("grid").addEventListener("keydown", (event) => {
  if (event.key !== " ") return;
  event.preventDefault();
  mark(event.target, event.target.getAttribute("aria-pressed") === "false");
});
$("grid-class").addEventListener("change", () => open($("grid-class").value));
$("grid-done").addEventListener("click", done);
