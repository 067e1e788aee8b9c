"use strict";
// Two views of one place and the patches in them that choose each other.

const views = { marked: -1, count: 60, lines: 0.45 };
const HINT = matchMedia("(hover: none)").matches ? "Touch a dot." : "Point at a dot, or use the arrow keys.";

function placeViews(canvas) {
  const [a, b] = [page.photos[page.pair.first], page.photos[page.pair.second]];
  const gap = canvas.clientWidth < 600 ? 10 : 28;
  const high = Math.min((canvas.clientWidth - gap) / (a.aspect + b.aspect), Math.max(0.8 * window.innerHeight, 360));
  const left = (canvas.clientWidth - gap - high * (a.aspect + b.aspect)) / 2;
  return { high, boxes: [[left, high * a.aspect, a], [left + high * a.aspect + gap, high * b.aspect, b]] };
}

function matchPoints(layout, match) {
  return layout.boxes.map(([x, width, photo], side) => [
    x + ((match[2 * side + 1] + 0.5) / photo.cols) * width,
    ((match[2 * side] + 0.5) / photo.rows) * layout.high,
  ]);
}

function shownMatches() {
  return page.pair.matches.slice(0, views.count);
}

function matchColour(match, photo) {
  return `hsl(${Math.round(320 * (match[1] / photo.cols))} 95% ${Math.round(74 - 26 * (match[0] / photo.rows))}%)`;
}

function drawViews() {
  const canvas = element("views-canvas");
  const layout = placeViews(canvas);
  canvas.style.height = `${layout.high}px`;
  const scale = fitCanvas(canvas);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, layout.high);
  context.imageSmoothingQuality = "high";
  for (const [x, width, photo] of layout.boxes) {
    context.save();
    context.beginPath();
    context.roundRect(x, 0, width, layout.high, 10);
    context.clip();
    context.drawImage(photo.image, x, 0, width, layout.high);
    context.fillStyle = "rgba(10, 10, 20, 0.32)";
    context.fillRect(x, 0, width, layout.high);
    context.restore();
  }
  const matches = shownMatches();
  matches.forEach((match, i) => { if (i !== views.marked) drawMatch(context, layout, match, views.marked >= 0 ? 0.16 : 1, 1); });
  if (views.marked >= 0) drawMatch(context, layout, matches[views.marked], 1, 1.8);
}

function drawMatch(context, layout, match, alpha, size) {
  const [from, to] = matchPoints(layout, match);
  const colour = matchColour(match, layout.boxes[0][2]);
  context.strokeStyle = context.fillStyle = colour;
  context.globalAlpha = alpha * (size > 1 ? 1 : views.lines);
  context.lineWidth = size > 1 ? 2.5 : 1.25;
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
  context.globalAlpha = alpha;
  for (const [x, y] of [from, to]) {
    context.beginPath();
    context.arc(x, y, 4 * size, 0, 7);
    context.fill();
    context.lineWidth = 1.25 * size;
    context.strokeStyle = "#fff";
    context.stroke();
  }
  context.globalAlpha = 1;
}

function mark(index) {
  if (index === views.marked) return;
  views.marked = index;
  const matches = shownMatches();
  element("views-told").textContent = index < 0
    ? `${matches.length} of ${page.pair.matches.length} pairs. ${HINT}`
    : `Pair ${index + 1} of ${matches.length}: cosine ${matches[index][4].toFixed(2)}`;
  drawViews();
}

function nearestMatch(event) {
  const canvas = element("views-canvas");
  const box = canvas.getBoundingClientRect();
  const layout = placeViews(canvas);
  let [best, index] = [24 ** 2, -1];
  shownMatches().forEach((match, i) => {
    for (const [x, y] of matchPoints(layout, match)) {
      const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (far < best) [best, index] = [far, i];
    }
  });
  return index;
}

function buildViews() {
  if (!page.pair) return element("views").remove();
  const canvas = element("views-canvas");
  const [a, b] = [page.photos[page.pair.first], page.photos[page.pair.second]];
  canvas.setAttribute("aria-label", `Corresponding points between “${a.name}” and “${b.name}”`);
  element("views-kind").textContent = `“${a.name}” and “${b.name}”.`;
  const slider = element("views-count");
  slider.max = page.pair.matches.length;
  slider.min = Math.min(5, page.pair.matches.length);
  views.count = Math.min(views.count, page.pair.matches.length);
  slider.value = views.count;
  slider.addEventListener("input", () => { views.count = +slider.value; views.marked = -2; mark(-1); });
  element("views-lines").addEventListener("input", (event) => { views.lines = event.target.value / 100; drawViews(); });
  for (const kind of ["pointermove", "pointerdown"]) canvas.addEventListener(kind, (event) => mark(nearestMatch(event)));
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") mark(-1); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") mark(-1);
    if (!step) return;
    event.preventDefault();
    mark((Math.max(views.marked, step > 0 ? -1 : 0) + step + shownMatches().length) % shownMatches().length);
  });
  views.marked = -2;
  mark(-1);
}
