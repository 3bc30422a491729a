// Owns the run that this page watches: its stream, its message on the screen, and the truth about stopping it.

import * as api from "./api.js";
import { Follower } from "./follow.js";
import { limitReached } from "./limits.js";
import { isAtLimit } from "./message.js";
import { Assembly } from "./stream.js";

const START_PATIENCE_MS = 300;

export class LiveRun {
  // `listener` has changed(), ended(notice) and gone().
  constructor(run, view, listener) {
    this.run = run;
    this.view = view;
    this.listener = listener;
    this.assembly = new Assembly();
    this.connected = true;
    this.stopping = Boolean(run.stop_requested_at);
    view.announce(true);
    this.follower = new Follower(run, {
      chunk: (chunk) => this.take(chunk),
      connected: (connected) => this.setConnected(connected),
      done: () => this.end(),
      gone: () => this.vanish(),
    });
  }

  take(chunk) {
    this.assembly.apply(chunk);
    if (chunk.type === "start") this.showSoonAnyway();
    else this.view.update(this.assembly.message);
    if (TELLING.has(chunk.type)) this.listener.changed();
  }

  // What replaces the dropped message usually comes right behind: blanking the screen in between would only flicker.
  showSoonAnyway() {
    setTimeout(() => this.view.update(this.assembly.message), START_PATIENCE_MS);
  }

  setConnected(connected) {
    if (connected === this.connected) return;
    this.connected = connected;
    this.listener.changed();
  }

  end() {
    this.view.announce(false);
    const { status, error, metadata } = this.assembly.message;
    if (isAtLimit(metadata) && error === null) this.nameLimit();
    const overtaken = this.stopping && status === "completed";
    this.listener.ended(overtaken ? "The answer was finished before the stop took effect." : null);
  }

  async nameLimit() {
    const error = await limitReached(this.run.id);
    if (error === null) return;
    this.assembly.message.error = error;
    this.view.update(this.assembly.message);
  }

  vanish() {
    this.view.announce(false);
    this.listener.gone();
  }

  // Leaves the run alone: it goes on without anybody watching.
  close() {
    this.follower.close();
  }

  // Says what the server answered, or null when the stream will tell the rest.
  async stop() {
    this.setStopping(true);
    try {
      const { state } = await api.stop(this.run.chat_id, this.run.id);
      return ANSWERS.get(state) ?? null;
    } catch (error) {
      this.setStopping(false);
      throw error;
    }
  }

  setStopping(stopping) {
    this.stopping = stopping;
    this.listener.changed();
  }

  get status() {
    if (!this.connected) return "Reconnecting…";
    if (this.stopping) return "Stopping…";
    const { progress, message } = this.assembly;
    if (progress?.retry) return `Trying again in ${Math.ceil(progress.retry.inSeconds)} s (${progress.retry.reason})…`;
    // Before the stream's first chunk, what was loaded counts. That chunk says that a worker has the run.
    const unheard = message.id === null;
    if ((progress?.status ?? (unheard && this.run.status)) === "pending") return "Waiting for a worker…";
    return doing((unheard ? this.view.message : message).parts.at(-1));
  }
}

// Chunks after which the status line may have to say something else.
const TELLING = new Set([
  "start", "start-step", "text-start", "reasoning-start", "tool-input-start", "tool-input-available",
  "tool-output-available", "tool-output-error", "data-run", "finish",
]);

const ANSWERS = new Map([
  ["already_final", "The answer was already finished."],
  ["idle", "Nothing was running any more."],
]);

function doing(part) {
  if (part?.type === "text") return "Writing…";
  const isOpenTool = part?.state === "input-available" || part?.state === "input-streaming";
  if (part?.toolCallId && isOpenTool) return `Using ${part.type.slice("tool-".length)}…`;
  return "Thinking…";
}
