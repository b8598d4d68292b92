// All calls of a run as columns. A row is a line of worker.jsonl; times are seconds since the run began.

export const PAGE_ROWS = 5000;

export class Calls {
  constructor(run) {
    this.run = run;
    this.count = 0;
    this.columns = {};
    this.dollars = [];
    this.answers = [];
    this.spans = { row: [], part: [], start: [], end: [] };
    this.servers = [];
    this.statuses = [];
    this.parts = [];
    this.version = 0;
    this.firstSpans = null;
    this.printed = new Set();
    this.inAnswer = new Set();
  }

  // A page of the columns; the last one comes again when it has grown.
  take(page) {
    const { start } = page;
    for (const [name, column] of Object.entries(page.columns))
      replaceTail((this.columns[name] ??= []), start, column);
    replaceTail(this.dollars, start, page.dollars);
    replaceTail(this.answers, start, page.answers);
    const rows = this.spans.row;
    let kept = rows.length;
    while (kept && rows[kept - 1] >= start) kept--;
    for (const [name, column] of Object.entries(page.spans))
      replaceTail(this.spans[name], kept, column);
    Object.assign(this, { servers: page.servers, statuses: page.statuses, parts: page.parts });
    this.count = this.answers.length;
    this.firstSpans = null;
    this.version++;
  }

  // The page that comes next, or again.
  get nextPage() {
    return Math.floor(this.count / PAGE_ROWS);
  }

  end(row) {
    return this.columns.end[row] / 1000 - this.run.t0;
  }

  total(row) {
    return this.columns.total[row] / 1000;
  }

  served(row) {
    return (this.columns.queue[row] + this.columns.compute[row]) / 1000;
  }

  // When a call waited for a worker, was in its engine's queue, was computed: [begin, end].
  waits(row) {
    const [end, total] = [this.end(row), this.total(row)];
    return [end - total, Math.max(end - total, end - this.served(row))];
  }

  queues(row) {
    const end = this.end(row);
    const begin = end - this.total(row);
    return [
      Math.max(begin, end - this.served(row)),
      Math.max(begin, end - this.columns.compute[row] / 1000),
    ];
  }

  computes(row) {
    const end = this.end(row);
    return [Math.max(end - this.total(row), end - this.columns.compute[row] / 1000), end];
  }

  status(row) {
    return this.statuses[this.columns.status[row]];
  }

  isFailed(row) {
    return this.status(row).startsWith("failed");
  }

  // Indices of a row's spans: from the first up to before the second.
  spanRange(row) {
    if (!this.firstSpans) {
      this.firstSpans = new Int32Array(this.count + 1);
      let span = 0;
      for (let each = 0; each <= this.count; each++) {
        while (span < this.spans.row.length && this.spans.row[span] < each) span++;
        this.firstSpans[each] = span;
      }
    }
    return [this.firstSpans[row], this.firstSpans[row + 1]];
  }

  // The batches: calls of one worker() or worker_batch() of a cell, with when they were open.
  batches() {
    const state = `${this.version} ${this.run.t0}`;
    if (this.batchesOf === state) return this.batchList;
    const found = new Map();
    const { cell, call } = this.columns;
    for (let row = 0; row < this.count; row++) {
      const key = `${cell[row]}/${call[row]}`;
      const end = this.end(row);
      const begin = end - this.total(row);
      const batch = found.get(key);
      if (!batch)
        found.set(key, { cell: cell[row], call: call[row], begin, end, items: 1, failed: 0 });
      else {
        batch.items++;
        batch.begin = Math.min(batch.begin, begin);
        batch.end = Math.max(batch.end, end);
      }
      if (this.isFailed(row)) found.get(key).failed++;
    }
    this.batchesOf = state;
    this.batchList = [...found.values()].sort((a, b) => a.begin - b.begin);
    return this.batchList;
  }
}

function replaceTail(column, start, tail) {
  column.length = Math.min(column.length, start);
  for (const value of tail) column.push(value);
}
