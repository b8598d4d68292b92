// All worker calls: searched, filtered, sorted, opened.

import { CallView } from "./call_view.js";
import { el, fill } from "./dom.js";
import { count, counted, seconds, short } from "./numbers.js";
import { Table } from "./table.js";

const IN_ANSWER = "★ in the final answer";
const PRINTED = "printed by a cell";

export class CallTable {
  constructor(app) {
    this.app = app;
    this.found = null;
    this.only = {};
    this.view = new CallView(app, (isOpen) => {
      this.table.narrow(isOpen);
      if (!isOpen) this.table.body.focus();
    });
    this.search = el("input", {
      type: "search", placeholder: "search prompts and answers: Enter", title: "Search with Enter ( / leads here )", "aria-label": "Search prompts and answers",
      onchange: () => this.look(),
    });
    this.status = el("select", { "aria-label": "How it ended", onchange: () => this.filter() });
    this.server = el("select", { "aria-label": "Server", onchange: () => this.filter() });
    this.chips = el("span", { class: "chips" });
    this.told = el("span", { class: "note", role: "status" });
    this.table = new Table("Worker calls", this.columns(), {
      onOpen: (row) => this.view.open(row),
      onChoose: (row) => this.view.isOpen && this.view.open(row),
    });
    this.root = el(
      "div",
      { class: "calls" },
      el("div", { class: "bar" }, this.search, this.status, this.server, this.chips, this.told),
      el("div", { class: "split" }, this.table.root, this.view.root),
    );
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      if (this.view.isOpen) this.view.close();
      else if (event.target === this.search) this.table.body.focus();
      else this.clear();
      event.stopPropagation();
    });
  }

  columns() {
    const column = (name) => (row) => this.app.calls.columns[name][row];
    const ms = (name) => (row) => seconds(this.app.calls.columns[name][row] / 1000);
    const number = (name, title, key, width = "64px") => ({
      name, title, width, right: true, wide: name === "cell", cell: (row) => short(column(key)(row)), order: column(key),
    });
    const time = (name, title, key) => ({
      name, title, width: "76px", right: true, wide: name !== "total", cell: ms(key), order: column(key),
    });
    return [
      { name: "#", title: "In the order of the log", width: "72px", right: true, cell: (row) => count(row + 1), order: (row) => row },
      number("cell", "The cell that asked", "cell", "52px"),
      { name: "status", title: "How it ended", width: "92px", cell: (row) => this.mark(row), order: (row) => this.app.calls.status(row) },
      { name: "answer", title: "The answer", width: "minmax(160px, 1fr)", cell: (row) => this.answer(row), order: (row) => this.app.calls.answers[row] },
      { name: "place", title: "Where its passage stands in the text", width: "110px", cell: (row) => this.place(row), order: (row) => this.position(row) },
      number("in", "Tokens of the prompt", "input"),
      number("out", "Tokens of the answer", "output", "56px"),
      time("queue", "In the engine's queue", "queue"),
      time("device", "Computing", "compute"),
      time("total", "From when the driver took it", "total"),
      { name: "server", title: "Who answered", width: "96px", wide: true, cell: (row) => this.app.calls.servers[column("server")(row)], order: (row) => this.app.calls.servers[column("server")(row)] },
    ];
  }

  mark(row) {
    const status = this.app.calls.status(row);
    const kind = status === "ok" ? "good" : this.app.calls.isFailed(row) ? "bad" : "warn";
    return el("span", { class: `dot ${kind}` }, status.replace("failed: ", ""));
  }

  answer(row) {
    const { calls } = this.app;
    if (!calls.inAnswer.has(row)) return calls.answers[row];
    return [el("span", { class: "star", title: "It stands in the final answer: a match, not a cause" }, "★ "), calls.answers[row]];
  }

  position(row) {
    const { calls, coverage } = this.app;
    const [first, last] = calls.spanRange(row);
    const place = first < last ? coverage.place(calls, first) : null;
    return place ? coverage.bases[place.part] + place.start : -1;
  }

  place(row) {
    const { calls, coverage } = this.app;
    const [first, last] = calls.spanRange(row);
    const bar = el("span", { class: "placebar" });
    for (let span = first; span < Math.min(last, first + 8); span++) {
      const place = coverage.place(calls, span);
      if (!place || !coverage.total) continue;
      const mark = el("i");
      mark.style.left = `${(100 * (coverage.bases[place.part] + place.start)) / coverage.total}%`;
      mark.style.width = `${(100 * (place.end - place.start)) / coverage.total}%`;
      bar.append(mark);
    }
    return bar;
  }

  update() {
    const { run, calls } = this.app;
    if (this.shownRun !== run.key) {
      this.shownRun = run.key;
      this.found = null;
      this.only = {};
      this.search.value = "";
      this.table.chosen = 0;
      if (this.view.isOpen) this.view.close();
    }
    const found = [calls.inAnswer.size && IN_ANSWER, calls.printed.size && PRINTED].filter(Boolean);
    options(this.status, "any status", ["failed", ...calls.statuses, ...found]);
    options(this.server, "all servers", calls.servers);
    if (this.version !== calls.version || this.versionOf !== run.key) {
      this.version = calls.version;
      this.versionOf = run.key;
      this.filter();
    }
  }

  // -- filters

  rows() {
    const { calls } = this.app;
    const { cell, call, server } = calls.columns;
    const status = this.status.value;
    const byServer = this.server.value ? calls.servers.indexOf(this.server.value) : -1;
    const wanted = this.found && new Set(this.found);
    const touched = this.only.place && this.touching(this.only.place);
    const rows = [];
    for (let row = 0; row < calls.count; row++) {
      if (wanted && !wanted.has(row)) continue;
      if (status && !this.has(row, status)) continue;
      if (byServer >= 0 && server[row] !== byServer) continue;
      if (this.only.cell !== undefined && cell[row] !== this.only.cell) continue;
      if (this.only.call !== undefined && call[row] !== this.only.call) continue;
      if (touched && !touched.has(row)) continue;
      rows.push(row);
    }
    return rows;
  }

  has(row, status) {
    const { calls } = this.app;
    if (status === "failed") return calls.isFailed(row);
    if (status === IN_ANSWER) return calls.inAnswer.has(row);
    if (status === PRINTED) return calls.printed.has(row);
    return calls.status(row) === status;
  }

  touching({ part, start, end }) {
    const { calls, coverage } = this.app;
    const rows = new Set();
    for (let span = 0; span < calls.spans.row.length; span++) {
      const place = coverage.place(calls, span);
      if (place && place.part === part && place.start < end && place.end > start) rows.add(calls.spans.row[span]);
    }
    return rows;
  }

  filter() {
    const rows = this.rows();
    this.table.show(rows);
    const all = this.app.calls.count;
    fill(this.told, rows.length === all ? counted(all, "call") : `${count(rows.length)} of ${counted(all, "call")}`);
    const { cell, call, place } = this.only;
    const texts = [];
    if (place) texts.push(`read ${count(place.start)}–${count(place.end)}`);
    if (cell !== undefined) texts.push(call === undefined ? `cell ${cell}` : `cell ${cell}, one batch`);
    if (this.found) texts.push("found");
    fill(this.chips, texts.map((text) =>
      el("button", { class: "chip", type: "button", title: "Show all again (Esc)", onclick: () => this.clear() }, `${text} ✕`)));
  }

  // Only the calls of a cell, of a batch, or about a place; or all.
  narrow(only, server = "") {
    this.only = only;
    this.found = null;
    this.search.value = "";
    this.status.value = "";
    this.server.value = server;
    this.filter();
    this.table.choose(0);
    this.table.body.focus();
  }

  clear() {
    this.narrow({});
  }

  async look() {
    const words = this.search.value;
    if (!words.trim()) {
      this.found = null;
      return this.filter();
    }
    fill(this.told, "searching …");
    try {
      const found = await this.app.source.search(this.app.run, words);
      if (this.search.value !== words) return;
      this.found = found;
      this.filter();
      this.table.choose(0);
      this.table.body.focus();
    } catch (error) {
      fill(this.told, `can't search: ${error.message}`);
    }
  }
}

function options(select, all, names) {
  if (select.signs === names.length) return;
  select.signs = names.length;
  const { value } = select;
  fill(select, el("option", { value: "" }, all), [...new Set(names)].slice(0, 200).map((name) => el("option", { value: name }, name)));
  select.value = value;
}
