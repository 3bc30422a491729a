// Checks how the page assembles a run's stream. Run with `node --test tests/pages/*_test.mjs`.

import assert from "node:assert/strict";
import test from "node:test";

import { Assembly } from "../../chat/static/chat/stream.js";

const start = { type: "start", messageId: "m1", messageMetadata: { chatId: "c1", runId: "r1", attempt: 1 } };

function finish(status, endReason) {
  return { type: "finish", messageMetadata: { run: { id: "r1", status, endReason } } };
}

function assembled(...chunks) {
  const assembly = new Assembly();
  for (const chunk of chunks) assembly.apply(chunk);
  return assembly;
}

function textOf(id, ...deltas) {
  return [
    { type: "text-start", id },
    ...deltas.map((delta) => ({ type: "text-delta", id, delta })),
    { type: "text-end", id },
  ];
}

test("a whole turn becomes the stored parts", () => {
  const { message } = assembled(
    start,
    { type: "start-step" },
    { type: "reasoning-start", id: "1" },
    { type: "reasoning-delta", id: "1", delta: "Hm." },
    { type: "reasoning-end", id: "1" },
    { type: "tool-input-start", toolCallId: "t1", toolName: "add" },
    { type: "tool-input-delta", toolCallId: "t1", inputTextDelta: '{"a":' },
    { type: "tool-input-available", toolCallId: "t1", toolName: "add", input: { a: 1 } },
    { type: "tool-output-available", toolCallId: "t1", output: 2 },
    { type: "finish-step" },
    { type: "start-step" },
    ...textOf("1", "The sum ", "is 2."),
    { type: "finish-step" },
    finish("succeeded", "completed"),
  );
  assert.equal(message.id, "m1");
  assert.equal(message.status, "completed");
  assert.deepEqual(message.parts, [
    { type: "step-start" },
    { type: "reasoning", text: "Hm.", state: "done" },
    { type: "tool-add", toolCallId: "t1", state: "output-available", input: { a: 1 }, output: 2 },
    { type: "step-start" },
    { type: "text", text: "The sum is 2.", state: "done" },
  ]);
});

test("half of a tool's input can be seen while it streams", () => {
  const { message } = assembled(
    start,
    { type: "tool-input-start", toolCallId: "t1", toolName: "add" },
    { type: "tool-input-delta", toolCallId: "t1", inputTextDelta: '{"a"' },
    { type: "tool-input-delta", toolCallId: "t1", inputTextDelta: ":1" },
  );
  assert.equal(message.parts[0].input, '{"a":1');
  assert.equal(message.parts[0].state, "input-streaming");
});

test("broken arguments keep their raw text beside the error", () => {
  const { message } = assembled(
    start,
    { type: "tool-input-available", toolCallId: "t1", toolName: "add", input: "{broken" },
    { type: "tool-output-error", toolCallId: "t1", errorText: "not JSON" },
  );
  assert.deepEqual(message.parts, [
    { type: "tool-add", toolCallId: "t1", state: "output-error", input: "{broken", errorText: "not JSON" },
  ]);
});

test("start drops what there was", () => {
  const { message } = assembled(
    start,
    { type: "start-step" },
    { type: "text-start", id: "1" },
    { type: "text-delta", id: "1", delta: "lost" },
    { ...start, messageMetadata: { attempt: 2 } },
    { type: "text-delta", id: "1", delta: "of nobody" },
    { type: "start-step" },
    ...textOf("1", "kept"),
  );
  assert.deepEqual(message.parts, [{ type: "step-start" }, { type: "text", text: "kept", state: "done" }]);
  assert.deepEqual(message.metadata, { attempt: 2 });
});

test("metadata is merged deeply and cannot reach a prototype", () => {
  const hostile = JSON.parse('{"__proto__": {"polluted": true}, "usage": {"outputTokens": 5}}');
  const { message } = assembled(
    start,
    { type: "message-metadata", messageMetadata: { usage: { inputTokens: 3 } } },
    { type: "message-metadata", messageMetadata: hostile },
  );
  assert.deepEqual(message.metadata.usage, { inputTokens: 3, outputTokens: 5 });
  assert.equal(message.metadata.polluted, undefined);
  assert.equal({}.polluted, undefined);
});

test("an aborted run keeps its text and says so", () => {
  const { message, finished } = assembled(start, ...textOf("1", "half"), { type: "abort" }, finish("aborted", "stopped"));
  assert.ok(finished);
  assert.equal(message.status, "aborted");
  assert.equal(message.parts[0].text, "half");
});

test("an error is shown and the run counts as failed", () => {
  const { message } = assembled(start, { type: "error", errorText: "No." }, finish("failed", "provider_error"));
  assert.equal(message.status, "error");
  assert.equal(message.error, "No.");
});

test("progress is no part, and the wait for a retry ends with the next chunk", () => {
  const retry = { attempt: 2, inSeconds: 3, reason: "busy" };
  const assembly = assembled(start, { type: "data-run", data: { status: "running", stepCount: 0, retry }, transient: true });
  assert.deepEqual(assembly.progress.retry, retry);
  assembly.apply({ type: "start-step" });
  assert.equal(assembly.progress.retry, undefined);
  assert.deepEqual(assembly.message.parts, [{ type: "step-start" }]);
});

test("unknown chunks and ids are skipped", () => {
  const { message } = assembled(
    start,
    { type: "constructor" },
    { type: "text-delta", id: "nobody", delta: "x" },
    { type: "tool-output-available", toolCallId: "nobody", output: 1 },
  );
  assert.deepEqual(message.parts, []);
});
