"use strict";
// The stored features and what is computed from them: cosines, and small pictures of one pixel a patch.

const page = JSON.parse(document.getElementById("data").textContent);

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// One colour ramp for all similarities: from nothing through violet and orange to pale yellow.
const RAMP = [[0, 40, 20, 90, 0], [0.2, 70, 25, 120, 0.35], [0.45, 170, 45, 125, 0.72], [0.7, 240, 105, 75, 0.9],
  [0.88, 253, 185, 90, 0.96], [1, 255, 247, 190, 1]];

function rampColour(t) {
  let i = 1;
  while (i < RAMP.length - 1 && t > RAMP[i][0]) i++;
  const [a, b] = [RAMP[i - 1], RAMP[i]];
  const u = Math.min(Math.max((t - a[0]) / (b[0] - a[0]), 0), 1);
  return [1, 2, 3, 4].map((k) => a[k] + u * (b[k] - a[k]));
}
const RAMP_TABLE = Array.from({ length: 256 }, (_, i) => rampColour(i / 255));

function gridCanvas(photo, pixel) {
  const canvas = document.createElement("canvas");
  canvas.width = photo.cols;
  canvas.height = photo.rows;
  paintGrid(canvas, pixel);
  return canvas;
}

function paintGrid(canvas, pixel) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) image.data.set(pixel(i), 4 * i);
  context.putImageData(image, 0, 0);
}

function unpack(photo) {
  const codes = new Int8Array(bytes(photo.codes).buffer);
  const depth = page.scales.length;
  photo.features = Float32Array.from(codes, (code, i) => code * page.scales[i % depth]);
  photo.cosines = new Float32Array(photo.rows * photo.cols);
  photo.aspect = photo.width / photo.height;
  const [own, shared, fore] = [bytes(photo.own), bytes(photo.shared), bytes(photo.foreground)];
  photo.palettes = {
    own: gridCanvas(photo, (i) => [own[3 * i], own[3 * i + 1], own[3 * i + 2], 255]),
    shared: gridCanvas(photo, (i) => [shared[3 * i], shared[3 * i + 1], shared[3 * i + 2], 255]),
  };
  photo.mask = gridCanvas(photo, (i) => [0, 0, 0, fore[i]]);
  photo.heat = gridCanvas(photo, () => [0, 0, 0, 0]);
}

// Cosine of one patch with all patches of all photos; returns where the ramp begins: only the most alike patches glow.
function compare(query) {
  const depth = page.scales.length;
  const from = page.photos[query.photo].features.subarray(query.index * depth, (query.index + 1) * depth);
  const sample = [];
  for (const photo of page.photos) {
    let best = -2;
    for (let i = 0; i < photo.cosines.length; i++) {
      let sum = 0;
      for (let k = 0, j = i * depth; k < depth; k++, j++) sum += from[k] * photo.features[j];
      photo.cosines[i] = sum;
      if (sum > best) [best, photo.best] = [sum, i];
      if (i % 8 === 0) sample.push(sum);
    }
    photo.bestCosine = Math.min(best, 1);
  }
  sample.sort((a, b) => a - b);
  const low = Math.min(sample[Math.floor(sample.length * (1 - page.glowing))], 0.99);
  for (const photo of page.photos) {
    paintGrid(photo.heat, (i) => {
      const [r, g, b, a] = RAMP_TABLE[Math.round(255 * Math.min(Math.max((photo.cosines[i] - low) / (1 - low), 0), 1))];
      return [r, g, b, 255 * a];
    });
  }
  return low;
}

// The photo, its grey twin and its foreground cut-out, once loaded.
async function loadPicture(photo) {
  photo.image = new Image();
  photo.image.src = "data:image/jpeg;base64," + photo.jpeg;
  await photo.image.decode();
  const layer = (draw) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [photo.width, photo.height];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    draw(context);
    return canvas;
  };
  photo.grey = layer((context) => {
    context.drawImage(photo.image, 0, 0, photo.width, photo.height);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#808080";
    context.fillRect(0, 0, photo.width, photo.height);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "rgba(12, 10, 28, 0.5)";
    context.fillRect(0, 0, photo.width, photo.height);
  });
  photo.cut = layer((context) => {
    context.drawImage(photo.mask, 0, 0, photo.width, photo.height);
    context.globalCompositeOperation = "source-in";
    context.drawImage(photo.image, 0, 0, photo.width, photo.height);
  });
}
