// All runs of the folders that are shown.

import { el, fill } from "./dom.js";
import { count, counted, dollars, seconds, short, when } from "./numbers.js";
import { badge } from "./overview.js";
import { Table } from "./table.js";

export class Runs {
  constructor(app) {
    this.app = app;
    this.told = el("span", { class: "note" });
    const short_ = (name) => (row) => short(this.run(row)[name]);
    const value = (name) => (row) => this.run(row)[name];
    this.table = new Table(
      "Runs",
      [
        { name: "began", title: "When it began", width: "158px", cell: (row) => when(this.run(row).first_t), order: value("first_t") },
        { name: "ended", title: "How it ended", width: "130px", cell: (row) => badge(this.run(row).status), order: value("status") },
        { name: "label", title: "The task", width: "90px", cell: (row) => this.run(row).label ?? "", order: (row) => this.run(row).label ?? "" },
        { name: "question", title: "The question", width: "minmax(140px, 1fr)", cell: value("query"), order: value("query") },
        { name: "answer", title: "The answer", width: "minmax(120px, 1fr)", cell: value("answer"), order: value("answer") },
        { name: "score", title: "Its scores", width: "64px", cell: (row) => this.scores(row), order: (row) => this.run(row).scores[0]?.value ?? -1 },
        { name: "supervisor", title: "The supervisor model", width: "110px", cell: value("supervisor"), order: value("supervisor") },
        { name: "worker", title: "The worker model", width: "110px", cell: value("worker"), order: value("worker") },
        { name: "turns", title: "Turns", width: "60px", right: true, cell: short_("turns"), order: value("turns") },
        { name: "calls", title: "Worker calls", width: "72px", right: true, cell: short_("calls"), order: value("calls") },
        { name: "cost", title: "Dollars", width: "84px", right: true, cell: (row) => dollars(this.run(row).dollars), order: (row) => this.run(row).dollars ?? -1 },
        { name: "time", title: "How long it took", width: "84px", right: true, cell: (row) => seconds(this.run(row).elapsed_s), order: value("elapsed_s") },
      ],
      { onOpen: (row) => app.openRun(this.run(row).key) },
    );
    this.root = el("div", { class: "runs" }, el("div", { class: "bar" }, this.told), this.table.root);
  }

  run(row) {
    return this.app.state.runs[row];
  }

  scores(row) {
    const { scores } = this.run(row);
    const told = scores.map(({ value }) => (value === null ? "–" : value.toFixed(2)));
    return el("span", { title: scores.map(({ scorer }, number) => `${scorer}: ${told[number]}`).join(", ") }, told.join(", "));
  }

  update() {
    const { runs } = this.app.state;
    const signs = runs.map((run) => run.version).join();
    if (signs === this.signs) return;
    this.signs = signs;
    const running = runs.filter((run) => run.status === "running").length;
    fill(this.told, counted(runs.length, "run") + (running ? `, ${count(running)} running` : ""));
    this.table.show(runs.map((_, row) => row));
  }
}
