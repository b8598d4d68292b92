// The page: what it shows, how it is kept up to date, and the keyboard.

import { CallTable } from "./call_table.js";
import { Calls, PAGE_ROWS } from "./calls.js";
import { Conversation } from "./conversation.js";
import { Coverage } from "./coverage.js";
import { byId, el, fill } from "./dom.js";
import { count } from "./numbers.js";
import { Overview } from "./overview.js";
import { Reader } from "./reader.js";
import { Runs } from "./runs.js";
import { FileSource, LiveSource } from "./source.js";

const LIVE_MS = 1000;
const QUIET_MS = 4000;
const VIEWS = [
  ["overview", "Overview"],
  ["conversation", "Conversation"],
  ["calls", "Calls"],
  ["text", "Text"],
  ["runs", "Runs"],
];

class App {
  constructor() {
    const token = new URLSearchParams(location.search).get("token");
    this.source = byId("data/state") ? new FileSource() : new LiveSource(token ?? "");
    this.state = { runs: [], skipped: [], skipped_lines: 0, is_read: false };
    this.run = null;
    this.views = {
      overview: new Overview(this),
      conversation: new Conversation(this),
      calls: new CallTable(this),
      text: new Reader(this),
      runs: new Runs(this),
    };
    this.tabs = new Map();
    this.open = "overview";
    this.frame();
  }

  frame() {
    VIEWS.forEach(([name, title], number) => {
      const tab = el("button", { type: "button", role: "tab", id: `tab-${name}`, title: `${title} (${number + 1})`, onclick: () => this.show(name) }, title);
      this.tabs.set(name, tab);
      byId("tabs").append(tab);
      const view = this.views[name].root;
      view.classList.add("view");
      view.setAttribute("role", "tabpanel");
      view.setAttribute("aria-labelledby", `tab-${name}`);
      byId("view").append(view);
    });
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.fromHash());
    byId("help-button").addEventListener("click", () => this.help());
  }

  // -- what is there

  async start() {
    this.show("overview");
    await this.refresh();
    this.openFirst();
    if (this.source.isLive) this.again();
  }

  // The run that the address names, which may be still to be read, or the newest.
  openFirst() {
    const { runs, is_read } = this.state;
    const [key, name] = location.hash.slice(1).split("/");
    const isThere = runs.some((run) => run.key === key);
    if (isThere) this.openRun(key, this.views[name] ? name : "overview");
    else if (runs.length && (is_read || !key)) this.openRun(this.firstRun().key);
  }

  // The newest run that is no sub-run.
  firstRun() {
    const own = this.state.runs.filter((run) => !run.parent);
    const runs = own.length ? own : this.state.runs;
    return runs.reduce((newest, run) => (run.first_t >= newest.first_t ? run : newest));
  }

  again() {
    const isLive = !this.state.is_read || this.state.runs.some((run) => run.status === "running");
    setTimeout(async () => {
      await this.refresh();
      if (!this.run) this.openFirst();
      this.again();
    }, isLive ? LIVE_MS : QUIET_MS);
  }

  async refresh() {
    try {
      this.state = await this.source.get("state");
      this.say("");
    } catch {
      this.say("The program that serves this page has ended, or can't be reached: this is as it was last.");
      return;
    }
    this.tabs.get("runs").hidden = this.state.runs.length < 2;
    if (!this.run) {
      if (!this.state.runs.length) this.say(this.state.is_read ? "There is no run in the log yet." : "Reading the log …");
      return;
    }
    const now = this.state.runs.find((run) => run.key === this.run.key);
    const isChanged = now && (now.version !== this.run.short.version || now.status !== this.run.status);
    if (isChanged) await this.load(now);
    else if (this.open === "runs") this.update();
  }

  // Shows it in `view` as soon as it is there: a moment later that could undo a key.
  async load(short, view = this.open) {
    const { key } = short;
    const isNew = this.run?.key !== key;
    this.loading = key;
    const run = await this.source.get(`run/${key}`);
    if (this.loading !== key) return;
    run.short = short;
    run.status = short.status;
    run.t0 = short.first_t;
    run.t1 = short.last_t;
    if (isNew) {
      this.calls = new Calls(run);
      this.coverage = new Coverage(run.context.parts);
    }
    this.calls.run = run;
    this.run = run;
    if (run.context.parts.length !== this.coverage.parts.length) this.coverage = new Coverage(run.context.parts);
    document.title = `${(run.query || run.id).slice(0, 60)} · distill`;
    byId("loading").hidden = true;
    if (isNew) this.show(view);
    else this.update();
    await this.loadCalls(short);
  }

  // The pages of columns that are not here yet, and the last one again.
  async loadCalls({ key, calls }) {
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      while (this.run.key === key && this.calls.count < calls) {
        const page = await this.source.get(`columns/${key}/${this.calls.nextPage}`);
        if (this.run.key !== key) break;
        const before = this.calls.count;
        this.calls.take(page);
        if (this.calls.count === before) break;
        byId("progress").hidden = this.calls.count >= calls;
        byId("progress").textContent = `${count(this.calls.count)} of ${count(calls)} calls …`;
        if (page.start % (10 * PAGE_ROWS) === 0) this.recount();
      }
    } finally {
      this.isLoading = false;
      byId("progress").hidden = true;
    }
    this.recount();
    const wanted = this.state.runs.find((run) => run.key === this.run.key);
    if (wanted && this.run.key !== key) await this.loadCalls(wanted);
    else this.loadMatches();
  }

  // What takes a look at all answers and the whole text: for a run that has ended.
  async loadMatches() {
    const { run, calls, coverage } = this;
    if (!run.end || calls.count < run.short.calls || coverage.matches || !calls.count) return;
    try {
      const matches = await this.source.get(`matches/${run.key}`);
      coverage.take(matches, calls);
      calls.printed = new Set(matches.printed);
      calls.inAnswer = new Set(matches.in_answer);
      calls.version++;
      if (this.run === run) this.update();
    } catch {
      // The page says what the calls say by themselves.
    }
  }

  recount() {
    this.coverage.count(this.calls);
    this.update();
  }

  update() {
    if (this.run || this.open === "runs") this.views[this.open].update();
  }

  say(text) {
    byId("banner").hidden = !text;
    byId("banner").textContent = text;
  }

  // -- going about

  show(name) {
    this.open = name;
    for (const [each, tab] of this.tabs) {
      tab.setAttribute("aria-selected", each === name);
      this.views[each].root.hidden = each !== name;
    }
    this.update();
    if (!this.run) return;
    const hash = `#${this.run.key}/${name}`;
    if (location.hash !== hash) location.hash = hash;
  }

  fromHash() {
    const [key, name] = location.hash.slice(1).split("/");
    const run = this.state.runs.find((each) => each.key === key);
    const view = this.views[name] ? name : "overview";
    if (run && run.key !== this.run?.key) this.openRun(key, view);
    else if (run || !this.run) this.show(this.run ? view : "overview");
  }

  async openRun(key, view = "overview") {
    const short = this.state.runs.find((run) => run.key === key);
    if (!short) return;
    if (this.run?.key === key) this.show(view);
    await this.load(short, view);
  }

  openTurn(turn, cell = null) {
    this.show("conversation");
    this.views.conversation.open(turn, cell);
  }

  openCell(cell) {
    const found = this.run.cells.find((each) => each.cell === cell);
    if (found) this.openTurn(found.turn, cell);
  }

  openText(part, start, end = null) {
    this.show("text");
    this.views.text.show(part, start, end);
  }

  openBatch(cell, call) {
    this.show("calls");
    this.views.calls.narrow({ cell, call });
  }

  openCellCalls(cell) {
    this.show("calls");
    this.views.calls.narrow({ cell });
  }

  openServer(name) {
    this.show("calls");
    this.views.calls.narrow({}, name);
  }

  openPlace(part, start, end) {
    this.show("calls");
    this.views.calls.narrow({ place: { part, start, end } });
  }

  // -- the keyboard

  key(event) {
    const isWriting = event.target.matches?.("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && byId("help").open) return byId("help").close();
    if (isWriting) return;
    const moves = {
      "?": () => this.help(),
      "/": () => {
        this.show("calls");
        this.views.calls.search.focus();
      },
      ...Object.fromEntries(VIEWS.map(([name], number) => [number + 1, () => this.tabs.get(name).hidden || this.show(name)])),
      ...this.viewKeys(),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }

  viewKeys() {
    const { calls, runs, text, conversation } = this.views;
    const table = { calls, runs }[this.open]?.table;
    if (table) {
      const focused = (by) => () => {
        table.body.focus();
        table.choose(table.chosen + by);
      };
      return { j: focused(1), k: focused(-1), ArrowDown: focused(1), ArrowUp: focused(-1), Enter: () => table.choose(table.chosen, true) };
    }
    if (this.open === "text") return { n: () => text.move(1), p: () => text.move(-1), r: () => text.nextRead() };
    if (this.open === "conversation") return { j: () => conversation.step(1), k: () => conversation.step(-1) };
    return {};
  }

  help() {
    const help = byId("help");
    if (help.open) help.close();
    else help.showModal();
  }
}

const KEYS = [
  ["1 … 5", "overview, conversation, calls, text, runs"],
  ["/", "search the calls"],
  ["j k ↓ ↑", "next and previous call, run or turn"],
  ["Enter, Esc", "open and close a call; Esc again shows all calls"],
  ["n p r", "in the text: after, before, next that was read"],
  ["← → + − 0", "in the timeline: move, zoom, all of it"],
  ["Tab", "from part to part"],
  ["?", "these keys"],
];
fill(byId("keys"), KEYS.map(([keys, text]) => [el("dt", {}, keys), el("dd", {}, text)]));
await new App().start();
