// Shows text as it is, however long: in blocks, so that the browser lays out anew only the one that grows.

import { element } from "./element.js";

const BLOCK_CHARACTERS = 8_000;
// Text without line breaks is broken here; a megabyte in one block would stall the page.
const LONGEST_BLOCK_CHARACTERS = 16_000;

export class PlainText {
  constructor() {
    this.element = element("div", { className: "plain", dir: "auto" });
    this.text = "";
    this.block = null;
  }

  update(text) {
    if (!text.startsWith(this.text)) this.clear();
    let start = this.text.length;
    while (start < text.length) start += this.addFrom(text, start);
    this.text = text;
  }

  clear() {
    this.element.replaceChildren();
    this.text = "";
    this.block = null;
  }

  // Fills the last block and says how many characters it took.
  addFrom(text, start) {
    this.block ??= this.addBlock();
    const end = this.endOfBlock(text, start);
    this.block.appendData(text.slice(start, end));
    if (this.block.length >= BLOCK_CHARACTERS && this.block.data.endsWith("\n")) this.block = null;
    else if (this.block.length >= LONGEST_BLOCK_CHARACTERS) this.block = null;
    return end - start;
  }

  endOfBlock(text, start) {
    const longest = Math.min(start + LONGEST_BLOCK_CHARACTERS - this.block.length, text.length);
    const newline = text.indexOf("\n", start + Math.max(0, BLOCK_CHARACTERS - this.block.length - 1));
    const end = newline >= 0 && newline < longest ? newline + 1 : longest;
    // The two halves of a character beyond the BMP stay together.
    return text.codePointAt(end - 1) > 0xffff ? end + 1 : end;
  }

  addBlock() {
    const block = document.createTextNode("");
    this.element.append(element("div", {}, block));
    return block;
  }
}
