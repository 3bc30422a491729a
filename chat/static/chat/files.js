// Owns the text files that go with a message: the chips in the composer, and what a message shows of them.

import { element } from "./element.js";
import { PlainText } from "./plain.js";

const MOST_FILES = 20;

export class Attachments {
  // `mostBytes` is of text and files together. `listener` has changed() and refused(reason).
  constructor({ button, picker, chips, target }, mostBytes, listener) {
    this.nodes = { button, picker, chips, target };
    this.mostBytes = mostBytes;
    this.listener = listener;
    this.files = [];
    button.addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => this.picked());
    this.takeDrops();
  }

  picked() {
    const chosen = [...this.nodes.picker.files];
    // So that the same file can be chosen again.
    this.nodes.picker.value = "";
    this.add(chosen);
  }

  takeDrops() {
    const { target } = this.nodes;
    const hold = (event, over) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      // Otherwise the browser would leave the page for the file.
      event.preventDefault();
      target.classList.toggle("dropping", over);
    };
    document.addEventListener("dragover", (event) => hold(event, true));
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && hold(event, false));
    document.addEventListener("drop", (event) => {
      hold(event, false);
      if (event.dataTransfer?.files.length) this.add([...event.dataTransfer.files]);
    });
  }

  async add(chosen) {
    const refusals = [];
    for (const file of chosen) {
      const refusal = await this.addOne(file);
      if (refusal) refusals.push(refusal);
    }
    if (refusals.length) this.listener.refused(refusals.join(" "));
  }

  // Says why not, or null.
  async addOne(file) {
    if (this.files.length >= MOST_FILES) return `${file.name} is one too many: a message has at most ${MOST_FILES} files.`;
    if (this.bytes + file.size > this.mostBytes) return `${file.name} is too large: a message has at most ${kilobytes(this.mostBytes)}.`;
    const text = await textIn(file);
    if (text === null) return `${file.name} is not a text file.`;
    this.set([...this.files, { name: file.name, text }]);
    return null;
  }

  get bytes() {
    return this.files.reduce((sum, { text }) => sum + new Blob([text]).size, 0);
  }

  set(files) {
    this.files = files;
    this.nodes.chips.replaceChildren(...files.map((file, index) => this.chip(file, index)));
    this.nodes.chips.hidden = files.length === 0;
    this.listener.changed();
  }

  chip({ name }, index) {
    const remove = element("button", { type: "button", "aria-label": `Remove ${name}`, title: "Remove" }, "×");
    remove.addEventListener("click", () => this.remove(index));
    return element("li", {}, element("span", { className: "file-name", dir: "auto" }, name), remove);
  }

  remove(index) {
    this.set(this.files.filter((_, other) => other !== index));
    const buttons = this.nodes.chips.querySelectorAll("button");
    (buttons[Math.min(index, buttons.length - 1)] ?? this.nodes.button).focus();
  }
}

// A file as a part of a message, folded up until somebody wants to read it.
export class FileView {
  constructor(part) {
    this.body = new PlainText();
    const name = element("span", { className: "file-name", dir: "auto" }, part.filename ?? "File");
    this.element = element("details", { className: "file" }, element("summary", {}, name), this.body.element);
    this.element.addEventListener("toggle", () => this.fill());
  }

  update(part) {
    this.part = part;
    this.fill();
  }

  fill() {
    if (this.element.open) this.body.update(fileOf(this.part).text);
  }
}

export function partOf({ name, text }) {
  return { type: "file", mediaType: "text/plain", filename: name, text };
}

// Of a part that was just made here, or of a stored one, whose text is in its data URL.
export function fileOf({ filename, text, url }) {
  return { name: filename, text: text ?? decoded(url) };
}

function decoded(url) {
  try {
    const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (character) => character.charCodeAt(0));
    return new TextDecoder().decode(bytes);
  } catch {
    return "This file cannot be shown here.";
  }
}

// Null for what is no text: the server would refuse it.
async function textIn(file) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

function kilobytes(bytes) {
  return `${Math.floor(bytes / 1024).toLocaleString()} KB`;
}
