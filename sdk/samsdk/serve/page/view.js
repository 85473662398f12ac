// Two canvases, the image below and masks above, in one moveable and zoomable frame. Coordinates are pixels of the image.

import { borders, decodeMask } from "./rle.js";

const CLOSEST = 64;

/** A mask, ready to be drawn in its colour. */
export class Layer {
  constructor(answer, colour) {
    this.box = answer.box;
    if (!answer.box) return;
    this.mask = decodeMask(answer.rle, answer.box);
    const { data, width, height } = this.mask;
    this.canvas = document.createElement("canvas");
    this.canvas.width = width;
    this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const rgba = new Uint32Array(image.data.buffer);
    const inside = (255 << 24) | (blue << 16) | (green << 8) | red;
    for (let index = 0; index < data.length; index++) if (data[index]) rgba[index] = inside;
    context.putImageData(image, 0, 0);
    this.outline = new Path2D();
    const { step } = this.mask;
    for (const [x0, y0, x1, y1] of borders(this.mask)) {
      this.outline.moveTo(this.box[0] + x0 * step, this.box[1] + y0 * step);
      this.outline.lineTo(this.box[0] + x1 * step, this.box[1] + y1 * step);
    }
  }
}

export class View {
  constructor(below, above) {
    this.below = below;
    this.above = above;
    this.picture = null;
    this.size = [1, 1];
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.paint = () => {};
    this.pending = { below: false, above: false };
    new ResizeObserver(() => this.resize()).observe(below);
  }

  /** Show another image of (height, width) pixels. */
  show(picture, size) {
    this.picture = picture;
    this.size = size;
    this.fit();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.below, this.above]) {
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    }
    this.ratio = ratio;
    if (this.whole) this.fit();
    this.redraw();
  }

  fit() {
    const [height, width] = this.size;
    const { clientWidth, clientHeight } = this.below;
    this.scale = Math.min(clientWidth / width, clientHeight / height) || 1;
    this.left = (clientWidth - width * this.scale) / 2;
    this.top = (clientHeight - height * this.scale) / 2;
    this.whole = true;
    this.redraw();
  }

  /** Zoom by a factor, so that what is at a place of the screen stays there. */
  zoomAt(factor, x, y) {
    const [height, width] = this.size;
    const smallest = 0.5 * Math.min(this.below.clientWidth / width, this.below.clientHeight / height);
    const scale = Math.min(CLOSEST, Math.max(smallest, this.scale * factor));
    this.left = x - (x - this.left) * (scale / this.scale);
    this.top = y - (y - this.top) * (scale / this.scale);
    this.scale = scale;
    this.moveBy(0, 0);
  }

  moveBy(x, y) {
    const [height, width] = this.size;
    const margin = 40;
    this.left = Math.min(this.below.clientWidth - margin, Math.max(margin - width * this.scale, this.left + x));
    this.top = Math.min(this.below.clientHeight - margin, Math.max(margin - height * this.scale, this.top + y));
    this.whole = false;
    this.redraw();
  }

  toImage(x, y) { return [(x - this.left) / this.scale, (y - this.top) / this.scale]; }

  toScreen(x, y) { return [x * this.scale + this.left, y * this.scale + this.top]; }

  redraw() {
    this.request("below");
    this.request("above");
  }

  /** Draw one of the canvases before the next picture of the screen; resolves when it was drawn. */
  request(which) {
    this.drawn ??= new Promise((resolve) => {
      requestAnimationFrame(() => {
        this.drawn = null;
        for (const name of ["below", "above"]) {
          if (this.pending[name]) this[`draw_${name}`]();
          this.pending[name] = false;
        }
        resolve(performance.now());
      });
    });
    this.pending[which] = true;
    return this.drawn;
  }

  clear(canvas) {
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    return context;
  }

  toImageSpace(context) {
    const factor = this.scale * this.ratio;
    context.setTransform(factor, 0, 0, factor, this.left * this.ratio, this.top * this.ratio);
  }

  draw_below() {
    const context = this.clear(this.below);
    if (!this.picture) return;
    this.toImageSpace(context);
    // Close up, pixels are shown as what they are.
    context.imageSmoothingEnabled = this.scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture.canvas, 0, 0, this.size[1], this.size[0]);
  }

  draw_above() {
    const context = this.clear(this.above);
    if (this.picture) this.paint(context, this);
  }

  drawLayer(context, layer, colour, opacity, active) {
    if (!layer?.canvas) return;
    this.toImageSpace(context);
    context.imageSmoothingEnabled = false;
    const [x0, y0] = layer.box;
    const { width, height, step } = layer.mask;
    context.globalAlpha = opacity;
    context.drawImage(layer.canvas, x0, y0, width * step, height * step);
    context.globalAlpha = opacity > 0 ? 1 : 0;
    context.strokeStyle = colour;
    context.lineWidth = (active ? 2 : 1.2) / this.scale;
    context.stroke(layer.outline);
    context.globalAlpha = 1;
  }

  drawBox(context, [x0, y0, x1, y1], colour) {
    this.toImageSpace(context);
    context.strokeStyle = colour;
    context.lineWidth = 1.5 / this.scale;
    context.setLineDash([6 / this.scale, 4 / this.scale]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }

  /** A point of a prompt: a plus or a minus in a disc, the same size at every zoom. */
  drawPoint(context, [x, y], positive) {
    const [left, top] = this.toScreen(x, y);
    context.setTransform(this.ratio, 0, 0, this.ratio, left * this.ratio, top * this.ratio);
    context.beginPath();
    context.arc(0, 0, 7, 0, 2 * Math.PI);
    context.fillStyle = positive ? "#0b7a4b" : "#b3261e";
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5;
    context.fill();
    context.stroke();
    context.beginPath();
    context.moveTo(-3.5, 0);
    context.lineTo(3.5, 0);
    if (positive) { context.moveTo(0, -3.5); context.lineTo(0, 3.5); }
    context.stroke();
  }

  drawCross(context, [x, y]) {
    const [left, top] = this.toScreen(x, y);
    context.setTransform(this.ratio, 0, 0, this.ratio, left * this.ratio, top * this.ratio);
    for (const [colour, width] of [["#000", 4], ["#ffd166", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      for (const [a, b] of [[-14, -5], [5, 14]]) {
        context.moveTo(a, 0); context.lineTo(b, 0);
        context.moveTo(0, a); context.lineTo(0, b);
      }
      context.stroke();
    }
  }
}
