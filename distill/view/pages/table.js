// A table of any length: only the rows in view are elements.

import { el, fill } from "./dom.js";

const ROW = 28;

export class Table {
  // columns: [{name, title, width, cell(row) → text or node, order(row) → number or text, right}]
  constructor(label, columns, { onOpen, onChoose = () => {} }) {
    this.allColumns = this.columns = columns;
    this.rows = [];
    this.chosen = 0;
    this.sorted = null;
    this.onOpen = onOpen;
    this.onChoose = onChoose;
    this.head = el("div", { class: "thead", role: "row" });
    this.space = el("div", { class: "tspace", role: "rowgroup" });
    this.body = el("div", { class: "tbody", tabindex: "0", role: "grid", "aria-label": label }, this.space);
    this.root = el("div", { class: "table" }, this.head, this.body);
    this.drawn = new Map();
    this.body.addEventListener("scroll", () => this.redraw());
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest?.("[data-place]");
      if (line) this.choose(Number(line.dataset.place), true);
    });
    new ResizeObserver(() => this.redraw()).observe(this.body);
    this.heading();
  }

  // Leave out the columns that are only for a wide table, or show all.
  narrow(isNarrow) {
    const sorted = this.sorted && this.columns[this.sorted.number];
    this.columns = this.allColumns.filter((column) => !isNarrow || !column.wide || column === sorted);
    if (sorted) this.sorted.number = this.columns.indexOf(sorted);
    this.root.classList.toggle("narrow", isNarrow);
    this.heading();
    this.clear();
    this.now();
  }

  heading() {
    this.grid = this.columns.map((column) => column.width).join(" ");
    fill(
      this.head,
      this.columns.map((column, number) => {
        const mark = this.sorted?.number === number ? (this.sorted.down ? " ▾" : " ▴") : "";
        const sort = this.sorted?.number === number ? (this.sorted.down ? "descending" : "ascending") : "none";
        return el(
          "div",
          { role: "columnheader", class: column.right ? "right" : null, "aria-sort": sort },
          el(
            "button",
            { type: "button", title: column.title, onclick: () => this.sort(number) },
            column.name + mark,
          ),
        );
      }),
    );
    this.head.style.gridTemplateColumns = this.grid;
  }

  // First down, then up, then as the rows came.
  sort(number) {
    const down = this.sorted?.number !== number;
    const off = !down && !this.sorted.down;
    this.sorted = off ? null : { number, down };
    this.heading();
    this.show(this.given);
  }

  // Show these rows (numbers), in the order that is chosen; the chosen row stays chosen.
  show(rows) {
    const kept = this.rows[this.chosen];
    this.given = rows;
    this.rows = rows;
    if (this.sorted) {
      const { order } = this.columns[this.sorted.number];
      const sign = this.sorted.down ? -1 : 1;
      const keys = new Map(rows.map((row) => [row, order(row)]));
      this.rows = [...rows].sort((a, b) => {
        const [one, other] = [keys.get(a), keys.get(b)];
        return sign * (one < other ? -1 : one > other ? 1 : 0) || a - b;
      });
    }
    const place = kept === undefined ? -1 : this.rows.indexOf(kept);
    this.chosen = Math.max(0, place);
    this.space.style.height = `${this.rows.length * ROW}px`;
    this.body.setAttribute("aria-rowcount", this.rows.length);
    this.clear();
    this.redraw();
  }

  clear() {
    for (const line of this.drawn.values()) line.remove();
    this.drawn.clear();
  }

  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.now();
    });
  }

  now() {
    this.head.style.paddingRight = `${this.body.offsetWidth - this.body.clientWidth}px`;
    const first = Math.max(0, Math.floor(this.body.scrollTop / ROW) - 6);
    const last = Math.min(this.rows.length, first + Math.ceil(this.body.clientHeight / ROW) + 12);
    for (const [place, line] of this.drawn)
      if (place < first || place >= last) {
        line.remove();
        this.drawn.delete(place);
      }
    for (let place = first; place < last; place++) {
      if (!this.drawn.has(place)) this.drawn.set(place, this.line(place));
      const line = this.drawn.get(place);
      line.classList.toggle("chosen", place === this.chosen);
      if (place === this.chosen) this.body.setAttribute("aria-activedescendant", line.id);
    }
  }

  line(place) {
    const row = this.rows[place];
    const line = el(
      "div",
      { class: "trow", role: "row", "data-place": place, id: `row-${place}`, "aria-rowindex": place + 1 },
      this.columns.map((column) =>
        el("div", { role: "gridcell", class: column.right ? "right" : null }, column.cell(row)),
      ),
    );
    line.style.top = `${place * ROW}px`;
    line.style.gridTemplateColumns = this.grid;
    this.space.append(line);
    return line;
  }

  choose(place, open = false) {
    if (!this.rows.length) return;
    this.chosen = Math.max(0, Math.min(this.rows.length - 1, place));
    const top = this.chosen * ROW;
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    const bottom = top + ROW - this.body.clientHeight;
    if (bottom > this.body.scrollTop) this.body.scrollTop = bottom;
    this.redraw();
    if (open) this.onOpen(this.rows[this.chosen]);
    else this.onChoose(this.rows[this.chosen]);
  }

  // Choose a row by its number, if it is shown.
  chooseRow(row, open = false) {
    const place = this.rows.indexOf(row);
    if (place >= 0) this.choose(place, open);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.body.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.choose(this.chosen + steps[event.key]);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.rows.length - 1);
    else if (event.key === "Enter") this.choose(this.chosen, true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
