// The text itself, a slice at a time, with what workers have read of it; and the map of all of it.

import { add, el, fill, shown, slicer } from "./dom.js";
import { count, counted } from "./numbers.js";
import { CoverageStrip } from "./overview.js";

const PARTS_LISTED = 2000;

export class Reader {
  constructor(app) {
    this.app = app;
    this.part = 0;
    this.slice = 0;
    this.chosen = null;
    this.strip = new CoverageStrip(app, 34);
    this.parts = el("select", { "aria-label": "Part of the text", onchange: () => this.show(Number(this.parts.value), 0) });
    this.where = el("span", { class: "note" });
    const button = (text, title, by) => el("button", { type: "button", title, onclick: () => this.move(by) }, text);
    this.body = el("pre", { class: "passage", tabindex: "0", "aria-label": "The text" });
    this.body.addEventListener("click", (event) => {
      const mark = event.target.closest?.("[data-start]");
      if (mark) app.openPlace(this.part, Number(mark.dataset.start), Number(mark.dataset.end));
    });
    this.note = el("p", { class: "note" });
    this.root = el(
      "div",
      { class: "reader" },
      this.strip.root,
      el("div", { class: "bar" }, this.parts, button("←", "Before this (p)", -1), button("→", "After this (n)", 1),
        el("button", { type: "button", title: "Next place that was read (r)", onclick: () => this.nextRead() }, "next that was read"),
        this.where),
      this.note,
      this.body,
    );
  }

  get sizes() {
    return this.app.run.context.parts;
  }

  get sliceChars() {
    return this.app.run.context.slice_chars;
  }

  update() {
    const { run } = this.app;
    if (this.shownRun !== run.key) {
      this.shownRun = run.key;
      this.part = this.slice = 0;
      this.chosen = null;
      this.isPlaced = false;
      this.parts.hidden = this.sizes.length < 2;
      fill(this.parts, this.sizes.slice(0, PARTS_LISTED).map(([name, chars], number) =>
        el("option", { value: number }, `${name.slice(0, 60)} (${count(chars)})`)));
    }
    this.strip.update();
    if (!this.isPlaced && this.app.coverage.segments.length) this.nextRead();
    else this.draw();
  }

  // Show a place: characters `start` to `end` of a part, marked.
  async show(part, start, end = null) {
    this.isPlaced = true;
    this.part = part;
    this.slice = Math.floor(start / this.sliceChars);
    this.chosen = end === null ? null : [start, end];
    await this.draw();
    this.body.querySelector(".here")?.scrollIntoView({ block: "center" });
    if (end === null) this.near(start);
  }

  near(start) {
    const marks = [...this.body.querySelectorAll("[data-from]")];
    const mark = marks.findLast((each) => Number(each.dataset.from) <= start);
    mark?.scrollIntoView({ block: "center" });
  }

  async draw() {
    const { app } = this;
    const { run, coverage } = app;
    if (run.context.missing || !this.sizes.length || run.has_text === false) {
      const why = run.context.missing ?? (run.has_text === false ? "it is too long for this file" : "there is none");
      fill(this.note, `The text can't be shown: ${why}.`);
      fill(this.body);
      return;
    }
    const [name, chars] = this.sizes[this.part];
    const from = this.slice * this.sliceChars;
    const to = Math.min(chars, from + this.sliceChars);
    const signs = `${run.key} ${this.part} ${this.slice} ${app.calls.version} ${this.chosen}`;
    if (signs === this.drawn) return;
    this.drawn = signs;
    this.parts.value = this.part;
    fill(this.where, `${name ? `${name.slice(0, 60)}: ` : ""}characters ${count(from)}–${count(to)} of ${count(chars)}`);
    fill(this.note, "Marked: read by workers, stronger the more often. A click on it shows the calls.");
    this.strip.mark = coverage.bases[this.part] + (this.chosen ? this.chosen[0] : from);
    this.strip.update();
    let text = "";
    if (to > from) text = await app.source.get(`text/${run.key}/${this.part}/${this.slice}`);
    if (signs !== this.drawn) return;
    const cut = slicer(text);
    fill(this.body, this.pieces(from, to).map(([start, end, depth, isHere]) => {
      const part = shown(cut(start - from, end - from));
      if (!depth && !isHere) return el("span", { "data-from": start }, part);
      const deep = depth ? `read deep-${Math.min(4, depth)}` : "";
      return el("mark", {
        class: `${deep} ${isHere ? "here" : ""}`, "data-from": start,
        "data-start": depth ? start : null, "data-end": depth ? end : null,
        title: depth ? `read ${counted(depth, "time")}` : null,
      }, part);
    }));
    if (!text) add(this.body, ["(empty)"]);
  }

  // [start, end, readings, chosen] of the slice, in its order, nothing left out.
  pieces(from, to) {
    const segments = this.app.coverage.within(this.part, from, to);
    const [first, last] = this.chosen ?? [0, 0];
    const cuts = new Set([from, to]);
    for (const [start, end] of segments) cuts.add(start).add(end);
    for (const at of [first, last]) if (at > from && at < to) cuts.add(at);
    const ordered = [...cuts].sort((a, b) => a - b);
    let place = 0;
    return ordered.slice(0, -1).map((start, number) => {
      while (place < segments.length && segments[place][1] <= start) place++;
      const depth = place < segments.length && segments[place][0] <= start ? segments[place][2] : 0;
      return [start, ordered[number + 1], depth, start >= first && start < last];
    });
  }

  move(by) {
    const slices = (part) => Math.max(1, Math.ceil(this.sizes[part][1] / this.sliceChars));
    let [part, slice] = [this.part, this.slice + by];
    if (slice >= slices(part) && part + 1 < this.sizes.length) [part, slice] = [part + 1, 0];
    else if (slice < 0 && part > 0) [part, slice] = [part - 1, slices(part - 1) - 1];
    slice = Math.max(0, Math.min(slices(part) - 1, slice));
    this.chosen = null;
    [this.part, this.slice] = [part, slice];
    this.draw();
    this.body.scrollTop = 0;
  }

  nextRead() {
    const { coverage } = this.app;
    const after = coverage.bases[this.part] + (this.chosen ? this.chosen[1] : this.slice * this.sliceChars);
    const next = coverage.segments.find(([start]) => start >= after) ?? coverage.segments[0];
    if (!next) return;
    const part = coverage.bases.findLastIndex((base) => base <= next[0]);
    this.show(part, next[0] - coverage.bases[part], next[1] - coverage.bases[part]);
  }
}
