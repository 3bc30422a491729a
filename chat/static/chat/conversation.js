// Shows the messages of one chat, newest page first, and watches the run that writes the last of them.

import * as api from "./api.js";
import { element } from "./element.js";
import { partOf } from "./files.js";
import { limitReached } from "./limits.js";
import { LiveRun } from "./live.js";
import { isAtLimit, MessageView } from "./message.js";

const NEAR_THE_END_PX = 60;

export class Conversation {
  // `listener` has changed(), failed(error), act({ name, message }), and ended(notice), where null is an end that needs
  // no words.
  constructor(chatId, scroller, listener) {
    this.chatId = chatId;
    this.scroller = scroller;
    this.listener = listener;
    this.views = new Map();
    this.live = null;
    this.older = null;
    this.list = element("div", { className: "list" });
    this.earlier = element("button", { type: "button", className: "quiet earlier", hidden: true }, "Show earlier messages");
    this.earlier.addEventListener("click", () => this.showEarlier());
    this.scroller.replaceChildren(element("div", { className: "column" }, this.earlier, this.list));
    this.list.addEventListener("act", ({ detail }) => this.listener.act(detail));
    this.stayAtTheEnd();
  }

  close() {
    this.closed = true;
    this.live?.close();
    this.resized.disconnect();
    this.scroller.removeEventListener("scroll", this.scrolled);
  }

  // Reading on is left alone: the view follows the text only for someone who is at its end.
  stayAtTheEnd() {
    this.atTheEnd = true;
    this.scrolled = () => {
      const { scrollHeight, scrollTop, clientHeight } = this.scroller;
      this.atTheEnd = scrollHeight - scrollTop - clientHeight < NEAR_THE_END_PX;
    };
    this.scroller.addEventListener("scroll", this.scrolled, { passive: true });
    // Who unfolds something wants to see its beginning.
    this.list.addEventListener("click", (event) => {
      if (event.target.closest("summary")) this.atTheEnd = false;
    });
    this.resized = new ResizeObserver(() => this.atTheEnd && this.scrollToTheEnd());
    this.resized.observe(this.list);
    this.resized.observe(this.scroller);
  }

  scrollToTheEnd() {
    this.atTheEnd = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  // May run at any time: shows what the server has now and follows the run that is active now.
  async load() {
    const [page, latest] = await Promise.all([api.messages(this.chatId), api.latestRun(this.chatId)]);
    if (this.closed) return;
    this.takeNewest(page);
    this.takeUp(latest);
  }

  // Only a run changes a chat, so another latest run is the sign that there is something to load.
  async catchUp() {
    const { run } = await api.latestRun(this.chatId);
    if (!this.closed && run && run.id !== this.latestRunId) await this.load();
  }

  takeNewest({ results, next }) {
    const kept = this.viewsBefore(new Set(results.map(({ id }) => id)));
    if (!kept.length) this.setOlder(next);
    this.setViews([...kept, ...results.toReversed().map((message) => this.viewFor(message))]);
  }

  // The earlier pages stay when the newest one still joins on to them.
  viewsBefore(ids) {
    const views = [...this.views.values()];
    const joint = views.findIndex(({ id }) => ids.has(id));
    return joint < 0 ? [] : views.slice(0, joint);
  }

  // A settled message never changes, and the one being written is ahead of whatever was fetched.
  viewFor(message) {
    const view = this.views.get(message.id);
    return view && (view.isFinal || this.live?.view === view) ? view : this.stored(message);
  }

  stored(message) {
    const view = new MessageView(message);
    if (isAtLimit(message.metadata)) this.nameLimit(view);
    return view;
  }

  async nameLimit(view) {
    const error = await limitReached(view.message.run_id);
    if (error !== null) view.show({ ...view.message, error });
  }

  setViews(views) {
    this.views = new Map(views.map((view) => [view.id, view]));
    this.list.replaceChildren(...views.map((view) => view.element));
  }

  // The two answers were not given in the same instant. A message that still looks unfinished is followed in any
  // case: the stream of a finished run is its stored message.
  takeUp({ run, message }) {
    if (!run || this.live?.run.id === run.id) return;
    this.latestRunId = run.id;
    const view = this.views.get(run.message_id);
    if (run.finished_at === null || (view && !view.isFinal)) return this.watch(run, message);
    if (view && typeof run.error === "string") view.show({ ...view.message, error: run.error });
  }

  watch(run, message = null) {
    this.live?.close();
    this.latestRunId = run.id;
    const view = this.views.get(run.message_id) ?? this.add(message ?? unwritten(run));
    this.live = new LiveRun(run, view, {
      changed: () => this.listener.changed(),
      ended: (notice) => this.endLive(notice),
      gone: () => this.endLive("This answer is no longer there."),
    });
    this.list.classList.add("busy");
    this.listener.changed();
  }

  endLive(notice) {
    this.live = null;
    this.list.classList.remove("busy");
    this.listener.ended(notice);
    this.nameOwn();
  }

  // The text just sent gets the id that the server has for it: without one it cannot be edited.
  async nameOwn() {
    const own = [...this.views.values()].findLast(({ id }) => typeof id === "symbol");
    if (!own) return;
    try {
      const [answer, question] = (await api.messages(this.chatId, 2)).results;
      if (answer?.run_id !== this.latestRunId || question?.role !== "user") return;
      own.show(question);
      this.views = new Map([...this.views.values()].map((view) => [view.id, view]));
    } catch {
      // It stays as it is until the chat is opened again.
    }
  }

  add(message) {
    const view = new MessageView(message);
    this.views.set(message.id, view);
    this.list.append(view.element);
    return view;
  }

  // What a turn changes, shown before the server has answered. The returned function takes it back.
  expect({ text, files = [], replaces }) {
    const before = [...this.views.values()];
    const replaced = before.findIndex(({ id }) => id === replaces);
    if (replaced >= 0) this.setViews(before.slice(0, replaced));
    if (text) this.add({ id: Symbol("own"), role: "user", parts: files.map(partOf), text, status: "completed" });
    this.scrollToTheEnd();
    return () => this.setViews(before);
  }

  setOlder(next) {
    this.older = next;
    this.earlier.hidden = next === null;
  }

  async showEarlier() {
    this.earlier.disabled = true;
    try {
      const page = await api.nextPage(this.older);
      if (!this.closed) this.prepend(page);
    } catch (error) {
      this.listener.failed(error);
    } finally {
      this.earlier.disabled = false;
    }
  }

  // What is being read stays where it is on the screen.
  prepend(page) {
    const before = this.scroller.scrollHeight - this.scroller.scrollTop;
    const views = page.results.toReversed().filter(({ id }) => !this.views.has(id)).map((message) => this.stored(message));
    this.setViews([...views, ...this.views.values()]);
    this.setOlder(page.next);
    this.scroller.scrollTop = this.scroller.scrollHeight - before;
  }

  // The first words of the chat, where its beginning has been loaded.
  get firstWords() {
    if (this.older !== null) return null;
    const first = [...this.views.values()].find((view) => view.message.role === "user");
    return first?.message.text ?? null;
  }
}

function unwritten(run) {
  return { id: run.message_id, role: "assistant", parts: [], status: "streaming", metadata: {} };
}
