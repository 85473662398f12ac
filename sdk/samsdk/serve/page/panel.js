// The panel beside the image: objects, measurements, display, files. Texts from outside become text, never markup.

import * as api from "./api.js";

const element = (id) => document.getElementById(id);

/** Three figures of a number below 1000, whole ones above it. */
export function number(value) {
  if (value === 0) return "0";
  const digits = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A measured quantity as people read it: whole pixels, three figures of lengths and areas. */
function quantity({ value, unit }) {
  return `${Number.isInteger(value) ? value.toLocaleString("en") : number(value)} ${unit}`;
}

/** The area of an answer, in mm² where it is known. */
function area(answer) {
  const found = (answer.measures ?? []).filter((one) => one.name === "area");
  return found.find((one) => one.unit === "mm²") ?? { value: answer.area, unit: "px²" };
}

function advice(confidence) {
  if (confidence >= 0.8) return "";
  return confidence >= 0.6 ? "Check the outline." : "Low: correct it with more clicks or a box.";
}

const FIRST = ["area", "longest diameter", "shortest diameter"];

function row(one) {
  const name = document.createElement("dt");
  const value = document.createElement("dd");
  name.textContent = one.name[0].toUpperCase() + one.name.slice(1);
  value.textContent = quantity(one);
  if (one.name === "area") value.className = "major";
  if (one.range) {
    const range = document.createElement("span");
    range.className = "range";
    range.textContent = one.range.map((end) => number(end)).join(" to ");
    value.append(range);
  }
  return [name, value];
}

/** What moved prompts said of an outline. */
function firmness(stability) {
  if (!stability) return "";
  const share = `${Math.round(100 * stability.agreement)}\u00a0%`;
  return stability.agreement >= 0.8
    ? `Clicks a little elsewhere agree to ${share}.`
    : `Unstable: clicks a little elsewhere agree to ${share} only. Add clicks or a box.`;
}

export class Panel {
  constructor(work, report, redraw) {
    this.work = work;
    this.report = report;
    this.redraw = redraw;
    element("new").addEventListener("click", () => { work.newObject(); element("overlay").focus(); });
    element("opacity").addEventListener("input", redraw);
    element("show").addEventListener("change", redraw);
    element("spacing").addEventListener("change", () => this.spacingTyped());
    for (const id of ["width", "level"]) element(id).addEventListener("input", () => this.windowMoved());
    element("reset-window").addEventListener("click", () => { work.picture.reset(); this.showWindow(); redraw(); });
  }

  get opacity() { return element("show").checked ? Number(element("opacity").value) : 0; }

  get masksShown() { return element("show").checked; }

  /** Another image was opened. */
  opened() {
    const { session: { shown, spacing, frames, formats, dicom_formats }, picture: { range } } = this.work;
    // Fine enough that a narrow window of many values can be had.
    const step = Math.min(range / 500, Math.abs(shown.high - shown.low) / 20 || Infinity);
    const [least, greatest] = [Math.min(shown.least, shown.low, shown.high), Math.max(shown.greatest, shown.low, shown.high)];
    Object.assign(element("width"), { min: step, max: range * 1.5, step, disabled: false });
    Object.assign(element("level"), { min: least - range / 4, max: greatest + range / 4, step, disabled: false });
    element("frame-section").hidden = frames === 1;
    element("frame").max = frames;
    element("frames").textContent = `of ${frames.toLocaleString("en")}`;
    this.showFrame();
    element("reset-window").disabled = false;
    element("spacing").disabled = false;
    element("spacing").value = spacing ? [...new Set(spacing)].map((side) => Number(side.toPrecision(6))).join(" × ") : "";
    element("spacing-note").textContent = spacing ? "From the file." : "Type it in to measure in mm.";
    this.showWindow();
    element("formats").replaceChildren(...[...formats, ...dicom_formats].map((kind) => this.saveButton(kind)));
  }

  showFrame() {
    const { frame, session } = this.work;
    element("frame").value = frame + 1;
    element("frame-before").disabled = frame === 0;
    element("frame-after").disabled = frame >= session.frames - 1;
  }

  showWindow() {
    const { windowWidth, windowLevel } = this.work.picture;
    element("width").value = windowWidth;
    element("level").value = windowLevel;
    for (const id of ["width", "level"]) element(id).setAttribute("aria-valuetext", number(Number(element(id).value)));
  }

  windowMoved() {
    this.setWindow(Number(element("width").value), Number(element("level").value));
  }

  /** Window and level, kept within what the sliders can show; once a picture of the screen is enough. */
  setWindow(width, level) {
    const within = (id, value) => Math.min(Number(element(id).max), Math.max(Number(element(id).min), value));
    this.wanted = [within("width", width), within("level", level)];
    if (this.scheduled) return;
    this.scheduled = requestAnimationFrame(() => {
      this.scheduled = null;
      this.work.picture.setWindow(...this.wanted);
      this.showWindow();
      this.redraw();
    });
  }

  get window() { return this.scheduled ? this.wanted : [this.work.picture.windowWidth, this.work.picture.windowLevel]; }

  spacingTyped() {
    const text = element("spacing").value.trim().replace(",", ".");
    const sides = text ? text.split(/[×x\s]+/).map(Number) : [];
    if (sides.length > 2 || sides.some((side) => !(side > 0 && side <= 1000))) {
      this.report(new api.Problem(0, "spacing", "Type the side of a pixel in mm, for example 0.2; or two: 0.2 × 0.3 (rows, columns)."));
      return;
    }
    element("spacing-note").textContent = sides.length ? "Typed in." : "Type it in to measure in mm.";
    this.work.setSpacing(sides.length ? sides : null).catch(this.report);
  }

  saveButton(kind) {
    const names = { png: "PNG", nifti: "NIfTI", coco: "JSON", segmentation: "DICOM SEG", report: "DICOM report" };
    const button = document.createElement("button");
    button.textContent = names[kind] ?? kind;
    button.dataset.format = kind;
    button.addEventListener("click", () => this.save(kind).catch(this.report));
    return button;
  }

  async save(kind) {
    const all = element("scope").value === "all";
    const number = all ? null : this.work.active;
    const { session, file } = this.work;
    // The service keeps nothing of a patient, whom DICOM files name: it gets the file once more.
    const blob = await this.work.inTurn(() => session.dicom_formats.includes(kind)
      ? api.downloadDicom(this.work.session.id, kind, number, file)
      : api.download(this.work.session.id, kind, number));
    const suffix = { png: "png", nifti: "nii.gz", coco: "json", segmentation: "dcm", report: "zip" }[kind] ?? kind;
    const link = document.createElement("a");
    const base = this.work.file.name.replace(/(\.nii)?\.[^.]*$/, "");
    link.download = `${base}-${all ? "objects" : `object-${number}`}.${suffix}`;
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  /** Show the objects as they are. */
  update() {
    const { work } = this;
    const found = [...work.objects.values()].filter((one) => one.answer || one.steps.length || one.undone.length);
    element("objects").replaceChildren(...found.map((one) => this.item(one)));
    element("objects").querySelector(".active")?.scrollIntoView({ block: "nearest" });
    element("no-objects").hidden = found.length > 0 && work.active !== null;
    element("no-objects").textContent = found.length ? "The next click starts a new object." : "None yet. Click one in the image.";
    element("new").disabled = !work.session || work.active === null;
    element("undo").disabled = work.done.length === 0;
    element("redo").disabled = work.taken.length === 0;
    const answer = work.current?.answer;
    const none = !found.some((one) => one.answer);
    for (const button of element("formats").children) {
      button.disabled = element("scope").value === "all" ? none : !answer;
    }
    element("measures-section").hidden = !answer;
    if (answer) this.measure(answer);
  }

  measure(answer) {
    const known = answer.measures ?? [{ name: "area", value: answer.area, unit: "px²" }];
    // In mm where pixels have a size, else in pixels; never both beside each other.
    const metric = known.some((one) => !one.unit.startsWith("px"));
    const rows = known.filter((one) => one.unit.startsWith("px") !== metric);
    const shown = (wanted) => rows.filter((one) => FIRST.includes(one.name) === wanted).flatMap(row);
    element("measures").replaceChildren(...shown(true));
    element("more").replaceChildren(...shown(false));
    element("more-measures").hidden = rows.length <= 1;
    element("confidence").value = answer.confidence;
    element("confidence-text").textContent = `${Math.round(100 * answer.confidence)} %`;
    element("advice").textContent = advice(answer.confidence);
    element("stability").textContent = firmness(answer.stability);
  }

  item(one) {
    const { work } = this;
    const item = document.createElement("li");
    item.className = one.number === work.active ? "active" : "";
    const swatch = document.createElement("button");
    swatch.className = "swatch";
    swatch.style.background = one.visible ? one.colour : "transparent";
    swatch.style.borderColor = one.colour;
    swatch.title = one.visible ? "Hide" : "Show";
    swatch.setAttribute("aria-label", `Show ${one.name}`);
    swatch.setAttribute("aria-pressed", String(one.visible));
    swatch.addEventListener("click", () => { one.visible = !one.visible; this.update(); this.redraw(); });
    const name = document.createElement("input");
    name.value = one.name;
    name.maxLength = 100;
    name.setAttribute("aria-label", `Name of object ${one.number}`);
    name.addEventListener("focus", () => { if (work.active !== one.number) { work.active = one.number; this.mark(item); } });
    name.addEventListener("change", () => work.rename(one.number, name.value.trim() || `Object ${one.number}`).catch(this.report));
    const size = document.createElement("span");
    size.className = "size";
    size.textContent = one.answer ? quantity(area(one.answer)) : "undone";
    const away = document.createElement("button");
    away.className = "delete";
    away.textContent = "×";
    away.title = "Delete";
    away.setAttribute("aria-label", `Delete ${one.name}`);
    away.addEventListener("click", (event) => { event.stopPropagation(); work.remove(one.number).catch(this.report); });
    item.append(swatch, name, size, away);
    item.addEventListener("click", (event) => { if (event.target === item || event.target === size) work.choose(one.number); });
    return item;
  }

  /** Show another object as the chosen one, without making the list anew while somebody types in it. */
  mark(item) {
    for (const other of element("objects").children) other.classList.toggle("active", other === item);
    const answer = this.work.current?.answer;
    element("measures-section").hidden = !answer;
    if (answer) this.measure(answer);
    this.redraw();
  }
}
