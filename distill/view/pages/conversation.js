// The conversation: what the supervisor wrote, the code that ran, what came of it, what it was told.

import { code, el, fill, json, longText } from "./dom.js";
import { count, counted, dollars, seconds } from "./numbers.js";

export class Conversation {
  constructor(app) {
    this.app = app;
    this.sections = new Map();
    this.list = el("div", { class: "turns" });
    this.root = el("div", { class: "conversation" }, this.list);
    // What was asked for stays in view while the turns above it are loaded, until somebody moves.
    this.wanted = null;
    for (const kind of ["wheel", "pointerdown", "keydown"])
      this.root.addEventListener(kind, () => (this.wanted = null), { passive: true });
    this.seen = new IntersectionObserver(
      (entries) => entries.forEach((entry) => entry.isIntersecting && this.load(entry.target)),
      { rootMargin: "600px" },
    );
  }

  update() {
    const { run } = this.app;
    if (this.shownRun !== run.key) {
      this.shownRun = run.key;
      this.sections.clear();
      fill(this.list);
    }
    const turns = [{ turn: 0 }, ...run.turns];
    for (const turn of turns) {
      const next = turns.some((each) => each.turn > turn.turn);
      const cells = run.cells.filter((cell) => cell.turn === turn.turn);
      const signs = `${cells.length} ${next} ${Boolean(run.end)}`;
      let section = this.sections.get(turn.turn);
      if (!section) {
        section = this.section(turn);
        this.sections.set(turn.turn, section);
        this.list.append(section);
        this.seen.observe(section);
      }
      if (section.signs !== signs) {
        section.signs = signs;
        this.head(section, turn, cells);
        if (section.isLoaded) this.load(section, true);
      }
    }
  }

  section(turn) {
    const section = el("section", { class: "turn", id: `turn-${turn.turn}`, tabindex: "0" });
    section.turn = turn.turn;
    section.head = el("header", {});
    section.body = el("div", { class: "turn-body" });
    section.append(section.head, section.body);
    return section;
  }

  head(section, turn, cells) {
    if (!turn.turn) return void fill(section.head, el("h2", {}, "Before the first turn"));
    const marks = [
      seconds(turn.elapsed_s),
      `${count(turn.input)} → ${count(turn.output)} tokens`,
      turn.cached ? `${count(turn.cached)} cached` : "",
      turn.dollars ? dollars(turn.dollars) : "",
      counted(cells.length, "cell"),
    ];
    fill(
      section.head,
      el("h2", {}, `Turn ${turn.turn}`),
      turn.forced && el("span", { class: "badge warn" }, "last turn: it must answer"),
      turn.refused && el("span", { class: "badge bad" }, "refused"),
      el("span", { class: "note" }, marks.filter(Boolean).join(" · ")),
    );
  }

  async load(section, again = false) {
    if (section.isLoaded && !again) return;
    section.isLoaded = true;
    const { run } = this.app;
    try {
      const told = await this.app.source.get(`turn/${run.key}/${section.turn}`);
      if (this.shownRun === run.key) fill(section.body, this.body(told));
    } catch (error) {
      section.isLoaded = false;
      fill(section.body, el("p", { class: "caution" }, `This turn can't be read: ${error.message}`));
    }
    if (this.wanted?.isConnected) this.wanted.scrollIntoView({ block: "start" });
  }

  body(told) {
    const cells = new Map(told.cells.map((cell) => [cell.cell, cell]));
    const shown = [];
    if (told.reasoning)
      shown.push(folded("Reasoning", told.reasoning.length, () => longText(told.reasoning)));
    for (const each of told.compactions)
      shown.push(
        el("p", { class: "note" },
          `The conversation had become too long (${each.reason}): ${count(each.tokens_before)} → ` +
            `${count(each.tokens)} tokens, kept from message ${each.kept_from}.`),
      );
    const placed = new Set(
      told.messages.flatMap((message) => message.pieces.filter((piece) => typeof piece === "number")),
    );
    let isDone = false;
    const rest = () => {
      if (isDone) return [];
      isDone = true;
      return told.cells.filter((cell) => !placed.has(cell.cell)).map((cell) => this.cell(cell, told));
    };
    for (const message of told.messages) {
      if (message.role !== "assistant") shown.push(rest());
      shown.push(this.message(message, cells, told));
    }
    shown.push(rest());
    return shown;
  }

  message(message, cells, told) {
    if (message.role !== "assistant") {
      const text = () => longText(message.pieces.join(""));
      const name = message.role === "system" ? "System prompt" : "What the supervisor was told";
      return folded(name, message.chars, text, message.index > 0 && message.chars < 400 && !cells.size);
    }
    return el(
      "div",
      { class: "reply" },
      message.pieces.map((piece) =>
        typeof piece === "number"
          ? this.cell(cells.get(piece), told)
          : piece.trim() && longText(piece.trim(), "prose"),
      ),
    );
  }

  cell(cell, told) {
    const own = (list) => list.filter((each) => each.cell === cell.cell);
    const kind = { ok: "", final: "good" }[cell.status] ?? "bad";
    return el(
      "article",
      { class: `cell ${kind}`, id: `cell-${cell.cell}` },
      el(
        "header",
        {},
        el("b", {}, `Cell ${cell.cell}`),
        el("span", { class: `badge ${kind || "plain"}` }, cell.status),
        el("span", { class: "note" },
          `${seconds(cell.elapsed_s)}, ${seconds(cell.cpu_s)} of CPU`),
        own(told.batches).slice(0, 12).map((batch) =>
          el("button", { class: "link", type: "button", onclick: () => this.app.openBatch(batch.cell, batch.call) },
            `${counted(batch.items, "call")}${batch.failed ? `, ${count(batch.failed)} failed` : ""}`)),
        own(told.batches).length > 12 &&
          el("button", { class: "link", type: "button", onclick: () => this.app.openCellCalls(cell.cell) },
            `… ${count(own(told.batches).length)} batches`),
      ),
      code(cell.code),
      cell.stdout && el("div", { class: "output" }, longText(cell.stdout)),
      cell.stderr && el("div", { class: "output err" }, longText(cell.stderr)),
      cell.dropped_bytes > 0 &&
        el("p", { class: "note" }, `${count(cell.dropped_bytes)} bytes of output were over the limit.`),
      cell.error && el("div", { class: "output err" },
        longText(cell.error.traceback || `${cell.error.name}: ${cell.error.message}`)),
      cell.lost && el("div", { class: "caution" }, longText(`The jail was lost: ${cell.lost}`, "prose")),
      cell.restored && el("p", { class: "note" },
        `Its session came back up to cell ${cell.restored.upto}` +
          (cell.restored.why ? `: ${cell.restored.why}` : " in full.") +
          (cell.restored.lost_names.length ? ` Lost: ${cell.restored.lost_names.join(", ")}.` : "")),
      own(told.primitives).slice(0, 200).map((each) => folded(
        `${each.function}()${each.error ? `: ${each.error.slice(0, 120)}` : ""} ${seconds(each.elapsed_s)}`, null,
        () => longText(json({ args: each.args, kwargs: each.kwargs, value: each.value, error: each.error })))),
      cell.variables.length > 0 && folded(`Variables (${cell.variables.length})`, null, () =>
        el("dl", { class: "variables" }, cell.variables.slice(0, 500).map((each) => [
          el("dt", {}, each.name),
          el("dd", {}, longText(`${each.type}${each.size === null ? "" : ` [${count(each.size)}]`}  ${each.repr}`, "fact-text")),
        ]))),
    );
  }

  // Scroll to a turn, or to a cell of it, once it is there.
  async open(turn, cell = null) {
    const section = this.sections.get(turn);
    if (!section) return;
    section.scrollIntoView({ block: "start" });
    await this.load(section);
    const target = cell === null ? section : (section.querySelector(`#cell-${cell}`) ?? section);
    target.scrollIntoView({ block: "start" });
    this.wanted = target;
    section.focus({ preventScroll: true });
  }

  // The turn after or before the one at the top of the window.
  step(by) {
    this.wanted = null;
    const sections = [...this.sections.values()];
    const top = (section) => section.getBoundingClientRect().top;
    const at = sections.findLastIndex((section) => top(section) < 140);
    const next = sections[Math.max(0, Math.min(sections.length - 1, at + by))];
    next?.scrollIntoView({ block: "start" });
    next?.focus({ preventScroll: true });
  }
}

function folded(name, chars, make, open = false) {
  const details = el("details", { open }, el("summary", {}, name, chars !== null && el("span", { class: "note" }, ` ${counted(chars, "character")}`)));
  let isMade = false;
  const show = () => {
    if (isMade || !details.open) return;
    isMade = true;
    details.append(make());
  };
  details.addEventListener("toggle", show);
  show();
  return details;
}
