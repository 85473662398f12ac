// COCO's compressed run lengths (cocoapi, rleFrString), whose runs go down the columns and begin with background.

/** Run lengths out of their text: 5 bits a character, differences from the fourth run on. */
export function decodeCounts(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0;
    let shift = 0;
    let chunk;
    do {
      chunk = text.charCodeAt(at++) - 48;
      value |= (chunk & 0x1f) << shift;
      shift += 5;
    } while (chunk & 0x20);
    if (chunk & 0x10) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/**
 * The part of a mask within its box, row by row: {data: Uint8Array of 0 and 1, width, height, step}.
 * Every step-th pixel is taken, so that neither side is longer than `longest`.
 */
export function decodeMask(rle, box, longest = 4096) {
  const [x0, y0, x1, y1] = box;
  const step = Math.ceil(Math.max(x1 - x0, y1 - y0) / longest);
  const width = Math.ceil((x1 - x0) / step);
  const height = Math.ceil((y1 - y0) / step);
  const data = new Uint8Array(width * height);
  const rows = rle.size[0];
  let start = 0;
  decodeCounts(rle.counts).forEach((run, index) => {
    if (index % 2) fill(start, start + run);
    start += run;
  });
  return { data, width, height, step };

  function fill(from, to) {
    while (from < to) {
      const column = Math.floor(from / rows);
      const row = from - column * rows;
      const end = Math.min(to, (column + 1) * rows);
      if ((column - x0) % step === 0) {
        const last = row + end - from - y0;
        for (let y = Math.ceil((row - y0) / step); y * step < last; y++) data[y * width + (column - x0) / step] = 1;
      }
      from = end;
    }
  }
}

/** Borders between pixels of the mask and others, as lines [x0, y0, x1, y1] along whole pixel sides. */
export function borders({ data, width, height }) {
  const lines = [];
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? data[y * width + x] : 0);
  for (let y = 0; y <= height; y++) {
    for (let x = 0, from = -1; x <= width; x++) {
      const edge = x < width && at(x, y) !== at(x, y - 1);
      if (edge && from < 0) from = x;
      if (!edge && from >= 0) { lines.push([from, y, x, y]); from = -1; }
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0, from = -1; y <= height; y++) {
      const edge = y < height && at(x, y) !== at(x - 1, y);
      if (edge && from < 0) from = y;
      if (!edge && from >= 0) { lines.push([x, from, x, y]); from = -1; }
    }
  }
  return lines;
}
