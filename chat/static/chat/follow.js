// Follows one run's event stream until its `[DONE]`, through lost connections, deploys and hidden tabs.

import * as api from "./api.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
// Over HTTP/1.1 a browser has six connections per origin: forgotten tabs must not hold them all.
const HIDDEN_FOR_MS = 60_000;

export class Follower {
  // `listener` has chunk(chunk), connected(boolean), done() and gone(), the last for a run that is no longer there.
  constructor(run, listener) {
    this.run = run;
    this.listener = listener;
    this.failures = 0;
    this.over = false;
    this.visibilityChanged = () => this.followVisibility();
    document.addEventListener("visibilitychange", this.visibilityChanged);
    this.connect();
  }

  // Always from the beginning: `start` drops what was there, so a new connection needs no memory of the old one.
  // Within one EventSource the browser itself sends the Last-Event-ID when it reconnects.
  connect() {
    this.lastId = "";
    this.lastIdIsStale = false;
    this.source = new EventSource(api.onThisOrigin(this.run.stream_url));
    this.source.onopen = () => this.listener.connected(true);
    this.source.onmessage = (event) => this.receive(event);
    this.source.onerror = () => this.lose();
  }

  receive({ data, lastEventId }) {
    this.failures = 0;
    if (data === "[DONE]") {
      this.close();
      return this.listener.done();
    }
    const chunk = JSON.parse(data);
    // A `start` without an id begins what is told from the database: the id before it belongs to another telling.
    if (lastEventId !== this.lastId) this.lastIdIsStale = false;
    else if (chunk.type === "start") this.lastIdIsStale = true;
    this.lastId = lastEventId;
    this.listener.chunk(chunk);
  }

  lose() {
    if (this.over) return;
    this.listener.connected(false);
    // While it is CONNECTING the browser tries again by itself, with an id that it cannot forget.
    if (this.lastIdIsStale) this.source.close();
    // After an HTTP error the browser gives up.
    if (this.source.readyState === EventSource.CLOSED) this.tryLater();
  }

  tryLater() {
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** this.failures, LONGEST_PAUSE_MS);
    this.failures += 1;
    // Spread out, or every page comes back in the same instant after a deploy.
    this.timer = setTimeout(() => this.tryAgain(), pause * (0.5 + Math.random()));
  }

  // EventSource does not tell which error it met; asking for the run does, and leads to the login page if need be.
  async tryAgain() {
    const source = this.source;
    try {
      await api.run(this.run.id);
    } catch (error) {
      if (this.over || this.source !== source) return;
      if (error.status === 404) return this.giveUp();
      if (error.status !== 401) this.tryLater();
      return;
    }
    if (!this.over && this.source === source) this.connect();
  }

  giveUp() {
    this.close();
    this.listener.gone();
  }

  followVisibility() {
    clearTimeout(this.hiddenTimer);
    if (document.hidden) this.hiddenTimer = setTimeout(() => this.rest(), HIDDEN_FOR_MS);
    else if (this.resting) this.wake();
  }

  rest() {
    this.resting = true;
    clearTimeout(this.timer);
    this.source.close();
    this.source = null;
  }

  wake() {
    this.resting = false;
    this.connect();
  }

  close() {
    this.over = true;
    clearTimeout(this.timer);
    clearTimeout(this.hiddenTimer);
    document.removeEventListener("visibilitychange", this.visibilityChanged);
    this.source?.close();
  }
}
