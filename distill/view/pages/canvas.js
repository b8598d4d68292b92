// A canvas as sharp as the screen, that draws again when its width or the colours change.

import { el } from "./dom.js";

export class Drawing {
  // `draw(context, width, colour)` in CSS pixels; `height` may change before redraw().
  constructor(label, height, draw, attributes = {}) {
    this.element = el("canvas", { role: "img", "aria-label": label, ...attributes });
    this.height = height;
    this.draw = draw;
    this.width = 0;
    this.asked = false;
    new ResizeObserver(() => this.redraw()).observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
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
    const width = this.element.clientWidth;
    if (!width) return;
    const scale = devicePixelRatio || 1;
    this.width = width;
    this.element.style.height = `${this.height}px`;
    this.element.width = Math.round(width * scale);
    this.element.height = Math.round(this.height * scale);
    const context = this.element.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.element);
    const known = {};
    const colour = (name) => (known[name] ??= style.getPropertyValue(`--${name}`).trim());
    context.font = `12px ${style.fontFamily}`;
    context.textBaseline = "middle";
    this.draw(context, width, colour);
  }
}

// Steps of 1, 2 or 5 times a power of ten: about `wanted` of them in `length`.
export function niceStep(length, wanted) {
  const rough = length / Math.max(1, wanted);
  if (!(rough > 0) || !Number.isFinite(rough)) return 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough) ?? 10;
  return step * power;
}

// Text that ends with … where there is no room.
export function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let kept = text.slice(0, Math.max(0, Math.floor(room / 4)));
  while (kept && context.measureText(`${kept}…`).width > room) kept = kept.slice(0, -1);
  return kept ? `${kept}…` : "";
}
