// A stretch of a run's time on a canvas: moved by keys, wheel and pointer; what lies there says what it is.

import { fill } from "./dom.js";

export class TimeWindow {
  // `drawing` has the canvas; a subclass draws, and enters into `places` what can be pointed at:
  // {x, y, w, h, tip, go}.
  constructor(app, tip) {
    this.app = app;
    this.tip = tip;
    this.from = 0;
    this.to = 1;
    this.places = [];
  }

  get length() {
    return Math.max(0.001, this.app.run.t1 - this.app.run.t0);
  }

  show(from, to) {
    const size = Math.min(this.length, Math.max(0.001, to - from));
    this.from = Math.max(0, Math.min(this.length - size, from));
    this.to = this.from + size;
    this.isWhole = size >= this.length;
    this.drawing.redraw();
  }

  zoom(factor, share = 0.5) {
    const size = this.to - this.from;
    const at = this.from + size * share;
    this.show(at - size * factor * share, at + size * factor * (1 - share));
  }

  listen() {
    const canvas = this.drawing.element;
    canvas.addEventListener("keydown", (event) => {
      const step = (this.to - this.from) / 8;
      const moves = {
        ArrowLeft: () => this.show(this.from - step, this.to - step),
        ArrowRight: () => this.show(this.from + step, this.to + step),
        "+": () => this.zoom(1 / 1.5),
        "=": () => this.zoom(1 / 1.5),
        "-": () => this.zoom(1.5),
        0: () => this.show(0, this.length),
      };
      if (event.ctrlKey || event.metaKey || !moves[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      moves[event.key]();
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY) && !event.shiftKey) {
          if (document.activeElement !== canvas) return; // the page scrolls
        }
        event.preventDefault();
        const share = (event.offsetX - this.left) / (this.drawing.width - this.left);
        this.zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, Math.max(0, Math.min(1, share)));
      },
      { passive: false },
    );
    let dragged = null;
    canvas.addEventListener("pointerdown", (event) => {
      dragged = { x: event.clientX, from: this.from, to: this.to, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!dragged) return this.point(event);
      const moved = event.clientX - dragged.x;
      dragged.moved ||= Math.abs(moved) > 3;
      const s = (moved / (this.drawing.width - this.left)) * (dragged.to - dragged.from);
      this.show(dragged.from - s, dragged.to - s);
    });
    canvas.addEventListener("pointerup", (event) => {
      const wasClick = dragged && !dragged.moved;
      dragged = null;
      const place = wasClick && this.at(event.offsetX, event.offsetY);
      if (place?.go) place.go();
    });
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }

  at(x, y) {
    return this.places.findLast(
      (place) => x >= place.x - 1 && x <= place.x + place.w + 1 && y >= place.y && y <= place.y + place.h,
    );
  }

  point(event) {
    const place = this.at(event.offsetX, event.offsetY);
    this.drawing.element.classList.toggle("over", Boolean(place?.go));
    this.tip.hidden = !place;
    if (!place) return;
    fill(this.tip, typeof place.tip === "function" ? place.tip(event.offsetX) : place.tip);
    const room = this.drawing.width - 260;
    this.tip.style.left = `${Math.max(0, Math.min(event.offsetX + 12, room))}px`;
    this.tip.style.top = `${this.drawing.element.offsetTop + event.offsetY + 16}px`;
  }
}
