// Plays the pages of a test: chats of the real `ai` packages without a browser. Commands come as JSON lines on stdin,
// one answer each on stdout, in whatever order they are done: {seq, op, ...} -> {seq, ...} or {seq, failed}.
//
// A page looks at its connections as a browser does: whatever ends one too early is a TypeError "network error", by
// which the packages know a lost connection (Node's own text for it is "terminated").
import { createInterface } from "node:readline";

const NETWORK_ERROR = "network error";
const pages = new Map();

class PlainState {
  status = "ready";
  error = undefined;
  messages = [];

  pushMessage = (message) => {
    this.messages = this.messages.concat(message);
  };
  popMessage = () => {
    this.messages = this.messages.slice(0, -1);
  };
  replaceMessage = (index, message) => {
    this.messages = this.messages.with(index, this.snapshot(message));
  };
  snapshot = (thing) => structuredClone(thing);
}

class Page {
  constructor(ai, { api, headers, chat, messages }) {
    this.run = undefined; // what `?run=` says when the page comes back
    this.statuses = []; // of all HTTP answers
    this.lost = 0; // connections
    this.going = Promise.resolve();
    this.transport = new ai.DefaultChatTransport({
      api,
      headers,
      fetch: (url, init) => this.fetch(url, init),
      prepareReconnectToStreamRequest: (asked) => ({
        api: `${asked.api}/${asked.id}/stream${this.run ? `?run=${this.run}` : ""}`,
        headers: asked.headers,
      }),
    });
    this.id = chat;
    this.Chat = class extends ai.AbstractChat {};
    this.show(messages);
  }

  show(messages) {
    const state = Object.assign(new PlainState(), { messages });
    this.chat = new this.Chat({ id: this.id, state, transport: this.transport });
  }

  async fetch(url, init) {
    const cut = new AbortController();
    this.cut = () => cut.abort(new TypeError(NETWORK_ERROR));
    const signal = AbortSignal.any([cut.signal, ...(init.signal ? [init.signal] : [])]);
    const response = await fetch(url, { ...init, signal });
    this.statuses.push(response.status);
    if (!response.body) return response;
    const reader = response.body.getReader();
    let left = false;
    const body = new ReadableStream({
      pull: async (controller) => {
        let piece;
        try {
          piece = await reader.read();
        } catch (error) {
          const isStop = error.name === "AbortError";
          this.lost += isStop ? 0 : 1;
          return controller.error(isStop ? error : new TypeError(NETWORK_ERROR));
        }
        if (left) return; // it was told what it needs, such as an error
        if (piece.done) controller.close();
        else controller.enqueue(piece.value);
      },
      cancel: (reason) => {
        left = true;
        return reader.cancel(reason);
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  }

  get last() {
    return this.chat.messages.at(-1);
  }

  get text() {
    const parts = this.last?.role === "assistant" ? this.last.parts : [];
    return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
  }

  look() {
    const { status, error, messages } = this.chat;
    return { status, error: error?.message ?? null, messages, statuses: this.statuses, lost: this.lost };
  }
}

async function until(condition, seconds, what) {
  const deadline = performance.now() + seconds * 1000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within ${seconds} s: ${what()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const describe = (page) => JSON.stringify({ ...page.look(), messages: page.chat.messages.slice(-2) });

const operations = {
  async open({ page, version, ...options }) {
    pages.set(page, new Page(await import(`ai-${version}`), options));
  },
  async send({ page, text, messageId }) {
    page.going = page.chat.sendMessage(messageId ? { text, messageId } : { text });
  },
  async regenerate({ page, messageId }) {
    page.going = page.chat.regenerate(messageId ? { messageId } : {});
  },
  async resume({ page, run }) {
    page.run = run;
    page.going = page.chat.resumeStream();
  },
  async stop({ page }) {
    await page.chat.stop();
  },
  async cut({ page }) {
    page.cut();
    await page.going;
  },
  // What a page does before it resumes with packages that would go on where they were. A new chat object it is, because
  // 5.0.277 remembers what it had of a message, even one that its page has taken away.
  async dropLive({ page }) {
    page.show(page.last?.role === "assistant" ? page.chat.messages.slice(0, -1) : page.chat.messages);
  },
  async waitText({ page, length, seconds }) {
    await until(() => page.text.length >= length, seconds, () => describe(page));
  },
  async settled({ page, seconds }) {
    let over = false;
    page.going.finally(() => (over = true));
    await until(() => over, seconds, () => describe(page));
  },
  async look() {},
};

async function obey({ seq, op, page: name, ...rest }) {
  try {
    const page = op === "open" ? name : pages.get(name);
    await operations[op]({ page, ...rest });
    return { seq, ...pages.get(name).look() };
  } catch (error) {
    return { seq, failed: String(error?.stack ?? error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  obey(JSON.parse(line)).then((answer) => process.stdout.write(JSON.stringify(answer) + "\n"));
}
process.exit(0);
