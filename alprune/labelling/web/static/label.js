// One image at a time. An answer advances at once; what is sent is confirmed in order behind it.
import {$, ask, hear, percent, say, send, shared, take, element, unsay} from "./common.js";

const LATE_MS = 5000;  // after which the person should know that an answer is still on its way
let upcoming = [];    // images to come; the first is on the stage, unless an answer is revisited
let revisited = null; // the image of an earlier answer that is on the stage
let past = [];        // numbers of the answers, latest first, as they were when the person went back
let place = -1;       // its place there
let unsent = [];      // answers on their way
let sending = false;
let guesses = true;
let together = true;  // images that look the same get the same answer
let zoom = 1, shift = [0, 0];

const current = () => revisited || upcoming[0] || null;

// `returning`: from another view, where the person may have answered the image that was here.
export function receive(state, returning = false) {
  const given = new Set(unsent.flatMap((entry) => entry.labels.map((label) => label.number)));
  const images = [state.image, ...state.ahead].filter((image) => image && !given.has(image.number));
  const first = upcoming[0];
  upcoming = images;
  if (first && !returning && !state.stopped && !given.has(first.number)
    && !images.some((image) => image.number === first.number)) {
    say("The image that was here is answered, or went to somebody else. This is another one.");
  }
  // The image that a person looks at stays in front.
  if (first && !given.has(first.number) && images.some((image) => image.number === first.number)) {
    upcoming = [images.find((image) => image.number === first.number),
      ...images.filter((image) => image.number !== first.number)];
  }
  show();
}

function show() {
  const state = shared.state, image = current();
  const stage = $("image"), source = image ? `image/${image.number}` : "";
  if (!image) shared.broken = "";
  if (image && stage.getAttribute("src") !== source) {
    shared.broken = "";
    stage.src = source;
    stage.alt = `${image.path}, to be labelled`;
    reset();
  }
  stage.hidden = !image;
  $("stopped").hidden = !state.stopped;
  if (state.stopped) $("why-stop").textContent = `The stop rule is met: ${state.why_stop}. You may close this page, or continue.`;
  $("waiting").hidden = Boolean(image) || state.stopped;
  $("waiting").textContent = state.finished || state.message || (state.working ? `${state.working}...`
    : state.round.done < state.round.of ? "Others have the last images of this round. New ones come soon." : "Loading...");
  $("caption").textContent = image ? image.path : "";
  $("past").hidden = !revisited;
  for (const next of upcoming.slice(1)) new Image().src = `image/${next.number}`;
  const guess = visibleGuess();
  $("guess").hidden = !guess;
  $("accept").hidden = !guess;
  if (guess) {
    $("guess").textContent = `${guess.class}, ${percent(guess.probability)}`;
    $("accept").lastChild.textContent = guess.class;
  }
  $("skip").disabled = !image;
  $("back").disabled = place + 1 >= (revisited ? past : state.past).length;
  $("undo").disabled = !state.here;
  for (const button of $("classes").children) {
    const chosen = Boolean(image && image.answer && image.answer.label === button.dataset.name);
    button.disabled = !image;
    button.classList.toggle("chosen", chosen);
    button.setAttribute("aria-pressed", String(chosen));
  }
  showAlike(image);
}

function visibleGuess() {
  const image = current();
  return guesses && image && image.guess && image.guess.confident && !image.answer ? image.guess : null;
}

function showAlike(image) {
  const alike = image && !image.answer ? image.also || [] : [];
  $("alike").hidden = !alike.length;
  $("alike").classList.toggle("off", !together);
  if (!alike.length) return;
  const said = together ? `${alike.length} that look the same get the same answer (a: one by one)`
    : `${alike.length} that look the same are answered one by one (a: together)`;
  $("alike").replaceChildren(element("span", {textContent: said}),
    ...alike.map((number) => element("img", {src: `thumb/${number}`, alt: ""})));
}

export function answer(label) {
  const image = current();
  if (!image) return;
  const also = together && !image.answer ? image.also || [] : [];
  const labels = [image.number, ...also].map((number) => ({number, label}));
  const fresh = !image.answer;
  if (revisited) {
    revisited.answer = {label};
    forward();
  } else {
    const done = new Set(labels.map((entry) => entry.number));
    upcoming = upcoming.filter((entry) => !done.has(entry.number));
    show();
  }
  unsent.push({labels, image, fresh});
  hear(label === null ? "Skipped." : `${label}.`);
  flush();
}

async function flush() {
  if (sending) return;
  sending = true;
  while (unsent.length) {
    const late = setTimeout(() => say("Not saved yet: alprune is slow, or out of reach. Wait a moment."), LATE_MS);
    try {
      const state = await sent(unsent[0]);
      unsent.shift();
      unsay();
      take(state);
    } catch (error) {
      const lost = unsent.filter((entry) => entry.fresh).map((entry) => entry.image);
      const count = unsent.length;
      unsent = [];
      upcoming = [...lost, ...upcoming];
      show();
      const which = count === 1 ? "The last answer" : `The last ${count} answers`;
      const how = error.unanswered ? "may not be saved" : count === 1 ? "was not saved" : "were not saved";
      say(`${which} ${how}. ${error.message}`);
    } finally {
      clearTimeout(late);
    }
  }
  sending = false;
}

// Kept alive: the answer arrives although the page has been closed meanwhile.
const sent = ({labels, fresh}) => send("answers", {labels, fresh}, {keepalive: true});

export const waiting = () => unsent.length > 0;

// The page closes: send what is left, for nobody will be here to send it later.
export function leave() {
  for (const entry of unsent.splice(sending ? 1 : 0)) sent(entry).catch(() => {});
}

export function accept() {
  const guess = visibleGuess();
  if (guess) answer(guess.class);
}

export async function back() {
  if (unsent.length) return;
  if (!revisited) past = shared.state.past;  // a correction is the latest answer, and would change it
  if (place + 1 >= past.length) return;
  await visit(place + 1);
}

export async function forward() {
  if (!revisited) return;
  if (place === 0) {
    revisited = null;
    place = -1;
    show();
  } else {
    await visit(place - 1);
  }
}

async function visit(where) {
  const before = place;
  place = where;  // at once: a key that is pressed before the image comes goes on from there
  try {
    const found = await ask("label", `answered/${past[where]}`);
    if (!found || place !== where) return;
    revisited = found;
    show();
  } catch (error) {
    if (place === where) place = before;
    say(error.message);
  }
}

export async function undo() {
  if (unsent.length || !shared.state.here) return;
  revisited = null;
  place = -1;
  try {
    upcoming = [];
    take(await send("undo", {}));
    hear("Taken back.");
  } catch (error) {
    say(`Not taken back. ${error.message}`);
  }
}

$("continue").addEventListener("click", async () => {
  try {
    take(await send("continue", {}));
  } catch (error) {
    say(error.message);
  }
});

export function toggleGuesses() {
  guesses = !guesses;
  $("hint").setAttribute("aria-pressed", String(guesses));
  show();
}

export function toggleTogether() {
  together = !together;
  show();
}

// --- zoom -------------------------------------------------------------------------------------

function reset() {
  zoom = 1;
  shift = [0, 0];
  draw();
}

function draw() {
  $("image").style.transform = zoom === 1 ? "" : `translate(${shift[0]}px, ${shift[1]}px) scale(${zoom})`;
  $("image").classList.toggle("moved", zoom !== 1);
}

export function zoomBy(factor) {
  zoom = Math.min(32, Math.max(1, zoom * factor));
  if (zoom === 1) shift = [0, 0];
  draw();
}

export function onePixel() {
  const image = $("image");
  if (zoom !== 1) return reset();
  const fitted = Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
  zoom = Math.max(1, 1 / (fitted * window.devicePixelRatio));
  draw();
}

let dragged = null;
$("image").addEventListener("dblclick", onePixel);
$("image").addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2);
}, {passive: false});
$("image").addEventListener("pointerdown", (event) => {
  if (zoom === 1) return;
  dragged = [event.clientX - shift[0], event.clientY - shift[1]];
  $("image").setPointerCapture(event.pointerId);
});
$("image").addEventListener("pointermove", (event) => {
  if (!dragged) return;
  shift = [event.clientX - dragged[0], event.clientY - dragged[1]];
  draw();
});
for (const end of ["pointerup", "pointercancel"]) $("image").addEventListener(end, () => { dragged = null; });
$("image").addEventListener("error", () => {
  shared.broken = "This image cannot be read or is gone. Skip it (s).";
  say("");
});
