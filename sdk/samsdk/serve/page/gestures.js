// Mouse, pen, fingers and keys on the image become: click, box, pan, zoom, contrast.

const STILL = 6; // px that a hand may move in a click

/**
 * `on` has click(x, y, positive), boxing(box or null), box(box), contrast(dx, dy) and hover(x, y), in pixels of the image
 * but for contrast; `tool()` says which tool is chosen.
 */
export function listen(view, stage, tool, on) {
  const canvas = view.above;
  const fingers = new Map();
  let press = null;
  let space = false;

  const place = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  const boxFrom = ([x0, y0], [x1, y1]) => {
    const [height, width] = view.size;
    const [left, top] = view.toImage(Math.min(x0, x1), Math.min(y0, y1));
    const [right, bottom] = view.toImage(Math.max(x0, x1), Math.max(y0, y1));
    return [Math.max(0, left), Math.max(0, top), Math.min(width, right), Math.min(height, bottom)];
  };
  const what = (event) => {
    if (event.button === 1 || space) return "move";
    if (event.button === 2 || event.altKey) return "click";
    if (event.shiftKey) return "box";
    return tool() === "add" || tool() === "remove" ? "click" : tool();
  };

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
    if (fingers.size > 1) {
      // A second finger: whatever the first began, this is zooming.
      if (press?.kind === "box") on.boxing(null);
      press = null;
      return;
    }
    press = { kind: what(event), from: place(event), last: place(event), moved: false,
      negative: event.button === 2 || event.altKey || tool() === "remove" };
  });

  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (!fingers.has(event.pointerId)) { on.hover(...view.toImage(...at)); return; }
    if (fingers.size === 2) { pinch(event.pointerId, at); return; }
    fingers.set(event.pointerId, at);
    if (!press) return;
    const [dx, dy] = [at[0] - press.last[0], at[1] - press.last[1]];
    press.moved ||= Math.hypot(at[0] - press.from[0], at[1] - press.from[1]) > STILL;
    if (!press.moved) return;
    press.last = at;
    stage.classList.toggle("panning", press.kind === "move" || press.kind === "click");
    if (press.kind === "box") on.boxing(boxFrom(press.from, at));
    else if (press.kind === "window") on.contrast(dx, dy);
    else view.moveBy(dx, dy);
  });

  function pinch(id, at) {
    const [other] = [...fingers].filter(([name]) => name !== id).map(([, where]) => where);
    const before = fingers.get(id);
    const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const far = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    const [from, to] = [middle(before, other), middle(at, other)];
    view.moveBy(to[0] - from[0], to[1] - from[1]);
    view.zoomAt(far(at, other) / far(before, other), ...to);
    fingers.set(id, at);
  }

  canvas.addEventListener("pointerup", (event) => {
    const done = press;
    fingers.delete(event.pointerId);
    press = null;
    stage.classList.remove("panning");
    if (!done) return;
    if (done.kind === "click" && !done.moved) on.click(...view.toImage(...done.from), !done.negative, event.timeStamp);
    if (done.kind === "box") {
      on.boxing(null);
      if (done.moved) on.box(boxFrom(done.from, place(event)), event.timeStamp);
    }
  });
  canvas.addEventListener("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    press = null;
    on.boxing(null);
    stage.classList.remove("panning");
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    view.zoomAt(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), ...place(event));
  }, { passive: false });
  addEventListener("keydown", (event) => { if (event.code === "Space" && event.target === canvas) { space = true; event.preventDefault(); } });
  addEventListener("keyup", (event) => { if (event.code === "Space") space = false; });
  addEventListener("blur", () => { space = false; });
}
