// What one wants to know first: the answer, how it ended, what it took, how much was read, and when.

import { Drawing } from "./canvas.js";
import { el, fill, json, longText, shown } from "./dom.js";
import { count, counted, dollars, percent, seconds, short, when } from "./numbers.js";
import { Timeline } from "./timeline.js";

const ENDS = {
  final: ["good", "answered"],
  forced: ["warn", "forced: its last reply, unchecked"],
  unanswered: ["bad", "no answer"],
  failed: ["bad", "failed"],
  cancelled: ["warn", "cancelled"],
  running: ["live", "running"],
  reading: ["live", "reading the log"],
  "cut off": ["warn", "cut off: no end in the log"],
};

export function badge(status) {
  const [kind, text] = ENDS[status] ?? ["warn", status];
  return el("span", { class: `badge ${kind}` }, text);
}

function scored({ scorer, value, detail }) {
  const kind = value === null ? "plain" : value >= 0.5 ? "good" : "bad";
  return el("span", { class: `badge ${kind}`, title: detail }, `${scorer}: ${value === null ? "not told" : value.toFixed(2)}`);
}

export class Overview {
  constructor(app) {
    this.app = app;
    this.timeline = new Timeline(app);
    this.top = el("div", { class: "top" });
    this.figures = el("dl", { class: "figures" });
    this.strip = new CoverageStrip(app, 46);
    this.stripNote = el("p", { class: "note" });
    this.more = el("div", { class: "more-facts" });
    this.root = el(
      "div",
      { class: "overview" },
      this.top,
      this.figures,
      el("section", {}, el("h2", {}, "What was read"), this.stripNote, this.strip.root),
      el("section", {}, el("h2", {}, "When"), this.timeline.root),
      this.more,
    );
  }

  update() {
    const { app } = this;
    const { run, calls } = app;
    this.head(run);
    fill(this.figures, this.figureList(run, calls));
    const { share, total } = app.coverage;
    const read = app.coverage.matches?.read_chars ?? app.coverage.read;
    fill(
      this.stripNote,
      run.context.missing
        ? `The text can't be shown: ${run.context.missing}`
        : `Workers have read ${percent(share)} of the text: ${count(read)} of ${counted(total, "character")}. ` +
            "The stronger the colour, the more often; a click opens the place.",
      app.coverage.matches && !run.context.missing && this.matched(app.coverage.matches),
    );
    this.strip.update();
    this.timeline.update();
    this.details(run);
  }

  matched(matches) {
    const { calls } = this.app;
    const told = [];
    if (matches.ambiguous_chars)
      told.push(`${count(matches.ambiguous_chars)} more stand in several places of the text (pale).`);
    const found = calls.inAnswer.size;
    const subject = found === 1 ? "The answer of 1 call stands" : `The answers of ${count(found)} calls stand`;
    if (found) told.push(`${subject} in the final answer (green; a match, not a cause).`);
    return told.length ? el("span", { title: `${matches.coverage_method}; ${matches.flow_method}` }, ` ${told.join(" ")}`) : null;
  }

  head(run) {
    const signs = json([run.status, run.scores, run.query, run.answer, run.end?.error, this.app.isLoading]);
    if (signs === this.headShown) return;
    this.headShown = signs;
    const answer = run.answer;
    const hasAnswer = answer !== null && answer !== undefined;
    fill(
      this.top,
      el("p", { class: "status" }, badge(run.status), run.scores.map(scored), this.relatives(run)),
      el("h2", { class: "question" }, longText(run.query || "(no question in the log)", "question-text")),
      run.start?.redacted?.length > 0 &&
        el("p", { class: "note" }, `Texts were redacted before they were written: ${run.start.redacted.join(", ")}.`),
      this.cautions(run).map((text) => el("div", { class: "caution" }, longText(text, "prose"))),
      el(
        "div",
        { class: hasAnswer ? "answer" : "answer none" },
        el("h3", {}, "Answer"),
        hasAnswer ? longText(json(answer), "answer-text") : run.status === "running" ? "not yet" : "none",
      ),
    );
  }

  relatives(run) {
    const links = [];
    const link = (other, text) =>
      el("button", { class: "link", type: "button", onclick: () => this.app.openRun(other.key) }, text);
    const parent = this.app.state.runs.find((each) => each.id === run.short.parent);
    if (parent) links.push(link(parent, "a sub-run: its parent"));
    for (const each of this.app.state.runs)
      if (each.parent === run.id && each.key !== run.key && links.length < 12)
        links.push(link(each, `sub-run: ${each.query.slice(0, 40)}`));
    return links;
  }

  cautions(run) {
    const { end } = run;
    const told = [];
    if (end?.error) told.push(end.error);
    if (end?.answer_problem) told.push(`This is no answer that passes: ${end.answer_problem}`);
    if (end?.ended_by) told.push(`The budget of ${end.ended_by.replace("_", " ")} ended it.`);
    return told;
  }

  figureList(run, calls) {
    const { end } = run;
    const budget = run.start?.options?.budget ?? {};
    const sum = (list, name) => list.reduce((total, each) => total + each[name], 0);
    const total = (column) => (calls.columns[column] ?? []).reduce((a, b) => a + b, 0);
    const of = (limit, say) => (typeof limit === "number" ? `of at most ${say(limit)}` : "");
    const notes = (...parts) => parts.filter(Boolean).join(", ");
    const bad = run.cells.filter((cell) => cell.status === "error" || cell.status === "lost").length;
    const spent =
      end && end.supervisor_dollars !== null && end.worker_dollars !== null
        ? end.supervisor_dollars + end.worker_dollars
        : end ? null : sum(run.turns, "dollars") + calls.dollars.reduce((a, b) => a + b, 0);
    const device = end?.gpu_s || total("gpu") / 1000 + sum(run.turns, "gpu_s");
    const tokens = (input, output) => `${short(input, 1000)} → ${short(output, 1000)}`;
    const figure = (name, value, note) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "note" }, note));
    return [
      figure("Read", percent(this.app.coverage.share), `${count(this.app.coverage.matches?.read_chars ?? this.app.coverage.read)} of ${counted(this.app.coverage.total, "character")}`),
      figure("Turns", count(run.turns.length), notes(of(budget.turns, count), counted(run.cells.length, "cell"), bad && `${count(bad)} failed`)),
      figure("Worker calls", run.short.calls < 1e6 ? count(run.short.calls) : short(run.short.calls), notes(of(budget.worker_calls, short), `${count(run.short.failed)} failed`)),
      figure("Supervisor", tokens(sum(run.turns, "input"), sum(run.turns, "output")), "tokens in → out"),
      figure("Workers", tokens(total("input"), total("output")), "tokens in → out"),
      figure("Cost", dollars(spent), spent === null ? "a model has no price" : of(budget.dollars, dollars) || (spent ? "by the price table" : "no model here costs money")),
      figure("Time", seconds(run.short.elapsed_s), of(budget.wall_s, seconds) || when(run.t0)),
      figure("Device", device ? seconds(device) : "–", of(budget.gpu_s, seconds) || (device ? "of worker servers" : "no time in the log")),
    ];
  }

  details(run) {
    if (this.detailsOf === `${run.key}/${run.short.version}/${this.app.state.skipped_lines}`) return;
    this.detailsOf = `${run.key}/${run.short.version}/${this.app.state.skipped_lines}`;
    const open = new Set([...this.more.querySelectorAll("details[open]")].map((each) => each.dataset.name));
    const block = (name, text) =>
      el("details", { "data-name": name, open: open.has(name) }, el("summary", {}, name), text());
    const { start, events, processes } = run;
    const skipped = this.app.state.skipped;
    fill(
      this.more,
      el("p", { class: "facts" },
        fact("Supervisor", run.short.supervisor), fact("Worker", run.short.worker),
        fact("Run", run.id), fact("Folder", run.folder), run.short.label && fact("Label", run.short.label),
        (start?.context.sources ?? []).slice(0, 20).map((file) => fact("File", file))),
      skipped.length > 0 &&
        block(`Lines that could not be read (${count(this.app.state.skipped_lines)})`, () =>
          longText(skipped.map((each) => `${each.folder}/${each.file}:${each.line}: ${each.reason}`).join("\n"))),
      start && block("Options", () => longText(json({ ...start.options, versions: start.versions }))),
      processes.length > 0 &&
        block(`Processes (${count(processes.length)})`, () =>
          longText(processes.map((each) => `${each.name} (${each.kind}, pid ${each.pid}) ${detail(each.detail)}`).join("\n"))),
      events.length > 0 &&
        block(`Events (${count(events.length)})`, () =>
          longText(events.map((each) => `${seconds(each.t - run.t0)}  ${each.who}  ${each.event}`).join("\n"))),
    );
  }
}

function fact(name, value) {
  return el("span", { class: "fact" }, el("b", {}, name), " ", shown(value));
}

function detail(value) {
  return Object.keys(value).length ? JSON.stringify(value) : "";
}

// The whole text as a strip: each pixel's share that was read, and how often.
export class CoverageStrip {
  constructor(app, height) {
    this.app = app;
    this.mark = null;
    this.drawing = new Drawing("Which parts of the text workers have read", height, (...given) => this.draw(...given), {
      class: "strip",
      tabindex: "0",
    });
    this.root = this.drawing.element;
    this.root.addEventListener("click", (event) => this.go(event.offsetX / this.drawing.width));
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      const first = app.coverage.segments[0];
      this.go(first ? first[0] / app.coverage.total : 0);
    });
  }

  go(share) {
    const { coverage } = this.app;
    if (!coverage?.total) return;
    const at = Math.max(0, Math.min(coverage.total - 1, Math.floor(share * coverage.total)));
    let part = coverage.bases.findLastIndex((base) => base <= at);
    while (part > 0 && coverage.parts[part][1] === 0) part--;
    this.app.openText(part, at - coverage.bases[part]);
  }

  update() {
    this.drawing.redraw();
  }

  draw(context, width, colour) {
    const { coverage } = this.app;
    const height = this.drawing.height;
    context.fillStyle = colour("unread");
    context.fillRect(0, 0, width, height);
    if (!coverage?.total) return;
    const bars = (stretches, name, top, size) => {
      context.fillStyle = colour(name);
      for (const [start, end] of stretches) {
        const x = (start / coverage.total) * width;
        context.fillRect(x, top, Math.max(1.5, ((end - start) / coverage.total) * width), size);
      }
    };
    if (coverage.matches) bars(coverage.ambiguous.slice(0, 50000), "ambiguous", 0, height);
    const { shares, readings } = coverage.bins(width);
    const most = Math.max(1, ...readings);
    context.fillStyle = colour("read");
    for (let x = 0; x < width; x++) {
      if (!shares[x]) continue;
      const often = Math.log1p(readings[x]) / Math.log1p(most);
      context.globalAlpha = 0.3 + 0.7 * often;
      const part = Math.max(3, shares[x] * height);
      context.fillRect(x, height - part, 1, part);
    }
    context.globalAlpha = 1;
    bars(coverage.answered.slice(0, 50000), "final", 0, 6);
    if (this.mark === null) return;
    const x = (this.mark / coverage.total) * width;
    context.fillStyle = colour("mark");
    context.fillRect(Math.round(x) - 1, 0, 3, height);
  }
}
