// Shows the list of chats: newest activity first, a search over it, older ones page by page.

import * as api from "./api.js";
import { element } from "./element.js";

const TYPING_PAUSE_MS = 250;
const TITLE_CHARACTERS = 60;

export class ChatList {
  // `listener` has open(chatId) and failed(error).
  constructor({ list, search, older, empty }, listener) {
    this.nodes = { list, older, empty };
    this.listener = listener;
    this.chats = [];
    this.next = null;
    this.query = "";
    this.current = null;
    this.firstWords = new Map();
    search.addEventListener("input", () => this.searchSoon(search.value.trim()));
    older.addEventListener("click", () => this.showOlder());
  }

  searchSoon(query) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.search(query), TYPING_PAUSE_MS);
  }

  search(query) {
    if (query === this.query) return;
    this.query = query;
    this.chats = [];
    this.refresh();
  }

  // Brings the newest page up to date and keeps the older ones that were loaded.
  async refresh({ quietly = false } = {}) {
    const query = this.query;
    try {
      const page = await api.chats(query);
      // Answers may overtake each other while somebody types.
      if (query === this.query) this.takeNewest(page);
    } catch (error) {
      if (!quietly) this.listener.failed(error);
    }
  }

  takeNewest({ results, next }) {
    const fresh = new Set(results.map(({ id }) => id));
    const rest = next === null ? [] : this.chats.filter(({ id }) => !fresh.has(id));
    if (!rest.length) this.next = next;
    this.chats = [...results, ...rest];
    this.show();
  }

  async showOlder() {
    const query = this.query;
    this.nodes.older.disabled = true;
    try {
      const page = await api.nextPage(this.next);
      if (query === this.query) this.append(page);
    } catch (error) {
      this.listener.failed(error);
    } finally {
      this.nodes.older.disabled = false;
    }
  }

  append({ results, next }) {
    const known = new Set(this.chats.map(({ id }) => id));
    this.chats.push(...results.filter(({ id }) => !known.has(id)));
    this.next = next;
    this.show();
  }

  find(id) {
    return this.chats.find((chat) => chat.id === id);
  }

  put(chat) {
    const index = this.chats.findIndex(({ id }) => id === chat.id);
    if (index >= 0) this.chats[index] = chat;
    this.show();
  }

  remove(id) {
    this.chats = this.chats.filter((chat) => chat.id !== id);
    this.show();
  }

  select(id) {
    this.current = id;
    this.show();
  }

  // Runs elsewhere end without telling this page.
  get awaitsOthers() {
    return this.chats.some(({ id, active_run_id: run }) => run && id !== this.current);
  }

  rememberFirstWords(id, text) {
    if (text) this.firstWords.set(id, shortened(text));
  }

  titleOf(chat) {
    return chat.title || this.firstWords.get(chat.id) || "New chat";
  }

  show() {
    const focused = document.activeElement?.dataset?.chat;
    this.nodes.list.replaceChildren(...this.chats.map((chat) => this.row(chat)));
    this.nodes.older.hidden = this.next === null;
    this.nodes.empty.hidden = this.chats.length > 0;
    this.nodes.empty.textContent = this.query ? "No chat matches." : "No chats yet.";
    if (focused) this.nodes.list.querySelector(`[data-chat="${focused}"]`)?.focus();
  }

  row(chat) {
    const title = element("span", { className: "chat-title", dir: "auto" }, this.titleOf(chat));
    const link = element("a", { href: `/c/${chat.id}` }, title, this.sign(chat));
    link.dataset.chat = chat.id;
    if (chat.id === this.current) link.setAttribute("aria-current", "page");
    link.addEventListener("click", (event) => this.follow(event, chat.id));
    return element("li", {}, link);
  }

  sign(chat) {
    if (chat.active_run_id) {
      return element("span", { className: "dot", role: "img", title: "An answer is being written", "aria-label": "running" });
    }
    return element("time", { dateTime: chat.updated_at }, when(new Date(chat.updated_at)));
  }

  follow(event, id) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    this.listener.open(id);
  }
}

function shortened(text) {
  const line = text.trim().replace(/\s+/g, " ");
  const characters = [...line.slice(0, 2 * TITLE_CHARACTERS)];
  return characters.length > TITLE_CHARACTERS ? `${characters.slice(0, TITLE_CHARACTERS).join("")}…` : line;
}

function when(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  const form = isToday ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
  return new Intl.DateTimeFormat(undefined, form).format(date);
}
