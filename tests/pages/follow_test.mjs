// Checks how the page follows a run through lost connections. Run with `node --test tests/pages/*_test.mjs`.

import assert from "node:assert/strict";
import test, { beforeEach, mock } from "node:test";

const sources = [];

class FakeEventSource {
  static CONNECTING = 0;
  static CLOSED = 2;
  readyState = FakeEventSource.CONNECTING;

  constructor() {
    sources.push(this);
  }

  close() {
    this.readyState = FakeEventSource.CLOSED;
  }

  say(chunk, lastEventId = "") {
    this.onmessage({ data: typeof chunk === "string" ? chunk : JSON.stringify(chunk), lastEventId });
  }
}

const ignore = () => {};
globalThis.EventSource = FakeEventSource;
globalThis.document = { hidden: false, cookie: "", addEventListener: ignore, removeEventListener: ignore };
globalThis.location = { origin: "http://here", href: "http://here/" };
globalThis.fetch = async () => new Response('{"id": "r1"}', { headers: { "Content-Type": "application/json" } });
const { Follower } = await import("../../chat/static/chat/follow.js");

const start = { type: "start", messageId: "m1", messageMetadata: {} };
const delta = { type: "text-delta", id: "t", delta: "x" };

beforeEach(() => {
  sources.length = 0;
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

function follower() {
  const listener = { chunk: mock.fn(), connected: ignore, done: mock.fn(), gone: ignore };
  new Follower({ id: "r1", stream_url: "/api/runs/r1/stream" }, listener);
  return listener;
}

async function later() {
  mock.timers.tick(60_000);
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
}

test("a lost connection is the browser's to take up, behind the last id", async () => {
  follower();
  sources[0].say(start, "1-1");
  sources[0].say(delta, "1-2");
  sources[0].onerror();
  await later();
  assert.equal(sources.length, 1);
  assert.notEqual(sources[0].readyState, FakeEventSource.CLOSED);
});

test("an id from before a start without one is not come back with", async () => {
  follower();
  sources[0].say(start, "1-1");
  sources[0].say(delta, "1-2");
  sources[0].say(start, "1-2");
  sources[0].say(delta, "1-2");
  sources[0].onerror();
  assert.equal(sources[0].readyState, FakeEventSource.CLOSED);
  await later();
  assert.equal(sources.length, 2);
});

test("an id that comes after such a start is good again", async () => {
  follower();
  sources[0].say(start);
  sources[0].say(delta, "2-5");
  sources[0].onerror();
  await later();
  assert.equal(sources.length, 1);
});

test("the end is the end", async () => {
  const listener = follower();
  sources[0].say(start);
  sources[0].say("[DONE]");
  sources[0].onerror();
  await later();
  assert.equal(listener.done.mock.callCount(), 1);
  assert.equal(sources.length, 1);
});
