// Paints a mask over an image. gradio runs this file as the body of a function, with `element`, `props` and `watch`.
//   props.image  the image below the canvas, a data URL; "" for none
//   props.paint  a mask that is painted from the start, a PNG data URL; "" for none
//   props.color  the mask's color, [red, green, blue, alpha]
//   props.value  goes to the server: the canvas as a PNG data URL, "" while nothing is painted
// The canvas has the size of props.image, which the server chose. A pixel of it is painted or it is not.

const find = (selector) => element.querySelector(selector);
const stage = find('.stage');
const image = find('img');
const canvas = find('canvas');
const cursor = find('.cursor');
const brush = find('.brush');
const eraser = find('.rub');
const context = canvas.getContext('2d');
const UNDO_STEPS = 20;

let mask = new Uint8Array(0); // one entry for each pixel of the canvas, row by row
let undoMasks = []; // earlier masks, the latest last
let lastPoint = null; // of the stroke that is being painted
let position = null; // of the brush

const radius = () => Math.max(0.5, (brush.value / 200) * Math.max(canvas.width, canvas.height));
const isErasing = () => eraser.getAttribute('aria-pressed') === 'true';

function show() {
  const pixels = context.createImageData(canvas.width, canvas.height);
  mask.forEach((painted, i) => {
    if (painted) pixels.data.set(props.color, 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

function send() {
  props.value = mask.includes(1) ? canvas.toDataURL('image/png') : '';
}

function remember() {
  undoMasks = [...undoMasks.slice(1 - UNDO_STEPS), mask.slice()];
}

// Paints or erases all pixels whose center is at most a radius away from the line between two points.
function stroke(from, to) {
  const r = radius();
  const value = isErasing() ? 0 : 1;
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const squaredLength = dx * dx + dy * dy || 1;
  const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - r));
  const last = (a, b, size) => Math.min(size - 1, Math.ceil(Math.max(a, b) + r));
  for (let y = first(from.y, to.y); y <= last(from.y, to.y, canvas.height); y++) {
    for (let x = first(from.x, to.x); x <= last(from.x, to.x, canvas.width); x++) {
      const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
      const t = Math.min(1, Math.max(0, (px * dx + py * dy) / squaredLength)); // nearest point of the line
      const isNear = Math.hypot(px - t * dx, py - t * dy) <= r;
      const isUnderBrush = x === Math.floor(to.x) && y === Math.floor(to.y); // a small brush may reach no center
      if (isNear || isUnderBrush) mask[y * canvas.width + x] = value;
    }
  }
  show();
}

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * canvas.width,
    y: ((event.clientY - box.top) / box.height) * canvas.height,
  };
}

function moveCursor(to) {
  position = to;
  const scale = canvas.clientWidth / (canvas.width || 1);
  const size = Math.max(6, 2 * radius() * scale) + 'px';
  Object.assign(cursor.style, {
    display: 'block',
    width: size,
    height: size,
    left: to.x * scale + 'px',
    top: to.y * scale + 'px',
  });
}

function hideCursor() {
  cursor.style.display = 'none';
}

canvas.addEventListener('pointerdown', (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  remember();
  lastPoint = pointOf(event);
  stroke(lastPoint, lastPoint);
});
canvas.addEventListener('pointermove', (event) => {
  const to = pointOf(event);
  moveCursor(to);
  if (lastPoint) {
    stroke(lastPoint, to);
    lastPoint = to;
  }
});
for (const end of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(end, () => {
    if (lastPoint) {
      lastPoint = null;
      send();
    }
  });
}
canvas.addEventListener('pointerleave', () => {
  if (!lastPoint) hideCursor();
});
canvas.addEventListener('blur', hideCursor);

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener('keydown', (event) => {
  const direction = ARROWS[event.key] ?? (event.key === ' ' ? [0, 0] : null);
  if (!direction) return;
  event.preventDefault();
  const step = Math.max(1, radius());
  const from = position ?? { x: canvas.width / 2, y: canvas.height / 2 };
  const inside = (value, size) => Math.min(size - 0.5, Math.max(0.5, value));
  moveCursor({
    x: inside(from.x + step * direction[0], canvas.width),
    y: inside(from.y + step * direction[1], canvas.height),
  });
  if (event.key === ' ') {
    remember();
    stroke(position, position);
    send();
  }
});

brush.addEventListener('input', () => {
  if (position && cursor.style.display === 'block') moveCursor(position);
});
eraser.addEventListener('click', () => eraser.setAttribute('aria-pressed', !isErasing()));
find('.undo').addEventListener('click', () => {
  if (undoMasks.length) {
    mask = undoMasks.pop();
    show();
    send();
  }
});
find('.clear').addEventListener('click', () => {
  if (mask.includes(1)) {
    remember();
    mask.fill(0);
    show();
    send();
  }
});

async function load() {
  const { image: imageUrl, paint: paintUrl } = props;
  const isCurrent = () => props.image === imageUrl && props.paint === paintUrl;
  stage.hidden = !imageUrl;
  find('.hint').style.display = imageUrl ? 'none' : '';
  undoMasks = [];
  lastPoint = position = null;
  hideCursor();
  if (!imageUrl) {
    mask = new Uint8Array(0);
    props.value = '';
    return;
  }
  image.src = imageUrl;
  await image.decode();
  if (!isCurrent()) return; // another image was chosen meanwhile
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  stage.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
  stage.style.width = `min(100%, ${(70 * canvas.width) / canvas.height}vh)`;
  mask = new Uint8Array(canvas.width * canvas.height);
  if (paintUrl) {
    const layer = new Image();
    layer.src = paintUrl;
    await layer.decode();
    if (!isCurrent()) return;
    context.drawImage(layer, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    mask = mask.map((_, i) => (data[4 * i + 3] > 0 ? 1 : 0));
  }
  show();
  send();
}

watch(['image', 'paint'], load);
load();
