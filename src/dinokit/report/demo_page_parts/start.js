"use strict";
// Fills in the words, lists the nearest photos and sets everything going.

function buildAlike() {
  if (page.photos.length < 2) return element("alike").remove();
  const tile = (photo) => {
    const node = make("div", "tile");
    node.style.backgroundImage = `url(${photo.image.src})`;
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", photo.name);
    return node;
  };
  for (const photo of page.photos) {
    const card = make("article");
    const self = make("div", "self");
    self.append(tile(photo), make("h3", "", photo.name));
    card.append(self);
    for (const [index, cosine] of photo.nearest) {
      const near = make("div", "nearest");
      const bar = make("div", "bar");
      const fill = make("i");
      fill.style.width = `${100 * Math.min(Math.max(cosine, 0), 1)}%`;
      bar.append(fill);
      const text = make("p", "number", cosine.toFixed(2));
      near.title = page.photos[index].name;
      near.append(tile(page.photos[index]), bar, text);
      card.append(near);
    }
    if (!photo.nearest.length) card.append(make("p", "none", "No other photo here is much like it."));
    element("alike-list").append(card);
  }
}

// Text with its addresses as links.
function appendLinked(node, text) {
  for (const part of text.split(/(https:[^\s,;]+)/)) {
    if (!part.startsWith("https:")) { node.append(part); continue; }
    const link = make("a", "", part);
    link.href = part;
    node.append(link);
  }
}

function buildWords() {
  element("lead").textContent = page.lead;
  element("glowing").textContent = Math.round(100 * page.glowing);
  element("alike-note").textContent = page.alikeNote;
  Object.entries(page.about).forEach(([name, text], i) => {
    element("about").append(make("dt", "", name), make("dd", "", text));
    if (i >= 4) return;
    const chip = make("li");
    chip.append(make("span", "", name), text);
    element("chips").append(chip);
  });
  for (const photo of page.photos) {
    const line = make("li");
    line.append(make("b", "", photo.name));
    if (photo.credit) appendLinked(line, `: ${photo.credit}. ${photo.source}`);
    element("credits").append(line);
  }
  element("packed").textContent = page.packed;
}

async function start() {
  page.photos.forEach(unpack);
  await Promise.all(page.photos.map(loadPicture));
  buildWords();
  buildWall();
  buildAlike();
  listenToStage();
  listenToControls();
  bring(page.opening);
  buildViews();
  const watcher = new ResizeObserver(() => { redraw(); if (page.pair) drawViews(); });
  for (const canvas of [...Object.values(stage), ...page.photos.map((p) => p.canvas)]) watcher.observe(canvas);
  if (page.pair) watcher.observe(element("views-canvas").parentElement);
  document.documentElement.dataset.ready = "yes";
}
start();
