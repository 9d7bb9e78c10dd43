// What the views share: the state of the server, requests, messages.
export const $ = (id) => document.getElementById(id);

const TOLD_MS = 10_000;
const STALLED_MS = 120_000;  // after which a phone that left the network has no answer to wait for
export const shared = {state: null, view: "label", listeners: [], broken: ""};

// Each window gets images of its own, so that two windows or people do not answer the same one.
const WINDOW = {};

export function begin() { WINDOW["X-Window"] = Math.random().toString(36).slice(2); }

begin();

export async function send(what, body, more = {}) {
  const options = body === undefined ? {headers: WINDOW} : {
    method: "POST", headers: {...WINDOW, "Content-Type": "application/json"}, body: JSON.stringify(body), ...more,
  };
  let response, content = {};
  try {
    options.signal = AbortSignal.timeout?.(STALLED_MS);  // old browsers have none
    response = await fetch(what, options);
    content = await response.json();
  } catch {
    if (!response || response.ok) throw Object.assign(new Error("alprune does not answer: was it stopped, or has this "
      + "device left the network? Saved answers are safe. Start it again with alprune label, and open the address that it "
      + "prints."), {unanswered: true});
  }
  if (!response.ok) throw new Error(content.error || `The server answered ${response.status}.`);
  return content;
}

// Answers may arrive in another order than their questions: the last question of a view counts,
// and earlier ones come to nothing (null).
const questions = {};

export async function ask(view, ...question) {
  const number = questions[view] = (questions[view] || 0) + 1;
  try {
    const answer = await send(...question);
    return number === questions[view] ? answer : null;
  } catch (error) {
    if (number === questions[view]) throw error;
    return null;
  }
}

export function take(state) {
  shared.state = state;
  for (const listener of shared.listeners) listener(state);
  say(state.notice || "");
}

// A message stays for a while, though the state is fetched meanwhile; that the image on the stage
// is broken, as long as it is there.
let told = "", until = 0;

export function say(text) {
  if (text) [told, until] = [text, Date.now() + TOLD_MS];
  const all = (telling() ? told : "") || shared.broken || (shared.state && shared.state.message) || "";
  if ($("note").textContent !== all) $("note").textContent = all;
  $("note").hidden = !all;
}

export function unsay() { until = 0; }

export const telling = () => Date.now() < until;

export function hear(text) { $("heard").textContent = text; }

export function percent(share, digits = 0) { return `${(100 * share).toFixed(digits)}%`; }

export function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

export function tile(image, said, suspect = false) {
  const shown = element("img", {src: `thumb/${image.number}`, alt: "", loading: "lazy"});
  const button = element("button", {type: "button", className: "tile", title: image.path}, shown,
    element("span", {className: suspect ? "suspect" : "", textContent: said}));
  button.dataset.number = image.number;
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `${image.path}, ${said}`);
  return button;
}
