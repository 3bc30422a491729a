// Renders Markdown that a model wrote: parsed in a worker, cleaned here, with a limit on size and on time.

import DOMPurify from "./vendor/purify.es.js";

const TEXT_LIMIT = 200_000;
const TIME_LIMIT_MS = 3_000;

const CLEAN = {
  ALLOWED_TAGS: [
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "del", "code", "pre", "span", "blockquote",
    "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a",
  ],
  ALLOWED_ATTR: ["href", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

// Only the highlighter's classes: no other may dress text up as a part of this page.
DOMPurify.addHook("uponSanitizeAttribute", (_node, attribute) => {
  if (attribute.attrName === "class" && !attribute.attrValue.startsWith("hljs")) attribute.keepAttr = false;
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A" || !node.hasAttribute("href")) return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
  // What a link says and where it leads are two things.
  node.setAttribute("title", node.getAttribute("href"));
});

// A fragment, or null when the text must be shown as it is.
export async function renderMarkdown(text) {
  if (text.length > TEXT_LIMIT) return null;
  const html = await parser.parse(text);
  return html === null ? null : DOMPurify.sanitize(html, CLEAN);
}

// One worker, one text at a time, so that a text which takes too long costs nobody but itself.
class Parser {
  constructor() {
    this.waiting = [];
    this.current = null;
    this.start();
  }

  start() {
    this.ready = false;
    this.worker = new Worker(new URL("./markdown_worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = (event) => (this.ready ? this.settle(event.data) : this.begin());
    this.worker.onerror = () => this.fail();
  }

  parse(text) {
    if (this.broken) return Promise.resolve(null);
    return new Promise((resolve) => {
      this.waiting.push({ text, resolve });
      this.next();
    });
  }

  begin() {
    this.ready = true;
    this.next();
  }

  next() {
    if (!this.ready || this.current || !this.waiting.length) return;
    this.current = this.waiting.shift();
    this.timer = setTimeout(() => this.giveUp(), TIME_LIMIT_MS);
    this.worker.postMessage(this.current.text);
  }

  settle(html) {
    clearTimeout(this.timer);
    const { resolve } = this.current;
    this.current = null;
    resolve(html);
    this.next();
  }

  giveUp() {
    this.worker.terminate();
    this.start();
    this.settle(null);
  }

  // A worker that cannot be loaded leaves every text readable, as plain text.
  fail() {
    if (this.current) return this.giveUp();
    this.broken = true;
    for (const { resolve } of this.waiting.splice(0)) resolve(null);
  }
}

const parser = new Parser();
