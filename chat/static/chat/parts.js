// Shows the parts of a message: text, reasoning, tool calls, files. Each view is told of its part whenever that may have changed.

import { element, throttled } from "./element.js";
import { FileView } from "./files.js";
import { renderMarkdown } from "./markdown.js";
import { PlainText } from "./plain.js";

const RENDER_PAUSE_MS = 100;
const LONGEST_RENDER_PAUSE_MS = 2_000;
const SHOWN_OF_A_VALUE = 20_000;

export function viewOf(part) {
  if (part.type === "text") return new TextView();
  if (part.type === "reasoning") return new ReasoningView();
  if (part.type.startsWith("tool-")) return new ToolView(part);
  if (part.type === "file") return new FileView(part);
  return null;
}

class TextView {
  constructor() {
    this.element = element("div", { className: "prose" });
    this.text = "";
    this.plain = null;
    this.pause = RENDER_PAUSE_MS;
    this.render = throttled(() => this.renderNow(), () => this.pause);
  }

  update(part) {
    if (part.text === this.text) return;
    this.text = part.text;
    this.render();
  }

  async renderNow() {
    if (this.rendering || this.text === this.shown) return;
    this.rendering = true;
    const text = this.text;
    const began = performance.now();
    const fragment = this.tooMuch(text) ? null : await renderMarkdown(text);
    if (fragment === null) this.showPlain(text);
    else this.showFragment(fragment);
    this.shown = text;
    // Asking for the height makes the browser lay it out now, so that the time it takes is counted.
    void this.element.offsetHeight;
    // A long answer is parsed less often, so that most of the time is left for the page itself.
    this.pause = Math.min(Math.max(RENDER_PAUSE_MS, 4 * (performance.now() - began)), LONGEST_RENDER_PAUSE_MS);
    this.rendering = false;
    if (this.text !== text) this.render();
  }

  // Text that could not be rendered will not become easier by growing.
  tooMuch(text) {
    return this.plain && text.startsWith(this.plain.text);
  }

  showPlain(text) {
    if (!this.plain) {
      this.plain = new PlainText();
      this.element.replaceChildren(this.plain.element);
    }
    this.plain.update(text);
  }

  // Blocks that did not change stay: a selection in them survives, and so does what a screen reader has read.
  showFragment(fragment) {
    const fresh = [...fragment.childNodes];
    const old = [...this.element.childNodes];
    let same = 0;
    while (same < old.length && same < fresh.length && old[same].isEqualNode(fresh[same])) same += 1;
    for (const node of old.slice(same)) node.remove();
    this.element.append(...fresh.slice(same));
    this.plain = null;
  }
}

class ReasoningView {
  constructor() {
    this.label = element("summary", {}, "Thinking");
    this.body = new PlainText();
    this.element = element("details", { className: "reasoning" }, this.label, this.body.element);
    this.element.addEventListener("toggle", () => this.fill());
  }

  update(part) {
    this.part = part;
    this.element.hidden = !part.text && part.state !== "streaming";
    this.label.classList.toggle("busy", part.state === "streaming");
    this.fill();
  }

  // Closed ones cost nothing.
  fill() {
    if (this.element.open) this.body.update(this.part.text);
  }
}

const TOOL_STATES = {
  "input-streaming": "preparing",
  "input-available": "running",
  "output-available": "done",
  "output-error": "failed",
};

class ToolView {
  constructor(part) {
    this.state = element("span", { className: "tool-state" });
    const name = element("span", { className: "tool-name" }, part.type.slice("tool-".length));
    this.body = element("div", { className: "tool-body" });
    this.element = element("details", { className: "tool" }, element("summary", {}, name, this.state), this.body);
    this.element.addEventListener("toggle", () => this.fill());
  }

  update(part) {
    this.part = part;
    const state = TOOL_STATES[part.state] ?? part.state;
    setText(this.state, state);
    this.element.dataset.state = state;
    this.fill();
  }

  fill() {
    if (!this.element.open) return;
    const { input, output, errorText } = this.part;
    const rows = [["Input", input], ["Output", output], ["Error", errorText]].filter(([, value]) => value !== undefined);
    const seen = JSON.stringify(rows);
    if (seen === this.seen) return;
    this.seen = seen;
    this.body.replaceChildren(...rows.flatMap(([label, value]) => [
      element("p", { className: "tool-label" }, label),
      element("pre", { tabIndex: 0, dir: "auto" }, readable(value)),
    ]));
  }
}

function readable(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  if (text.length <= SHOWN_OF_A_VALUE) return text;
  const hidden = text.length - SHOWN_OF_A_VALUE;
  return `${text.slice(0, SHOWN_OF_A_VALUE)}\n\n[${hidden.toLocaleString()} more characters are not shown here]`;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
