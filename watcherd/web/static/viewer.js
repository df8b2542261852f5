// A scan with its mask on a canvas: frames, tint, outline, another threshold, zoom and pan at the scan's own pixels.
import { ask } from "/static/words.js";

const COLOURS = [[0, 200, 255], [240, 228, 66], [230, 159, 0], [0, 200, 140], [255, 130, 200], [213, 94, 0], [86, 130, 255]];
const KEPT = 24; // frames that are held decoded
const STEP = 1.25;
const PAN = 60;
const FRAME_MS = 100;

async function pixels(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const data = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const values = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
  return { width: bitmap.width, height: bitmap.height, values };
}

export class Viewer extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.find = (name) => root.querySelector(name);
    this.stage = this.find(".stage");
    this.canvas = this.find("canvas");
    this.context = this.canvas.getContext("2d");
    this.job = root.dataset.job;
    this.frames = Number(root.dataset.frames);
    this.frame = Number(root.dataset.frame);
    this.hasMask = root.dataset.mask === "1";
    this.hasMap = root.dataset.probability === "1";
    this.cut = null; // a threshold that somebody has chosen, 0 to 255
    this.layers = new Map();
    this.view = null;
    this.playing = false;
    this.drawn = null;
    this.listen();
    new ResizeObserver(() => this.paint()).observe(this.stage);
    this.show(this.frame);
  }

  // ------------------------------------------------------------------------------------------------------ frames

  load(frame) {
    if (!this.layers.has(frame)) {
      const one = (layer) => ask(`/job/${this.job}/layer/${layer}/${frame}`).then((answer) => answer.blob());
      const parts = [
        one("scan").then((blob) => createImageBitmap(blob)),
        this.hasMask ? one("mask").then(pixels) : null,
        this.hasMap ? one("probability").then(pixels) : null,
      ];
      const loading = Promise.all(parts).then(([scan, mask, map]) => ({ scan, mask, map }));
      loading.catch(() => this.layers.delete(frame));
      this.layers.set(frame, loading);
      if (this.layers.size > KEPT) this.layers.delete(this.layers.keys().next().value);
    }
    return this.layers.get(frame);
  }

  async show(frame) {
    this.frame = frame;
    const wait = this.find(".wait");
    const late = setTimeout(() => { wait.textContent = "Loading the picture …"; }, 150);
    try {
      const loaded = await this.load(frame);
      if (frame !== this.frame) return;
      this.shown = loaded;
      wait.textContent = "";
      this.compose();
      this.root.dataset.ready = String(frame);
      this.dispatchEvent(new Event("frame"));
    } catch (error) {
      this.pause();
      wait.textContent = error.message;
      this.root.dataset.ready = "failed";
    } finally {
      clearTimeout(late);
    }
    const scrub = this.find(".scrub");
    if (scrub) {
      scrub.value = frame + 1;
      this.find("output.frame").textContent = frame + 1;
    }
  }

  async play() {
    this.playing = true;
    this.find(".play").textContent = "Stop";
    this.find(".play").setAttribute("aria-pressed", "true");
    while (this.playing) {
      const began = performance.now();
      await this.show((this.frame + 1) % this.frames);
      await new Promise((done) => setTimeout(done, Math.max(0, FRAME_MS - (performance.now() - began))));
    }
  }

  pause() {
    this.playing = false;
    const play = this.find(".play");
    if (!play) return;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  step(by) {
    this.pause();
    this.show((this.frame + by + this.frames) % this.frames);
  }

  // ---------------------------------------------------------------------------------------------------- drawing

  // Which label each pixel has: of the mask as delivered, or by the threshold that somebody has chosen.
  labels() {
    const { mask, map } = this.shown;
    if (this.cut !== null && map) {
      const values = new Uint8Array(map.values.length);
      for (let i = 0; i < values.length; i++) values[i] = map.values[i] > this.cut ? 255 : 0;
      return { ...map, values };
    }
    return mask;
  }

  compose() {
    const { scan } = this.shown;
    const drawn = new OffscreenCanvas(scan.width, scan.height);
    const context = drawn.getContext("2d");
    context.drawImage(scan, 0, 0);
    const found = this.labels();
    if (found && this.find(".shown")?.checked) {
      context.imageSmoothingEnabled = false;
      context.drawImage(this.overlay(found), 0, 0, scan.width, scan.height);
    }
    this.drawn = drawn;
    this.paint();
  }

  overlay({ width, height, values }) {
    const tint = Math.round(2.55 * Number(this.find(".opacity").value));
    const outlined = this.find(".outline").checked;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const data = image.data;
    let count = 0;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const value = values[i];
        if (!value) continue;
        count++;
        const edge = outlined && (x === 0 || y === 0 || x === width - 1 || y === height - 1
          || values[i - 1] !== value || values[i + 1] !== value || values[i - width] !== value || values[i + width] !== value);
        const colour = COLOURS[value === 255 ? 0 : (value - 1) % COLOURS.length];
        data.set(colour, 4 * i);
        data[4 * i + 3] = edge ? 255 : tint;
      }
    }
    context.putImageData(image, 0, 0);
    this.root.dataset.pixels = String(count);
    return canvas;
  }

  fit() {
    const { clientWidth, clientHeight } = this.stage;
    const { width, height } = this.drawn;
    const scale = Math.min(clientWidth / width, clientHeight / height);
    return { scale, x: (clientWidth - width * scale) / 2, y: (clientHeight - height * scale) / 2 };
  }

  paint() {
    if (!this.drawn) return;
    const dots = devicePixelRatio || 1;
    const width = Math.round(this.stage.clientWidth * dots);
    const height = Math.round(this.stage.clientHeight * dots);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const { scale, x, y } = this.view ?? this.fit();
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.context.setTransform(scale * dots, 0, 0, scale * dots, x * dots, y * dots);
    this.context.imageSmoothingEnabled = scale * dots < 2;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(this.drawn, 0, 0);
  }

  look(view, quietly = false) {
    this.view = view;
    this.paint();
    if (!quietly) this.dispatchEvent(new Event("view"));
  }

  zoom(by, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (!this.drawn) return;
    const from = this.view ?? this.fit();
    const scale = Math.min(32, Math.max(0.02, from.scale * by));
    const part = scale / from.scale;
    this.look({ scale, x: x - (x - from.x) * part, y: y - (y - from.y) * part });
  }

  move(dx, dy) {
    if (!this.drawn) return;
    const from = this.view ?? this.fit();
    this.look({ ...from, x: from.x + dx, y: from.y + dy });
  }

  // --------------------------------------------------------------------------------------------------- controls

  listen() {
    const on = (name, event, then) => this.find(name)?.addEventListener(event, then);
    const again = () => this.shown && this.compose();
    for (const name of [".opacity", ".outline", ".shown"]) on(name, "input", again);
    on(".in", "click", () => this.zoom(STEP));
    on(".out", "click", () => this.zoom(1 / STEP));
    on(".fit", "click", () => this.look(null));
    on(".full", "click", () => this.zoom(1 / (this.view ?? this.fit()).scale / (devicePixelRatio || 1)));
    on(".play", "click", () => (this.playing ? this.pause() : this.play()));
    on(".scrub", "input", (event) => { this.pause(); this.show(Number(event.target.value) - 1); });
    on(".cut", "input", (event) => this.threshold(Number(event.target.value)));
    on(".delivered", "click", () => this.threshold(null));
    on(".copy", "click", () => this.copy());
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { left, top } = this.stage.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX - left, event.clientY - top);
    }, { passive: false });
    this.pointers = new Map();
    this.stage.addEventListener("pointerdown", (event) => {
      this.stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
    });
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    this.stage.addEventListener("pointermove", (event) => this.drag(event));
  }

  // One finger or the mouse moves it, two fingers zoom around their middle.
  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
    if (other) {
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const { left, top } = this.stage.getBoundingClientRect();
      this.zoom(far(event) / far(before), (event.clientX + other.clientX) / 2 - left, (event.clientY + other.clientY) / 2 - top);
    } else {
      this.move(event.clientX - before.clientX, event.clientY - before.clientY);
    }
    this.pointers.set(event.pointerId, event);
  }

  key(event) {
    const keys = {
      ArrowLeft: () => this.move(PAN, 0), ArrowRight: () => this.move(-PAN, 0),
      ArrowUp: () => this.move(0, PAN), ArrowDown: () => this.move(0, -PAN),
      "+": () => this.zoom(STEP), "=": () => this.zoom(STEP), "-": () => this.zoom(1 / STEP), 0: () => this.look(null),
    };
    if (this.frames > 1) Object.assign(keys, { ",": () => this.step(-1), ".": () => this.step(1), " ": () => (this.playing ? this.pause() : this.play()) });
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  threshold(cut) {
    this.cut = cut;
    const value = cut === null ? Number(this.root.dataset.threshold) : cut / 255;
    if (cut === null) this.find(".cut").value = Math.round(255 * value);
    this.find(".at").textContent = String(Math.round(1000 * value) / 1000);
    this.find(".delivered").disabled = cut === null;
    this.find(".line").hidden = cut === null;
    this.find(".toml").textContent = `${this.root.dataset.table}\nthreshold = ${Math.round(1000 * value) / 1000}`;
    if (this.shown) this.compose();
    this.dispatchEvent(new Event("frame"));
  }

  async copy() {
    const text = this.find(".toml");
    try {
      await navigator.clipboard.writeText(text.textContent);
      this.find(".copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // without leave for the clipboard: selected, to be copied by hand
    }
  }
}
