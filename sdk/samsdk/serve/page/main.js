// The page: what people do goes to `work`, what changes goes to the screen.

import * as api from "./api.js";
import { listen } from "./gestures.js";
import { Panel, number } from "./panel.js";
import { View } from "./view.js";
import { Work } from "./work.js";

const element = (id) => document.getElementById(id);
const stage = element("stage");
export const view = new View(element("picture"), element("overlay"));
export const work = new Work(changed);
const panel = new Panel(work, report, () => view.redraw());
let tool = "add";
let dragged = null;
let cross = null;
let shownSession = null;

const TOUCH = matchMedia("(pointer: coarse)").matches;
const HINTS = {
  add: TOUCH ? "Tap the object. Exclude takes away what does not belong to it." : "Click the object. Right-click what does not belong to it.",
  remove: "Click what does not belong to the object.",
  box: "Drag a box around the object.",
  move: "Drag the image.",
  window: "Drag sideways for contrast, up and down for brightness.",
};

view.paint = (context) => {
  if (panel.masksShown) {
    const ordered = [...work.objects.values()].sort((a, b) => (a.number === work.active) - (b.number === work.active));
    for (const one of ordered) {
      if (one.visible) view.drawLayer(context, one.layer, one.colour, panel.opacity, one.number === work.active);
    }
    const step = work.current?.steps.at(-1);
    if (step?.box) view.drawBox(context, step.box, work.current.colour);
    step?.points.forEach((point, index) => view.drawPoint(context, point, step.labels[index] === 1));
  }
  if (dragged) view.drawBox(context, dragged, "#ffd166");
  if (cross) view.drawCross(context, cross);
};

function changed() {
  if (work.session !== shownSession) {
    shownSession = work.session;
    if (work.session) {
      view.show(work.picture, work.session.size);
      panel.opened();
      element("welcome").hidden = true;
      element("hint").hidden = false;
      element("latency").textContent = "";
      cross = null;
    }
  }
  panel.update();
  view.request("above");
}

export function report(problem) {
  element("toast-text").textContent = problem instanceof api.Problem ? problem.message : `Something went wrong: ${problem.message}`;
  element("toast").hidden = false;
  clearTimeout(report.timer);
  report.timer = setTimeout(() => { element("toast").hidden = true; }, 12000);
}

function busy(text) {
  element("busy").hidden = !text;
  element("busy-text").textContent = text ?? "";
}

async function open(file, frame = 0) {
  if (!file) return;
  element("toast").hidden = true;
  busy("Reading and encoding the image…");
  try {
    await work.open(file, frame);
    const { size: [height, width], frames } = work.session;
    const which = frames > 1 ? `frame ${frame + 1} of ${frames}, ` : "";
    element("status").textContent = `${which}${width} × ${height} px, encoded in ${number(work.session.timings.encode)} ms`;
    element("overlay").focus({ preventScroll: true });
  } catch (problem) {
    report(problem);
  } finally {
    busy(null);
  }
}

/** Another frame or page of the file that is open, from 0 on; one that it does not have is the nearest that it has. */
async function openFrame(frame) {
  const wanted = Math.min(work.session.frames - 1, Math.max(0, Math.round(frame) || 0));
  if (wanted !== work.frame) await open(work.file, wanted);
  panel.showFrame();
}

/** Run a prompt and say how long it took from the click to the mask on the screen. */
async function timed(start, prompt) {
  element("toast").hidden = true;
  element("status").textContent = "…";
  try {
    const answer = await prompt;
    const drawn = await view.request("above");
    performance.measure("click-to-mask", { start, end: drawn, detail: answer.timings.total });
    work.measure(answer).then(() => work.refine()).catch(report);
    element("latency").textContent = `${Math.round(drawn - start)} ms (model ${Math.round(answer.timings.total)})`;
    element("status").textContent = answer.box
      ? `Object ${answer.object}: confidence ${Math.round(100 * answer.confidence)} %`
      : "Nothing found there. Try another place or a box.";
  } catch (problem) {
    element("status").textContent = "";
    report(problem);
  }
}

function click(x, y, positive, start = performance.now()) {
  if (!work.session) return;
  const [height, width] = work.session.size;
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  timed(start, work.point(x, y, positive));
}

listen(view, stage, () => tool, {
  click,
  boxing(box) { dragged = work.session ? box : null; view.request("above"); },
  box(box, start) { if (work.session && box[2] - box[0] >= 1 && box[3] - box[1] >= 1) timed(start, work.box(box)); },
  contrast(dx, dy) {
    if (!work.session) return;
    const speed = work.picture.range / 400;
    const [width, level] = panel.window;
    panel.setWindow(width + dx * speed, level + dy * speed);
  },
  hover(x, y) {
    if (!work.session) return;
    const [height, width] = work.session.size;
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    element("cursor").textContent = inside ? `${Math.floor(x)}, ${Math.floor(y)}: ${work.picture.value(x / width, y / height)}` : "";
  },
});

function choose(wanted) {
  tool = wanted;
  stage.dataset.tool = wanted;
  element("hint").textContent = HINTS[wanted];
  for (const button of element("tools").children) {
    const chosen = button.dataset.tool === wanted;
    button.setAttribute("aria-checked", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
}

const step = (direction) => work.session && work.step(direction).catch(report);
const pick = () => element("file").click();
for (const button of element("tools").children) button.addEventListener("click", () => choose(button.dataset.tool));
element("tools").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const all = [...element("tools").children];
  const next = all.at((all.findIndex((one) => one.dataset.tool === tool) + by) % all.length);
  choose(next.dataset.tool);
  next.focus();
});
element("open").addEventListener("click", pick);
element("browse").addEventListener("click", pick);
element("file").addEventListener("change", () => { open(element("file").files[0]); element("file").value = ""; });
element("undo").addEventListener("click", () => step("undo"));
element("redo").addEventListener("click", () => step("redo"));
element("fit").addEventListener("click", () => view.fit());
element("help").addEventListener("click", () => element("help-dialog").showModal());
element("frame").addEventListener("change", () => openFrame(Number(element("frame").value) - 1));
element("frame-before").addEventListener("click", () => openFrame(work.frame - 1));
element("frame-after").addEventListener("click", () => openFrame(work.frame + 1));
element("scope").addEventListener("change", () => panel.update());
element("toast-close").addEventListener("click", () => { element("toast").hidden = true; });

addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) stage.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  open(event.dataTransfer.files[0]);
});
addEventListener("pagehide", (event) => { if (!event.persisted) work.close(true); });

function moveCross(event) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const [height, width] = work.session.size;
  cross ??= [Math.floor(width / 2), Math.floor(height / 2)];
  const far = event.shiftKey ? 1 : Math.max(1, Math.round(8 / view.scale));
  cross = [Math.min(width - 1, Math.max(0, cross[0] + by[0] * far)), Math.min(height - 1, Math.max(0, cross[1] + by[1] * far))];
  element("cursor").textContent = `${cross.join(", ")}: ${work.picture.value(cross[0] / width, cross[1] / height)}`;
  view.request("above");
}

const KEYS = {
  o: pick, f: () => choose("add"), b: () => choose("remove"), r: () => choose("box"), h: () => choose("move"),
  w: () => choose("window"), n: () => work.session && work.newObject(), 0: () => view.fit(),
  ",": () => work.session && openFrame(work.frame - 1), ".": () => work.session && openFrame(work.frame + 1),
  m: () => element("show").click(), "?": () => element("help-dialog").showModal(),
  "[": () => fade(-0.1), "]": () => fade(0.1),
  Delete: () => work.active !== null && work.remove(work.active).catch(report),
  Escape: () => { cross = null; element("toast").hidden = true; view.request("above"); },
};
for (const key of ["+", "=", "-"]) {
  KEYS[key] = () => view.zoomAt(key === "-" ? 0.8 : 1.25, view.above.clientWidth / 2, view.above.clientHeight / 2);
}

function fade(by) {
  element("opacity").value = Number(element("opacity").value) + by;
  view.request("above");
}

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select") || document.querySelector("dialog[open]");
  if (typing) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" || key === "y") { event.preventDefault(); step(key === "y" || event.shiftKey ? "redo" : "undo"); }
    return;
  }
  if (event.altKey) return;
  if (event.target === view.above && work.session) {
    if (key.startsWith("Arrow")) { event.preventDefault(); moveCross(event); return; }
    if (key === "Enter") { if (cross) click(cross[0] + 0.5, cross[1] + 0.5, !event.shiftKey); return; }
  }
  const chosen = /^[1-9]$/.test(key) ? [...work.objects.keys()][Number(key) - 1] : undefined;
  if (chosen !== undefined) work.choose(chosen);
  else if (!event.target.matches("input[type=range]") || !key.startsWith("Arrow")) KEYS[key]?.();
});

function askToken() {
  const dialog = element("token-dialog");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => { resolve(element("token").value || null); element("token").value = ""; }, { once: true });
    dialog.showModal();
  });
}

api.begin(askToken);
choose("add");
panel.update();
api.models().then(({ models: [first], samsdk }) => {
  element("model").textContent = `${first.name} on ${first.provider.replace("ExecutionProvider", "")}`;
  element("model").title = `${first.bundle}, samsdk ${samsdk}`;
  if (!first.trained.includes("points")) {
    choose("box");
    element("hint").textContent = "This model was trained with boxes: drag one around the object.";
  }
}).catch(report);
