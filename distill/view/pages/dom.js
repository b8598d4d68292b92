// Elements. What comes from a log reaches the page here and nowhere else, as text nodes.

const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

// Control characters, and those that turn or hide text, made visible.
export function shown(text) {
  return String(text)
    .replace(/\r\n/g, "\n")
    .replace(UNSEEN, (sign) => {
      const code = sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
      return `\u27e8U+${code}\u27e9`;
    });
}

// el("p", {class: "note", onclick: f}, "text", child, …). Names of attributes are ours, never a log's.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : shown(value));
  }
  add(element, children);
  return element;
}

export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : shown(child));
  }
}

export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

const FIRST_CHARS = 6000;
const MORE_CHARS = 100000;

// A text of any length: its beginning, and a button for the next piece. `end` shows its end instead.
export function longText(text, kind = "text") {
  const body = el("pre", { class: kind, tabindex: text.length > 2000 ? "0" : null });
  let upTo = 0;
  const more = el("button", { class: "more", type: "button", onclick: () => reveal(MORE_CHARS) });
  function reveal(chars) {
    body.append(broken(text.slice(upTo, upTo + chars)));
    upTo = Math.min(text.length, upTo + chars);
    const left = text.length - upTo;
    more.hidden = left <= 0;
    more.textContent = left > 0 ? `show more (${left.toLocaleString("en")} characters are left)` : "";
  }
  reveal(FIRST_CHARS);
  return el("div", { class: "long" }, body, more);
}

const LINE_CHARS = 4000;

// One line of millions of characters takes a browser minutes to lay out: it is broken.
function broken(text) {
  const found = shown(text);
  if (found.length <= LINE_CHARS) return found;
  return found.replace(/[^\n]{4000}/g, "$&\n");
}

// Pieces [class, text] of code in colours.
export function code(pieces, limit = 20000) {
  const body = el("pre", { class: "code", tabindex: "0" });
  let chars = 0;
  for (const [kind, text] of pieces) {
    if (chars >= limit) break;
    const part = text.slice(0, limit - chars);
    chars += part.length;
    body.append(kind ? el("span", { class: `tok-${kind}` }, broken(part)) : broken(part));
  }
  const whole = pieces.reduce((sum, [, text]) => sum + text.length, 0);
  if (whole <= limit) return body;
  const more = el("button", {
    class: "more",
    type: "button",
    onclick: () => more.parentNode.replaceWith(code(pieces, whole)),
  });
  more.textContent = `show all ${whole.toLocaleString("en")} characters`;
  return el("div", {}, body, more);
}

export function json(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

// A log counts characters as Python does; JavaScript counts some twice.
export function slicer(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (start, end) => text.slice(start, end);
  const signs = Array.from(text);
  return (start, end) => signs.slice(start, end).join("");
}
