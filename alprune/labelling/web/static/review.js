// All labelled images by class, most suspect or newest first; a key corrects the selected one.
import {$, ask, percent, say, send, shared, take, tile} from "./common.js";

let shown = [];
let fixed = 0;  // of those shown: they may have left the places that they had in the order

export async function open(more = false) {
  const names = shared.state.classes.map((entry) => entry.name);
  const before = $("review-class").value;
  $("review-class").replaceChildren(new Option("any class", ""), ...names.map((name) => new Option(name, name)));
  $("review-class").value = names.includes(before) ? before : "";
  const known = new Set(more ? shown.map((image) => image.number) : []);
  let start = more ? shown.length - fixed : 0, found, images;
  do {
    const query = new URLSearchParams({class: $("review-class").value, order: $("review-order").value, from: start});
    try {
      found = await ask("review", `review?${query}`);
    } catch (error) {
      return say(error.message);
    }
    if (!found) return;
    start += found.images.length;
    images = found.images.filter((image) => !known.has(image.number));
  } while (!images.length && found.images.length);
  if (!more) fixed = 0;
  shown = more ? [...shown, ...images] : images;
  const tiles = images.map((image) => tile(image, described(image), image.suspect || Boolean(image.answers)));
  if (more) $("review").append(...tiles); else $("review").replaceChildren(...tiles);
  $("review-more").hidden = start >= found.total;
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

// Enter, without a label, takes what the tile shows: the first of two answers, or the learner's doubt.
function meant(image) {
  if (image.answers) return image.label;
  return image.suspect ? image.predicted : undefined;
}

export async function fix(label) {
  const entry = selected();
  if (!entry) return say("Select an image first.");
  const image = shown.find((one) => one.number === Number(entry.dataset.number));
  const wanted = label !== undefined ? label : meant(image);
  if (wanted === undefined) return say("The learner does not doubt this one. The key of a class corrects it.");
  try {
    take(await send("answers", {
      labels: [{number: image.number, label: wanted}], review: true, shown: [image.label],
    }, {keepalive: true}));
    const next = entry.nextElementSibling;
    if (!image.fixed) fixed += 1;
    Object.assign(image, {label: wanted, answers: null, suspect: false, fixed: true});
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
