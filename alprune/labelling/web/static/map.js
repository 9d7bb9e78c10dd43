// All images as points, similar ones side by side, coloured by class; a drag selects.
import {$, say, send, shared} from "./common.js";

// Each has a contrast of 3 to 1 with the light and with the dark ground.
const COLOURS = ["#3b82d0", "#c47a00", "#1f9d6b", "#d0619f", "#e0522d", "#8f6fe0", "#8f8a1e", "#1d97a8"];
const UNLABELLED = 0.75;  // opacity
const FRAME = 0.25, STEP = 0.05;  // of the map: what the keys select, and how far they move it
let points = [], corner = null, box = null, take = null;

export async function open(label) {
  take = label;
  try {
    points = (await send("map")).points;
  } catch (error) {
    return say(error.message);
  }
  box = null;
  draw();
}

function scale() {
  const canvas = $("map"), ratio = window.devicePixelRatio;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const pad = 12 * ratio;
  return ([x, y]) => [pad + x * (canvas.width - 2 * pad), pad + y * (canvas.height - 2 * pad)];
}

function draw() {
  const canvas = $("map"), to = scale(), pen = canvas.getContext("2d"), ratio = window.devicePixelRatio;
  const soft = getComputedStyle(document.body).getPropertyValue("--soft");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (const known of [false, true]) {
    for (const point of points.filter((entry) => (entry.class >= 0) === known)) {
      const [x, y] = to(point.at);
      pen.globalAlpha = known ? 1 : UNLABELLED;
      pen.fillStyle = known ? COLOURS[point.class % COLOURS.length] : soft;
      pen.beginPath();
      pen.arc(x, y, (known ? 3.5 : 2) * ratio, 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  $("map-legend").replaceChildren(...(points.length ? shared.state.classes : []).map(named));
  if (box) {
    pen.strokeStyle = soft;
    pen.lineWidth = 1.5 * ratio;
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
  const open_ = selected();
  $("map-take").disabled = !open_.length;
  $("map-said").textContent = points.length
    ? (box ? `${open_.length} unlabelled images selected.` : "Similar images are side by side. Drag to select some.")
      + (shared.state.classes.length > COLOURS.length ? " Some classes share a colour." : "")
    : "There is no map before the images are embedded (a pretrained network does that).";
}

function named(entry, index) {
  const item = document.createElement("li"), dot = document.createElement("span");
  dot.textContent = "● ";
  dot.style.color = COLOURS[index % COLOURS.length];
  dot.setAttribute("aria-hidden", "true");
  item.append(dot, entry.name);
  return item;
}

function moved(key) {
  const {width, height} = $("map"), change = {"+": 1.25, "=": 1.25, "-": 0.8}[key] || 1;
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key] || [0, 0];
  const old = box || [0.5 - FRAME / 2, 0.5 - FRAME / 2, 0.5 + FRAME / 2, 0.5 + FRAME / 2]
    .map((part, place) => part * (place % 2 ? height : width));
  const middle = [(old[0] + old[2]) / 2 + x * STEP * width, (old[1] + old[3]) / 2 + y * STEP * height];
  const half = [Math.abs(old[2] - old[0]) / 2 * change, Math.abs(old[3] - old[1]) / 2 * change];
  box = [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]];
  draw();
}

function selected() {
  if (!box) return [];
  const to = scaleOnly();
  const [left, right] = [Math.min(box[0], box[2]), Math.max(box[0], box[2])];
  const [top, bottom] = [Math.min(box[1], box[3]), Math.max(box[1], box[3])];
  return points.filter((entry) => {
    const [x, y] = to(entry.at);
    return entry.class < 0 && x >= left && x <= right && y >= top && y <= bottom;
  }).map((entry) => entry.number);
}

function scaleOnly() {
  const canvas = $("map"), pad = 12 * window.devicePixelRatio;
  return ([x, y]) => [pad + x * (canvas.width - 2 * pad), pad + y * (canvas.height - 2 * pad)];
}

function at(event) {
  const rect = $("map").getBoundingClientRect(), ratio = window.devicePixelRatio;
  return [(event.clientX - rect.left) * ratio, (event.clientY - rect.top) * ratio];
}

$("map").addEventListener("pointerdown", (event) => {
  corner = at(event);
  $("map").setPointerCapture(event.pointerId);
});
$("map").addEventListener("pointermove", (event) => {
  if (!corner) return;
  box = [...corner, ...at(event)];
  draw();
});
for (const end of ["pointerup", "pointercancel"]) $("map").addEventListener(end, () => { corner = null; });
$("map").addEventListener("keydown", (event) => {
  if (!/^(Arrow\w+|[-+=])$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();  // elsewhere these keys go through the answers, and zoom
  moved(event.key);
});
$("map-take").addEventListener("click", () => take(selected()));
window.addEventListener("resize", () => { if (shared.view === "map") draw(); });
