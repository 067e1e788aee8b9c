"use strict";
// The stage and the wall: pointing at a patch, and drawing what is similar to it everywhere.

const state = { photo: 0, query: null, held: false, mode: "similarity", palette: "own", strength: 0.85, low: 0 };
const element = (id) => document.getElementById(id);
const stage = { similarity: element("stage-similarity"), colours: element("stage-colours"), foreground: element("stage-foreground") };

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function fitCanvas(canvas) {
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  return scale;
}

function drawPhoto(canvas, photo, mode, ringAt, strong) {
  const scale = fitCanvas(canvas);
  const context = canvas.getContext("2d");
  const whole = [0, 0, canvas.width, canvas.height];
  context.imageSmoothingQuality = "high";
  context.globalAlpha = 1;
  context.drawImage(photo.image, ...whole);
  context.globalAlpha = mode === "photo" ? 0 : state.strength;
  if (mode === "colours") context.drawImage(photo.palettes[state.palette], ...whole);
  if (mode === "similarity" || mode === "foreground") context.drawImage(photo.grey, ...whole);
  if (mode === "similarity") context.drawImage(photo.heat, ...whole);
  context.globalAlpha = 1;
  if (mode === "foreground") context.drawImage(photo.cut, ...whole);
  if (ringAt !== null) drawRing(context, canvas, photo, ringAt, strong, scale);
}

// The chosen patch is a square of its true size, the best place elsewhere a ring.
function drawRing(context, canvas, photo, index, strong, scale) {
  const [w, h] = [canvas.width / photo.cols, canvas.height / photo.rows];
  const [x, y] = [(index % photo.cols) * w, Math.floor(index / photo.cols) * h];
  for (const [width, colour] of [[4, "rgba(0, 0, 0, 0.6)"], [2, "#fff"]]) {
    context.lineWidth = width * scale;
    context.strokeStyle = colour;
    context.beginPath();
    if (strong) context.roundRect(x, y, w, h, w / 5);
    else context.arc(x + w / 2, y + h / 2, Math.max(0.7 * w, 5 * scale), 0, 7);
    context.stroke();
  }
}

// Where a photo is most like the chosen patch; nowhere, if nothing in it glows.
function bestPlace(photo) {
  return photo.bestCosine > state.low ? photo.best : null;
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const shown = page.photos[state.photo];
    const chosen = state.query.photo === state.photo;
    const place = chosen ? state.query.index : bestPlace(shown);
    for (const mode of Object.keys(stage)) drawPhoto(stage[mode], shown, mode, place, chosen);
    page.photos.forEach((photo, i) => {
      const strong = i === state.query.photo;
      const ring = state.mode !== "similarity" ? null : strong ? state.query.index : bestPlace(photo);
      drawPhoto(photo.canvas, photo, state.mode, ring, strong);
    });
  });
}

function ask(photo, index) {
  if (state.query && state.query.photo === photo && state.query.index === index) return;
  state.query = { photo, index };
  state.low = compare(state.query);
  tell();
  redraw();
}

function tell() {
  const from = page.photos[state.query.photo];
  const others = page.photos.filter((p) => p !== from).sort((a, b) => b.bestCosine - a.bestCosine);
  const [row, column] = [Math.floor(state.query.index / from.cols) + 1, (state.query.index % from.cols) + 1];
  let text = `Patch in row ${row}, column ${column} of “${from.name}”${state.held ? " (held)" : ""}.`;
  if (others.length && bestPlace(others[0]) === null) text += " Nothing in the other photos is much like it.";
  else if (others.length) text += ` Most alike elsewhere: “${others[0].name}”, ${others[0].bestCosine.toFixed(2)}.`;
  element("told").textContent = text;
  element("ramp-low").textContent = state.low.toFixed(2);
  for (const photo of page.photos) photo.number.textContent = photo === from ? "chosen" : photo.bestCosine.toFixed(2);
}

function show(number) {
  state.photo = (number + page.photos.length) % page.photos.length;
  const photo = page.photos[state.photo];
  element("stage").style.setProperty("--aspect", photo.aspect);
  element("photo-name").textContent = photo.name;
  element("photo-credit").textContent = photo.credit;
  stage.similarity.setAttribute("aria-label", `${photo.name}: places similar to the chosen patch`);
  stage.colours.setAttribute("aria-label", `${photo.name}: principal components of the features as colours`);
  stage.foreground.setAttribute("aria-label", `${photo.name}: foreground`);
  page.photos.forEach((p, i) => p.button.setAttribute("aria-current", i === state.photo));
}

function patchAt(event, canvas, photo) {
  const box = canvas.getBoundingClientRect();
  const cell = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
  const row = cell((event.clientY - box.top) / box.height, photo.rows);
  return row * photo.cols + cell((event.clientX - box.left) / box.width, photo.cols);
}

function hold(held) {
  state.held = held;
  tell();
}

function listenToStage() {
  const askHere = (event, canvas) => ask(state.photo, patchAt(event, canvas, page.photos[state.photo]));
  for (const canvas of Object.values(stage)) {
    canvas.addEventListener("pointermove", (event) => { if (!state.held) askHere(event, canvas); });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const touched = event.pointerType !== "mouse";
      if (touched || !state.held) askHere(event, canvas);
      hold(!touched && !state.held);
    });
  }
  stage.similarity.addEventListener("keydown", (event) => {
    const photo = page.photos[state.photo];
    const index = state.query.photo === state.photo ? state.query.index : photo.start;
    const [row, column] = [Math.floor(index / photo.cols), index % photo.cols];
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (moves[event.key]) {
      const r = Math.min(Math.max(row + moves[event.key][0], 0), photo.rows - 1);
      const c = Math.min(Math.max(column + moves[event.key][1], 0), photo.cols - 1);
      ask(state.photo, r * photo.cols + c);
    } else if (event.key === "Enter" || event.key === " ") hold(!state.held);
    else if (event.key === "n" || event.key === "p") {
      hold(false);
      bring(state.photo + (event.key === "n" ? 1 : -1));
    }
    else return;
    event.preventDefault();
  });
}

function bring(number, index) {
  show(number);
  ask(state.photo, index ?? page.photos[state.photo].start);
  redraw();
}

function buildWall() {
  page.photos.forEach((photo, i) => {
    const button = make("button");
    button.type = "button";
    button.style.setProperty("--aspect", photo.aspect);
    button.setAttribute("aria-label", `Bring “${photo.name}” to the stage`);
    [photo.button, photo.canvas, photo.number] = [button, make("canvas"), make("span", "number")];
    const label = make("span", "label");
    label.append(make("span", "", photo.name), photo.number);
    button.append(photo.canvas, label);
    button.addEventListener("pointermove", (event) => {
      if (!state.held && event.pointerType === "mouse") ask(i, patchAt(event, photo.canvas, photo));
    });
    button.addEventListener("click", (event) => {
      hold(false);
      bring(i, event.detail ? patchAt(event, photo.canvas, photo) : undefined);
      element("look").scrollIntoView({ block: "start" });
      if (!event.detail) stage.similarity.focus();
    });
    element("wall").append(button);
  });
}

function listenToControls() {
  element("strength").addEventListener("input", (event) => { state.strength = event.target.value / 100; redraw(); });
  for (const name of ["mode", "palette"])
    element(name).addEventListener("change", (event) => { state[name] = event.target.value; redraw(); });
  const stops = RAMP.map(([t, r, g, b, a]) => `rgba(${r}, ${g}, ${b}, ${a}) ${100 * t}%`).join(", ");
  element("ramp").style.background = `linear-gradient(90deg, ${stops}), #2b2a33`;
}
