// The run over time: turns, cells, batches, what each worker server had in hand, and what was used up.

import { Drawing, fitted, niceStep } from "./canvas.js";
import { el, shown } from "./dom.js";
import { Load, mostAtOnce, sumAt } from "./load.js";
import { count, counted, dollars, seconds, short } from "./numbers.js";
import { TimeWindow } from "./time_window.js";
import { usedUp } from "./used.js";

const LANE = 22;
const GAP = 8;
const BATCH_LANES = 4;
const BATCH_LANE = 9;
const AREA = 40;
const SERVERS_SHOWN = 24;
const AXIS = 22;

export class Timeline extends TimeWindow {
  constructor(app) {
    super(app, el("div", { class: "tip", hidden: true }));
    this.drawing = new Drawing("Timeline of the run", 200, (...given) => this.draw(...given), {
      tabindex: "0",
      class: "timeline",
      "aria-describedby": "timeline-help",
    });
    this.legend = el(
      "p",
      { class: "legend", id: "timeline-help" },
      swatch("turn", "supervisor"), swatch("cell", "cell"), swatch("bad", "failed"),
      swatch("final", "FINAL"), swatch("wait", "waits for a worker"),
      swatch("queue", "queue of the engine"), swatch("device", "device"),
      el("span", { class: "keys" }, "drag or ←→ to move, wheel or + − to zoom, 0 for all"),
    );
    this.root = el("div", { class: "timeline-box" }, this.legend, this.drawing.element, this.tip);
    this.listen();
  }

  update() {
    if (this.shownRun !== this.app.run.key) {
      this.shownRun = this.app.run.key;
      this.from = 0;
      this.to = this.length;
      this.isWhole = true;
    }
    if (this.isWhole) this.to = this.length;
    const signs = `${this.app.run.key} ${this.app.run.short.version} ${this.app.calls.version}`;
    if (signs === this.signs) return;
    this.signs = signs;
    this.used = null;
    this.servers = null;
    this.peaks = new Map();
    this.drawing.redraw();
  }

  // -- drawing

  draw(context, width, colour) {
    const { run, calls } = this.app;
    if (!run) return;
    this.places = [];
    this.left = width < 600 ? 78 : 120;
    this.x = (s) => this.left + ((s - this.from) / (this.to - this.from)) * (width - this.left);
    this.context = context;
    this.colour = colour;
    this.edge = width;
    this.axis(width, this.drawing.height);
    let y = AXIS;
    const lanes = [
      () => this.bars(y, LANE, "Supervisor", run.turns.map((turn) => this.turnBar(turn))),
      () => this.bars(y, LANE, "Cells", [...this.startBars(run), ...run.cells.map((cell) => this.cellBar(cell))]),
    ];
    if (run.primitives.length)
      lanes.push(() => this.bars(y, LANE, "Functions", run.primitives.map((each) => this.hostBar(each))));
    if (calls.count) lanes.push(() => this.batchLanes(y));
    for (const lane of lanes) y += lane() + GAP;
    if (calls.count) y += this.loadArea(y, "Waiting", [["wait", calls.waits]], this.serverRows()) + GAP;
    const phases = [["device", calls.computes], ["queue", calls.queues]];
    for (const server of this.serverRows())
      y += this.loadArea(y, server.name, phases, [server], () => this.app.openServer(server.name)) + GAP;
    this.used ??= usedUp(run, calls);
    for (const row of this.used) y += this.usedArea(y, row) + GAP;
    if (Math.abs(y - this.drawing.height) > 0.5) {
      this.drawing.height = y;
      this.drawing.redraw();
    }
  }

  axis(width, height) {
    const { context, colour } = this;
    const step = Math.max(0.001, niceStep(this.to - this.from, (width - this.left) / 110));
    context.fillStyle = colour("dim");
    context.strokeStyle = colour("grid");
    context.lineWidth = 1;
    context.textAlign = "left";
    const first = Math.ceil(this.from / step);
    const most = width / 20;
    for (let tick = 0; tick <= most; tick++) {
      const s = (first + tick) * step;
      if (s > this.to) break;
      const x = Math.round(this.x(s)) + 0.5;
      context.beginPath();
      context.moveTo(x, AXIS - 6);
      context.lineTo(x, height);
      context.stroke();
      const text = s === 0 ? "0" : seconds(s);
      if (x + context.measureText(text).width + 4 < width) context.fillText(text, x + 4, 8);
    }
  }

  label(y, height, text) {
    const { context, colour } = this;
    context.fillStyle = colour("dim");
    context.textAlign = "left";
    context.fillText(fitted(context, shown(text), this.left - 10), 0, y + height / 2);
  }

  // Bars {begin, end, wait?, kind, text, tip, go}. A crowd within one pixel is drawn once.
  bars(y, height, name, bars) {
    this.label(y, height, name);
    const { context, colour } = this;
    let last = -1;
    for (const bar of bars) {
      if (bar.end < this.from || bar.begin > this.to) continue;
      const x = Math.max(this.left, this.x(bar.begin));
      const w = Math.max(1.5, Math.min(this.edge, this.x(bar.end)) - x);
      if (x + w < last + 0.5) continue;
      last = x + w;
      context.fillStyle = colour(bar.kind);
      context.fillRect(x, y, w, height);
      if (bar.wait) {
        context.fillStyle = colour("wait");
        context.fillRect(x, y, Math.min(w, Math.max(0, this.x(bar.begin + bar.wait) - x)), height);
      }
      if (bar.failed) {
        const part = Math.max(2, height * bar.failed);
        context.fillStyle = colour("bad");
        context.fillRect(x, y + height - part, w, part);
      }
      if (w > 3) {
        context.strokeStyle = colour("paper");
        context.lineWidth = 1;
        context.strokeRect(x + 0.5, y + 0.5, w - 1, height - 1);
      }
      const room = w - 8;
      if (room > 10) {
        context.fillStyle = colour("on-bar");
        context.fillText(fitted(context, bar.text, room), x + 4, y + height / 2);
      }
      if (this.places.length < 20000) this.places.push({ x, y, w, h: height, tip: bar.tip, go: bar.go });
    }
    return height;
  }

  span(record) {
    const end = record.t - this.app.run.t0;
    return { begin: end - record.elapsed_s, end };
  }

  turnBar(turn) {
    const wait = turn.queue_s ? `, ${seconds(turn.queue_s)} of it waiting` : "";
    return {
      ...this.span(turn),
      wait: turn.queue_s,
      kind: "turn",
      text: String(turn.turn),
      tip:
        `Turn ${turn.turn}${turn.forced ? " (forced)" : ""}: ${seconds(turn.elapsed_s)}${wait}; ` +
        `${count(turn.input)} tokens in, ${count(turn.output)} out` +
        (turn.dollars ? `, ${dollars(turn.dollars)}` : ""),
      go: () => this.app.openTurn(turn.turn),
    };
  }

  // What is before the first turn: the processes are named when the jail is up.
  startBars(run) {
    if (!run.processes.length) return [];
    const end = Math.min(...run.processes.map((each) => each.t)) - run.t0;
    return [{ begin: 0, end, kind: "batch", text: "start", tip: `The text was taken in and the jail started: ${seconds(end)}` }];
  }

  cellBar(cell) {
    const failed = cell.error || cell.lost;
    return {
      ...this.span(cell),
      kind: { ok: "cell", final: "final" }[cell.status] ?? "bad",
      text: String(cell.cell),
      tip:
        `Cell ${cell.cell} (turn ${cell.turn}): ${cell.status}, ${seconds(cell.elapsed_s)}, ` +
        `${seconds(cell.cpu_s)} of CPU${failed ? `. ${failed}` : ""}`,
      go: () => this.app.openTurn(cell.turn, cell.cell),
    };
  }

  hostBar(each) {
    return {
      ...this.span(each),
      kind: each.failed ? "bad" : "host",
      text: each.function,
      tip: `${each.function}() of cell ${each.cell}: ${seconds(each.elapsed_s)}${each.failed ? ", failed" : ""}`,
      go: () => this.app.openCell(each.cell),
    };
  }

  batchLanes(y) {
    const free = new Array(BATCH_LANES).fill(-1);
    const lanes = free.map(() => []);
    for (const batch of this.app.calls.batches()) {
      const x = this.x(batch.begin);
      let lane = free.findIndex((edge) => edge <= x);
      if (lane < 0) lane = free.indexOf(Math.min(...free));
      free[lane] = Math.max(free[lane], this.x(batch.end));
      lanes[lane].push({
        begin: batch.begin,
        end: batch.end,
        kind: "batch",
        failed: batch.failed / batch.items,
        text: "",
        tip:
          `Cell ${batch.cell}: ${counted(batch.items, "call")}` +
          `${batch.failed ? `, ${count(batch.failed)} failed` : ""}, ${seconds(batch.end - batch.begin)}`,
        go: () => this.app.openBatch(batch.cell, batch.call),
      });
    }
    const used = Math.max(1, lanes.findLastIndex((lane) => lane.length) + 1);
    lanes.slice(0, used).forEach((lane, number) => {
      this.bars(y + number * BATCH_LANE, BATCH_LANE - 1, number ? "" : "Batches", lane);
    });
    return used * BATCH_LANE;
  }

  // Rows of calls by the server that answered; where there are many, the small ones together.
  serverRows() {
    if (this.servers) return this.servers;
    const { calls } = this.app;
    const rows = calls.servers.map((name) => ({ name, rows: [] }));
    for (let row = 0; row < calls.count; row++) rows[calls.columns.server[row]].rows.push(row);
    rows.sort((a, b) => b.rows.length - a.rows.length);
    const kept = rows.slice(0, SERVERS_SHOWN).filter((each) => each.rows.length);
    const others = rows.slice(SERVERS_SHOWN);
    if (others.length)
      kept.push({ name: `${others.length} more`, rows: others.flatMap((each) => each.rows) });
    kept.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    this.servers = kept;
    return kept;
  }

  // How many calls of some servers were in each phase [colour, times(row)], one above the other.
  loadArea(y, name, phases, servers, go) {
    const { context, colour } = this;
    const width = Math.ceil(this.edge - this.left);
    const scale = width / (this.to - this.from);
    const loads = phases.map(([, times]) => {
      const load = new Load(width);
      for (const { rows } of servers)
        for (const row of rows) {
          const [begin, end] = times.call(this.app.calls, row);
          load.add((begin - this.from) * scale, (end - this.from) * scale);
        }
      return load.sums();
    });
    const most = loads[0].reduce((top, _, x) => Math.max(top, sumAt(loads, x)), 0);
    if (most < 0.05 && !go) return -GAP;
    const unit = AREA / Math.max(1, most);
    for (let x = 0; x < width; x++) {
      let top = y + AREA;
      phases.forEach(([kind], phase) => {
        const height = loads[phase][x] * unit;
        if (height <= 0) return;
        context.fillStyle = colour(kind);
        context.fillRect(this.left + x, top - height, 1, height);
        top -= height;
      });
    }
    this.label(y, AREA - 14, name);
    const peak = `at most ${short(this.peak(name, phases, servers))}`;
    this.label(y + 14, AREA - 14, peak);
    this.baseline(y + AREA);
    const words = { wait: "waiting for a worker", queue: "in its queue", device: "computed" };
    this.places.push({
      x: this.left, y, w: width, h: AREA, go,
      tip: (x) => {
        const at = Math.max(0, Math.min(width - 1, Math.round(x - this.left)));
        const told = phases.map(([kind], phase) => `${loads[phase][at].toFixed(1).replace(/\.0$/, "")} ${words[kind]}`);
        return `${name}: ${told.join(", ")}; ${peak}`;
      },
    });
    return AREA;
  }

  // Of the whole run, whatever of it is shown.
  peak(name, phases, servers) {
    const key = `${phases[0][0]} ${name}`;
    if (!this.peaks.has(key)) {
      const rows = servers.flatMap((each) => each.rows);
      this.peaks.set(key, mostAtOnce(phases.flatMap(([, times]) => rows.map((row) => times.call(this.app.calls, row)))));
    }
    return this.peaks.get(key);
  }

  baseline(y) {
    this.context.fillStyle = this.colour("grid");
    this.context.fillRect(this.left, y, this.edge - this.left, 1);
  }

  usedArea(y, { name, times, sums, limit, told, last }) {
    const { context, colour } = this;
    const isLimited = typeof limit === "number" && limit > 0;
    const isNear = isLimited && last > limit / 3;
    const most = isNear ? Math.max(limit, last) : last;
    const at = (s) => {
      let low = 0;
      let high = times.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (times[middle] <= s) low = middle + 1;
        else high = middle;
      }
      return low ? sums[low - 1] : 0;
    };
    const time = (x) => this.from + ((x - this.left) / (this.edge - this.left)) * (this.to - this.from);
    const curve = new Path2D();
    curve.moveTo(this.left, y + AREA);
    for (let x = this.left; x <= this.edge; x++)
      curve.lineTo(x, y + AREA - (AREA - 4) * (at(time(x)) / most));
    const area = new Path2D(curve);
    area.lineTo(this.edge, y + AREA);
    context.fillStyle = colour("used-fill");
    context.fill(area);
    context.strokeStyle = colour("used");
    context.lineWidth = 1.5;
    context.stroke(curve);
    if (isNear) {
      const top = y + AREA - (AREA - 4) * (limit / most);
      context.setLineDash([4, 3]);
      context.strokeStyle = colour("bad");
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(this.left, top);
      context.lineTo(this.edge, top);
      context.stroke();
      context.setLineDash([]);
    }
    this.label(y, AREA - 14, name);
    this.label(y + 14, AREA - 14, isLimited ? `${told(last)} of ${told(limit)}` : told(last));
    this.baseline(y + AREA);
    this.places.push({
      x: this.left, y, w: this.edge - this.left, h: AREA,
      tip: (x) => `${name} used by ${seconds(time(x))}: ${told(at(time(x)))}${isLimited ? ` of ${told(limit)}` : ""}`,
    });
    return AREA;
  }
}

function swatch(kind, text) {
  return el("span", { class: "swatch" }, el("i", { class: `sw-${kind}` }), text);
}
