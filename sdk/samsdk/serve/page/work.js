// One open image and its objects: what was clicked, what the service answered, and the way back.

import * as api from "./api.js";
import { Picture } from "./picture.js";
import { Layer } from "./view.js";

// Okabe and Ito's colours, brightest first: they stay apart for any colour vision.
const COLOURS = ["#56b4e9", "#e69f00", "#3ddbb0", "#f0e442", "#ff7f50", "#e39ac6", "#8ab4ff", "#d0d0d0"];

// How many prompts are moved a little, for the ranges of what is measured.
const VARIATIONS = 8;

export class Work {
  /** `changed` is called after whatever changed, with nothing. */
  constructor(changed) {
    this.changed = changed;
    this.session = null;
    this.objects = new Map();
    this.active = null;
    this.done = [];
    this.taken = [];
    this.file = null;
    this.frame = 0;
    this.refining = null;
    this.queue = Promise.resolve();
    this.waiting = 0;
  }

  /** Run one thing after the other: a click may build on the answer to the click before. */
  inTurn(task) {
    this.waiting += 1;
    const result = this.queue.then(task).finally(() => { this.waiting -= 1; });
    this.queue = result.catch(() => {});
    return result;
  }

  /** Open a file; the image that was open is closed. */
  open(file, frame) {
    return this.inTurn(async () => {
      const opened = await api.openImage(file, frame);
      const picture = new Picture(opened.shown, await api.levels(opened.id));
      this.close();
      Object.assign(this, { session: opened, picture, file, frame, objects: new Map(), active: null, done: [], taken: [] });
      this.changed();
    });
  }

  /** Let the service forget the image. */
  close(leaving = false) {
    this.refining?.abort();
    if (this.session) api.close(this.session.id, leaving).catch(() => {});
    this.session = null;
  }

  get current() { return this.objects.get(this.active) ?? null; }

  newObject() {
    this.active = null;
    this.changed();
  }

  choose(number) {
    this.active = number;
    this.changed();
    this.refine();
  }

  /** One more point of the chosen object, or the first of a new one; resolves to the answer. */
  point(x, y, positive) {
    return this.inTurn(() => {
      const last = this.current?.steps.at(-1);
      if (!last && !positive) throw new api.Problem(0, "prompt", "Click the object first, then what does not belong to it.");
      return this.ask({
        points: [...(last?.points ?? []), [x, y]],
        labels: [...(last?.labels ?? []), positive ? 1 : 0],
        box: last?.box ?? null,
        mask: last?.answer ?? null,
      });
    });
  }

  /** A box around the chosen object, which starts it anew. */
  box(box) {
    return this.inTurn(() => this.ask({ points: [], labels: [], box, mask: null }));
  }

  async ask(step) {
    this.refining?.abort();
    const asked = this.session.id;
    const answer = await this.again(() => api.prompt(this.session.id, bodyOf(step, this.active)));
    if (this.session?.id !== asked) return answer;
    const object = this.object(answer.object);
    object.steps.push({ ...step, answer: answer.answer });
    object.undone = [];
    this.active = answer.object;
    this.done.push(answer.object);
    this.taken = [];
    this.take(object, answer);
    return answer;
  }

  /** Fill in what was measured of an answer, which is on the screen already. */
  async measure(answer, variations = 0, signal = undefined) {
    const asked = this.session;
    const said = await api.object(asked.id, answer.object, variations, signal);
    if (said.answer?.answer !== answer.answer || this.session !== asked) return;
    answer.measures = said.answer.measures;
    answer.stability = said.answer.stability;
    this.changed();
  }

  /** Ask for the ranges of what was measured of the chosen object; whatever is asked for next goes first. */
  async refine() {
    this.refining?.abort();
    const answer = this.current?.answer;
    if (!answer?.box || answer.stability) return;
    this.refining = new AbortController();
    // What is measured is there without them; if the service is gone, the next click says so.
    await this.measure(answer, VARIATIONS, this.refining.signal).catch(() => {});
  }

  object(number) {
    if (!this.objects.has(number)) {
      const colour = COLOURS[(number - 1) % COLOURS.length];
      this.objects.set(number, { number, name: `Object ${number}`, colour, steps: [], undone: [], visible: true, answer: null, layer: null });
    }
    return this.objects.get(number);
  }

  take(object, answer) {
    object.answer = answer;
    object.layer = answer ? new Layer(answer, object.colour) : null;
    this.changed();
  }

  /** `undo` or `redo` the last thing that was done to any object. */
  step(direction) {
    return this.inTurn(async () => {
      const [from, to] = direction === "undo" ? [this.done, this.taken] : [this.taken, this.done];
      const number = from.at(-1);
      const object = this.objects.get(number);
      if (!object) return;
      const said = await api.step(this.session.id, number, direction);
      from.pop();
      to.push(number);
      if (direction === "undo") object.undone.push(object.steps.pop());
      else object.steps.push(object.undone.pop());
      this.active = number;
      this.take(object, said.answer);
      this.refine();
    });
  }

  rename(number, name) {
    this.object(number).name = name;
    return this.inTurn(() => api.rename(this.session.id, number, name));
  }

  remove(number) {
    return this.inTurn(async () => {
      await api.remove(this.session.id, number);
      this.objects.delete(number);
      this.done = this.done.filter((one) => one !== number);
      this.taken = this.taken.filter((one) => one !== number);
      if (this.active === number) this.active = [...this.objects.keys()].at(-1) ?? null;
      this.changed();
    });
  }

  /** Say how large a pixel is, in mm; every object is measured again. */
  setSpacing(spacing) {
    return this.inTurn(async () => {
      const said = await api.setSpacing(this.session.id, spacing);
      this.session.spacing = said.spacing;
      for (const { number, answer } of said.objects) {
        const object = this.objects.get(number);
        if (object?.answer && answer) Object.assign(object.answer, { measures: answer.measures, stability: undefined });
      }
      this.changed();
      this.refine();
    });
  }

  /** Try; and once more on a fresh session, with all that was done, if the service closed this one meanwhile. */
  async again(task) {
    try {
      return await task();
    } catch (problem) {
      if (problem.status !== 410 && problem.kind !== "not_found") throw problem;
      await this.reopen();
      throw new api.Problem(0, "reopened", "The service had closed this image. It is open again; please repeat the last step.");
    }
  }

  async reopen() {
    const { spacing } = this.session;
    const opened = await api.openImage(this.file, this.frame);
    this.session = opened;
    if (spacing && !opened.spacing) await api.setSpacing(opened.id, spacing).then((said) => { opened.spacing = said.spacing; });
    for (const object of this.objects.values()) {
      object.undone = [];
      for (const step of object.steps) {
        const before = object.steps[object.steps.indexOf(step) - 1];
        const mask = step.mask === null ? null : before?.answer ?? null;
        const answer = await api.prompt(opened.id, bodyOf({ ...step, mask }, object.number));
        Object.assign(step, { answer: answer.answer, mask });
        this.take(object, answer);
        await this.measure(answer);
      }
      if (object.steps.length) await api.rename(opened.id, object.number, object.name);
    }
    this.taken = [];
  }
}

function bodyOf({ points, labels, box, mask }, object) {
  const body = { object, include: ["rle"] };
  if (points.length) Object.assign(body, { points, labels });
  if (box) body.box = box;
  if (mask) body.mask = mask;
  return body;
}
