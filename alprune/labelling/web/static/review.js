// All labelled images by class, most suspect or newest first; a key corrects the selected one.
import {$, ask, percent, say, send, shared, take, tile} from "./common.js";

let shown = [];

export async function open(more = false) {
  const names = shared.state.classes.map((entry) => entry.name);
  const before = $("review-class").value;
  $("review-class").replaceChildren(new Option("any class", ""), ...names.map((name) => new Option(name, name)));
  $("review-class").value = names.includes(before) ? before : "";
  const query = new URLSearchParams({class: $("review-class").value, order: $("review-order").value,
    from: more ? shown.length : 0});
  let found;
  try {
    found = await ask("review", `review?${query}`);
  } catch (error) {
    return say(error.message);
  }
  if (!found) return;
  shown = more ? [...shown, ...found.images] : found.images;
  const tiles = found.images.map((image) => tile(image, described(image), image.suspect || Boolean(image.answers)));
  if (more) $("review").append(...tiles); else $("review").replaceChildren(...tiles);
  $("review-more").hidden = shown.length >= found.total;
  const order = $("review-order").value;
  $("review-said").textContent = order === "skipped"
    ? `${found.total} skipped. The key of a class labels the selected one.`
    : order === "disagreements"
    ? `${found.total} answered differently by two people. The first answer holds until you press the key of a class, or Enter to keep it.`
    : `${found.total} labelled, ${found.suspects} suspect`
      + (found.checked ? "" : " (labels are checked once every class has five)");
}

function described(image) {
  const said = (label) => label === null ? "skipped" : label;
  if (image.answers) return Object.entries(image.answers).map(([who, label]) => `${who}: ${said(label)}`).join("; ");
  return image.suspect ? `${image.label}; taken for ${image.predicted}, ${percent(image.probability)}` : said(image.label);
}

const selected = () => $("review").querySelector('.tile[aria-pressed="true"]');

export async function fix(label) {
  const entry = selected();
  if (!entry) return say("Select an image first.");
  const image = shown.find((one) => one.number === Number(entry.dataset.number));
  const wanted = label !== undefined ? label : image.answers ? image.label : image.predicted;
  if (!wanted && !image.answers) return;
  try {
    take(await send("answers", {labels: [{number: image.number, label: wanted}], review: true}));
    const next = entry.nextElementSibling;
    image.label = wanted;
    image.answers = null;
    entry.lastChild.textContent = wanted === null ? "skipped" : wanted;
    entry.lastChild.className = "";
    if (next) choose(next);
  } catch (error) {
    say(`Not saved. ${error.message}`);
  }
}

function choose(entry) {
  for (const other of $("review").children) other.setAttribute("aria-pressed", String(other === entry));
  entry.focus();
}

$("review").addEventListener("click", (event) => {
  const entry = event.target.closest(".tile");
  if (entry) choose(entry);
});
$("review-class").addEventListener("change", () => open());
$("review-order").addEventListener("change", () => open());
$("review-more").addEventListener("click", () => open(true));
