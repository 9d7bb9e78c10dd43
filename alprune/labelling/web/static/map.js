// All images as points, similar ones side by side, coloured by class; a drag selects.
import {$, say, send, shared} from "./common.js";

const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a6d00", "#7a4fbf"];
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
      pen.globalAlpha = known ? 1 : 0.35;
      pen.fillStyle = known ? COLOURS[point.class % COLOURS.length] : soft;
      pen.beginPath();
      pen.arc(x, y, (known ? 3.5 : 2) * ratio, 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  shared.state.classes.forEach((entry, index) => {
    pen.fillStyle = COLOURS[index % COLOURS.length];
    pen.font = `${12 * ratio}px system-ui, sans-serif`;
    pen.fillText(`● ${entry.name}`, 10 * ratio, (18 + 16 * index) * ratio);
  });
  if (box) {
    pen.strokeStyle = soft;
    pen.lineWidth = 1.5 * ratio;
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
  const open_ = selected();
  $("map-take").disabled = !open_.length;
  $("map-said").textContent = points.length
    ? (box ? `${open_.length} unlabelled images selected.` : "Similar images are side by side. Drag to select some.")
    : "There is no map before the images are embedded (a pretrained network does that).";
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
$("map").addEventListener("pointerup", () => { corner = null; });
$("map-take").addEventListener("click", () => take(selected()));
window.addEventListener("resize", () => { if (shared.view === "map") draw(); });
