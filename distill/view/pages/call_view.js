// One worker call: its prompt with the passage marked, its answer, and where the passage stands.

import { el, fill, json, longText, shown, slicer } from "./dom.js";
import { count, seconds } from "./numbers.js";

const AROUND_CHARS = 300;
const PROMPT_CHARS = 40000;

export class CallView {
  constructor(app, onToggle) {
    this.app = app;
    this.onToggle = onToggle;
    this.root = el("aside", { class: "call-view", tabindex: "0", "aria-label": "One call", hidden: true });
  }

  get isOpen() {
    return !this.root.hidden;
  }

  close() {
    this.root.hidden = true;
    this.row = null;
    this.onToggle(false);
  }

  async open(row) {
    const { app } = this;
    this.row = row;
    if (this.root.hidden) {
      this.root.hidden = false;
      this.onToggle(true);
    }
    let call;
    try {
      call = await app.source.call(app.run, row);
    } catch (error) {
      call = { broken: error.message };
    }
    if (this.row !== row) return;
    fill(this.root, this.head(row), call.broken ? el("p", { class: "caution" }, `The call can't be read: ${call.broken}`) : this.body(row, call));
    this.root.scrollTop = 0;
  }

  head(row) {
    const { calls } = this.app;
    const { turn, cell, item } = calls.columns;
    return el(
      "header",
      {},
      el("h2", {}, `Call ${count(row + 1)}`),
      el("button", { class: "link", type: "button", onclick: () => this.app.openTurn(turn[row], cell[row]) },
        `turn ${turn[row]}, cell ${cell[row]}`),
      el("span", { class: "note" }, `item ${item[row]}`),
      el("button", { class: "close", type: "button", title: "Close (Esc)", onclick: () => this.close() }, "✕"),
    );
  }

  body(row, call) {
    return [
      el("h3", {}, call.error ? "Why there is no answer" : "Answer"),
      call.error
        ? el("div", { class: "caution" }, longText(`${call.error.kind}: ${call.error.detail}`, "prose"))
        : el("div", { class: "answer" }, longText(call.response ?? "", "answer-text")),
      this.places(row),
      el("h3", {}, "Prompt"),
      this.prompt(call),
      el("h3", {}, "Facts"),
      this.facts(call),
    ];
  }

  prompt(call) {
    const cut = slicer(call.prompt);
    const size = [...call.prompt].length;
    const parts = [];
    let at = 0;
    for (const span of call.spans ?? []) {
      const start = Math.max(at, Math.min(size, span.prompt_start));
      const end = Math.min(size, span.prompt_start + Math.max(0, span.end - span.start));
      if (start > at) parts.push(["instruction", at, start]);
      if (end > start) parts.push(["passage-part", start, end]);
      at = Math.max(at, end);
    }
    if (at < size) parts.push(["instruction", at, size]);
    if (size > PROMPT_CHARS) return longText(call.prompt);
    return el("pre", { class: "prompt", tabindex: "0" },
      parts.map(([kind, start, end]) => el("span", { class: kind }, cut(start, end))));
  }

  // The passages in their place, those that stand close together as one.
  places(row) {
    const { calls, coverage } = this.app;
    const [first, last] = calls.spanRange(row);
    const groups = [];
    const found = [];
    for (let span = first; span < Math.min(last, first + 200); span++) {
      const place = coverage.place(calls, span);
      if (place && place.end > place.start) found.push(place);
    }
    found.sort((a, b) => a.part - b.part || a.start - b.start);
    for (const place of found) {
      const group = groups.at(-1);
      const reach = group?.at(-1);
      if (reach && reach.part === place.part && place.start - reach.end < AROUND_CHARS) group.push(place);
      else groups.push([place]);
    }
    if (!groups.length) return el("p", { class: "note" }, "Nothing of the text was found in this prompt.");
    return [el("h3", {}, "In the text"), groups.slice(0, 20).map((group) => this.place(group))];
  }

  place(group) {
    const { app } = this;
    const [{ part, start }, { end }] = [group[0], group.at(-1)];
    const name = app.coverage.parts[part][0];
    const around = el("pre", { class: "around" }, "…");
    this.around(part, group, around);
    return el("div", { class: "place" },
      el("button", { class: "link", type: "button", onclick: () => app.openText(part, start, end) },
        `${name ? `${shown(name)}: ` : ""}characters ${count(start)}–${count(end)}`),
      around);
  }

  async around(part, group, target) {
    const { app } = this;
    if (app.run.has_text === false || app.run.context.missing) return void target.remove();
    const from = Math.max(0, group[0].start - AROUND_CHARS);
    const to = Math.min(app.coverage.parts[part][1], group.at(-1).end + AROUND_CHARS);
    try {
      const text = slicer(await textOf(app, part, from, to));
      const pieces = [];
      let at = from;
      for (const { start, end } of group) {
        if (start > at) pieces.push(text(at - from, start - from));
        if (end > at) pieces.push(el("mark", { class: "here" }, text(Math.max(at, start) - from, end - from)));
        at = Math.max(at, end);
      }
      fill(target, pieces, text(at - from, to - from));
    } catch (error) {
      fill(target, `The text can't be read: ${error.message}`);
    }
  }

  facts(call) {
    const { usage, model } = call;
    const rows = [
      ["status", call.status],
      ["id", call.id],
      ["tokens", `${count(usage.input_tokens)} in${usage.cached_input_tokens ? ` (${count(usage.cached_input_tokens)} cached)` : ""}, ${count(usage.output_tokens)} out`],
      ["times", `${seconds(call.total_s ?? 0)} in all: queue ${seconds(call.queue_s ?? 0)}, computing ${seconds(call.compute_s ?? 0)}; device ${seconds(call.gpu_s ?? 0)}`],
      ["server", `${call.producer.name} (${call.producer.kind}, pid ${call.producer.pid})`],
      ["attempt", call.attempt],
      ["sampling", json(call.sampling)],
      ["model", json(model)],
      ["token ids", call.token_ids_count === null ? "not in the log" : `${count(call.prompt_token_ids_count ?? 0)} + ${count(call.token_ids_count)}` + (call.mean_logprob === undefined ? "" : `, mean log-probability ${call.mean_logprob.toFixed(3)}`)],
    ];
    return el("dl", { class: "call-facts" }, rows.map(([name, value]) => [
      el("dt", {}, name), el("dd", {}, longText(String(value), "fact-text"))]));
  }
}

// Characters of a text, from the slices that hold them.
async function textOf(app, part, from, to) {
  const size = app.run.context.slice_chars;
  let text = "";
  for (let slice = Math.floor(from / size); slice * size < to; slice++) {
    const piece = await app.source.get(`text/${app.run.key}/${part}/${slice}`);
    text += slicer(piece)(Math.max(0, from - slice * size), to - slice * size);
  }
  return text;
}
