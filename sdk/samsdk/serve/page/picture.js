// The image for the screen: levels, as the service sends them, through window and level to a canvas.

export class Picture {
  /** `shown` says what the levels are, see ShownReply of the service. */
  constructor(shown, buffer) {
    [this.height, this.width] = shown.size;
    this.shown = shown;
    this.levels = shown.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer);
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.width;
    this.canvas.height = this.height;
    this.context = this.canvas.getContext("2d");
    this.image = this.context.createImageData(this.width, this.height);
    this.reset();
  }

  reset() {
    const { low, high } = this.shown;
    this.setWindow(Math.max(Math.abs(high - low), this.shortest), (low + high) / 2);
  }

  /** From the image's least value to its greatest, or what the first window spans if that is more. */
  get range() {
    const { least, greatest, low, high } = this.shown;
    return Math.max(greatest - least, Math.abs(high - low), this.shortest);
  }

  /** Width of the narrowest window: one level. */
  get shortest() { return Math.abs(this.shown.step) || 1; }

  /** Values from level - width / 2 to level + width / 2 become black to white; white to black where 0 is white. */
  setWindow(width, level) {
    this.windowWidth = width;
    this.windowLevel = level;
    const { start, step, channels, bits, low, high } = this.shown;
    const sign = high < low ? -1 : 1;
    const table = new Uint8ClampedArray(bits === 16 ? 65536 : 256);
    for (let index = 0; index < table.length; index++) {
      table[index] = 255 * (sign * (start + step * index - level) / width + 0.5);
    }
    const out = this.image.data;
    const { levels } = this;
    for (let from = 0, to = 0; to < out.length; to += 4) {
      if (channels === 1) {
        out[to] = out[to + 1] = out[to + 2] = table[levels[from++]];
      } else {
        out[to] = table[levels[from++]];
        out[to + 1] = table[levels[from++]];
        out[to + 2] = table[levels[from++]];
      }
      out[to + 3] = 255;
    }
    this.context.putImageData(this.image, 0, 0);
  }

  /** What the file says at a place, given as shares of the image's sides, as text. */
  value(x, y) {
    const column = Math.min(this.width - 1, Math.floor(x * this.width));
    const row = Math.min(this.height - 1, Math.floor(y * this.height));
    const { start, step, channels } = this.shown;
    const at = (row * this.width + column) * channels;
    const values = [...this.levels.subarray(at, at + channels)].map((level) => start + step * level);
    return values.map((value) => (Number.isInteger(value) ? value : value.toPrecision(4))).join(" ");
  }
}
