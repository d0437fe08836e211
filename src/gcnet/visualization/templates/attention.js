"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const find = (name) => document.getElementById(name);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const colors = bytes(content.colors);
const state = { shown: 0, point: [0.5, 0.5], mean: false };

function cell(share, count) { return Math.min(Math.max(Math.floor(share * count), 0), count - 1); }

// The number of the row to show: that of the cell the point lies in; the last row is the mean of all queries.
function rowOf(layer) {
  const [rows, columns] = layer.queries;
  const last = layer.peaks.length - 1;
  return state.mean ? last : Math.min(cell(state.point[1], rows) * columns + cell(state.point[0], columns), last);
}

function drawLayer(layer, image) {
  const canvas = layer.canvas;
  const [height, width] = layer.keys, row = rowOf(layer);
  const values = layer.bytes.subarray(row * height * width, (row + 1) * height * width);
  const small = document.createElement("canvas");
  small.width = width; small.height = height;
  const pixels = small.getContext("2d").createImageData(width, height);
  values.forEach((value, index) => {
    for (let part = 0; part < 3; part++) pixels.data[4 * index + part] = colors[3 * value + part];
    pixels.data[4 * index + 3] = 255;
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const side = canvas.getContext("2d");
  side.imageSmoothingEnabled = false;
  side.drawImage(small, 0, 0, canvas.width, canvas.height);
  side.imageSmoothingEnabled = true;
  side.drawImage(image.edges, 0, 0, canvas.width, canvas.height);
  if (!state.mean && !layer.shared) mark(side, canvas, 4);
  const peak = layer.peaks[row];
  layer.caption.textContent = (layer.shared && content.has_queries ? "one map for all queries; " : "") +
    "peak " + peak + " x uniform" + (peak < 2 ? " (k = 2)" : "");
}

function mark(side, canvas, radius) {
  side.beginPath();
  side.arc(state.point[0] * canvas.width, state.point[1] * canvas.height, radius, 0, 2 * Math.PI);
  side.fillStyle = "#00e5ff"; side.strokeStyle = "black"; side.lineWidth = 1.5;
  side.fill(); side.stroke();
}

function draw() {
  const image = content.images[state.shown], canvas = find("query"), side = canvas.getContext("2d");
  side.imageSmoothingEnabled = image.picture.width >= canvas.width / 2;  // pixels of small images stay sharp
  side.drawImage(image.picture, 0, 0, canvas.width, canvas.height);
  if (!state.mean && content.has_queries) mark(side, canvas, 7);
  image.layers.forEach((layer) => drawLayer(layer, image));
  find("answer").textContent = image.name + ": " + image.answer;
  const [across, down] = state.point.map((share) => Math.round(100 * share));
  find("place").textContent = !content.has_queries ? "" : state.mean ? "mean over all queries"
    : "query at " + across + " % of the width, " + down + " % of the height";
  find("mean").setAttribute("aria-pressed", String(state.mean));
}

function choose(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const share = (value) => Math.min(Math.max(value, 0), 0.9999);
  state.point = [share((event.clientX - box.left) / box.width), share((event.clientY - box.top) / box.height)];
  state.mean = false;
  draw();
}

function move(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  state.point = state.point.map((share, axis) => Math.min(Math.max(share + step[axis] / content.side, 0), 0.9999));
  state.mean = false;
  draw();
}

function show(number) {
  const picture = content.images[number].picture;
  const height = (width) => Math.round(width * picture.height / picture.width);
  state.shown = number;
  find("query").height = height(find("query").width);
  find("layers").replaceChildren(...content.images[number].layers.map((layer) => {
    const figure = document.createElement("figure"), text = document.createElement("figcaption");
    layer.bytes = layer.bytes || bytes(layer.maps);
    layer.canvas = document.createElement("canvas");
    layer.canvas.width = 224;
    layer.canvas.height = height(224);
    if (content.has_queries) layer.canvas.addEventListener("click", choose);
    layer.caption = document.createElement("span");
    text.textContent = layer.name;
    text.append(layer.caption);
    figure.append(layer.canvas, text);
    return figure;
  }));
  Array.from(find("thumbs").children).forEach((button, index) =>
    button.setAttribute("aria-pressed", String(index === number)));
  draw();
}

function begin() {
  const asked = location.hash.slice(1).split(",").map(Number);
  if (asked.length === 2 && asked.every((share) => share >= 0 && share < 1)) state.point = asked;
  if (content.has_queries) {
    find("query").addEventListener("click", choose);
    find("query").addEventListener("keydown", move);
  } else find("query").style.cursor = "default";
  find("mean").addEventListener("click", () => { state.mean = !state.mean; draw(); });
  if (content.images.length > 1) content.images.forEach((image, number) => {
    const button = document.createElement("button"), thumb = document.createElement("img");
    thumb.src = image.source; thumb.alt = image.name;
    button.append(thumb);
    button.addEventListener("click", () => show(number));
    find("thumbs").append(button);
  });
  show(0);
}

function loaded(source) {
  return new Promise((done) => {
    const picture = new Image();
    picture.onload = () => done(picture);
    picture.src = source;
  });
}

Promise.all(content.images.map(async (image) => {
  image.picture = await loaded(image.source);
  image.edges = await loaded(image.edge_source);
})).then(begin);
