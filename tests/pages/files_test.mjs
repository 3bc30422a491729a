// Checks how the page reads the files of a message. Run with `node --test tests/pages/*_test.mjs`.

import assert from "node:assert/strict";
import test from "node:test";

import { fileOf, partOf } from "../../chat/static/chat/files.js";

const stored = (url) => ({ type: "file", mediaType: "text/plain", filename: "notes.txt", url });

test("a stored file is its name and its text, letter by letter", () => {
  const url = `data:text/plain;charset=utf-8;base64,${Buffer.from("milk\r\n🙂 <b>").toString("base64")}`;
  assert.deepEqual(fileOf(stored(url)), { name: "notes.txt", text: "milk\r\n🙂 <b>" });
});

test("an empty file is a file", () => {
  assert.equal(fileOf(stored("data:text/plain;charset=utf-8;base64,")).text, "");
});

test("a file just attached can be taken back into the box", () => {
  const file = { name: "notes.txt", text: "" };
  assert.deepEqual(fileOf(partOf(file)), file);
});

test("an address that holds no text is no reason to break the page", () => {
  for (const url of ["https://example.org/x", "data:text/plain;base64,%%%", ""]) assert.equal(typeof fileOf(stored(url)).text, "string");
});
