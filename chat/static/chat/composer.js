// Owns the box at the bottom: the text being written, kept per chat, its files, and the send and stop buttons.

import { Attachments, fileOf } from "./files.js";

export class Composer {
  // `listener` has send(turn), stop() and refused(reason). `owner` keeps one person's drafts from the next one's at the
  // same screen.
  constructor({ form, input, send, stop, status, editing, ...files }, { owner, mostBytes }, listener) {
    this.nodes = { input, send, stop, status, editing };
    this.owner = owner;
    this.listener = listener;
    this.state = { sending: false, live: null };
    // The message that is being edited, and what was in the box before.
    this.original = null;
    this.aside = null;
    this.attachments = new Attachments({ ...files, target: form }, mostBytes, {
      changed: () => this.showButtons(),
      refused: (reason) => listener.refused(reason),
    });
    editing.querySelector("button").addEventListener("click", () => this.endEdit());
    form.addEventListener("submit", (event) => this.submit(event));
    input.addEventListener("keydown", (event) => this.keyPressed(event));
    input.addEventListener("input", () => this.edited());
    stop.addEventListener("click", () => listener.stop());
  }

  get text() {
    return this.nodes.input.value;
  }

  setText(text) {
    this.nodes.input.value = text;
    this.edited();
  }

  // Survives a reload and the way over the login page, and nothing else: it is this tab's.
  openDraft(chatId) {
    // The box can be written in before this script has arrived.
    const typed = this.draftKey === undefined ? this.text : "";
    this.draftKey = this.keyOf(chatId);
    this.setOriginal(null);
    this.attachments.set([]);
    this.setText(typed || (sessionStorage.getItem(this.draftKey) ?? ""));
  }

  // The chat it was written for came into being, or went away.
  moveDraft(chatId) {
    const { text } = this;
    this.setOriginal(null);
    this.setText("");
    this.draftKey = this.keyOf(chatId);
    this.setText(text);
  }

  // What was typed or attached while the message was on its way stays.
  sent(chatId, { text, files = [], replaces }) {
    if (replaces) {
      if (this.original === replaces) this.endEdit();
      return;
    }
    if (this.draftKey !== this.keyOf(chatId)) return sessionStorage.removeItem(this.keyOf(chatId));
    this.setText(this.text.startsWith(text) ? this.text.slice(text.length) : this.text);
    this.attachments.set(this.attachments.files.filter((file) => !files.includes(file)));
  }

  // A message of one's own, taken into the box; what was there comes back afterwards.
  edit({ id, text, parts }) {
    this.aside ??= { text: this.text, files: this.attachments.files };
    this.setOriginal(id);
    this.setText(text);
    this.attachments.set(parts.filter(({ type }) => type === "file").map(fileOf));
    this.nodes.input.focus();
  }

  endEdit() {
    const { text, files } = this.aside;
    this.setOriginal(null);
    this.setText(text);
    this.attachments.set(files);
    this.focus();
  }

  // What it was to replace is gone: what was written becomes a message like any other.
  forgetOriginal() {
    this.setOriginal(null);
    this.edited();
  }

  setOriginal(id) {
    this.original = id;
    if (id === null) this.aside = null;
    this.nodes.editing.hidden = id === null;
  }

  keyOf(chatId) {
    return `draft ${this.owner} ${chatId ?? "new"}`;
  }

  edited() {
    // While a message is edited, the draft is what waits beside it.
    if (this.original === null && this.text) saveDraft(this.draftKey, this.text);
    else if (this.original === null) sessionStorage.removeItem(this.draftKey);
    this.grow();
    this.showButtons();
  }

  // For browsers without `field-sizing: content`.
  grow() {
    if (CSS.supports("field-sizing", "content")) return;
    const { style } = this.nodes.input;
    style.height = "auto";
    style.height = `${this.nodes.input.scrollHeight}px`;
  }

  keyPressed(event) {
    if (event.key === "Escape" && this.original !== null) return this.endEdit();
    // While an input method composes, Enter chooses a word.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.submit(event);
  }

  submit(event) {
    event.preventDefault();
    if (this.text.trim() && !this.state.sending) this.listener.send(this.turn);
  }

  get turn() {
    const { files } = this.attachments;
    return { text: this.text, ...(files.length && { files }), ...(this.original && { replaces: this.original }) };
  }

  focus() {
    // On a touch screen it would raise the keyboard over half of the page.
    if (matchMedia("(pointer: fine)").matches) this.nodes.input.focus();
  }

  // `live` is the LiveRun being watched, or null.
  show(state) {
    this.state = { ...this.state, ...state };
    this.showButtons();
    const { live, sending } = this.state;
    const status = live ? live.status : sending ? "Sending…" : "";
    if (this.nodes.status.textContent !== status) this.nodes.status.textContent = status;
  }

  showButtons() {
    const { send, stop } = this.nodes;
    const { live, sending } = this.state;
    const hadFocus = document.activeElement === stop || document.activeElement === send;
    send.hidden = Boolean(live);
    send.disabled = sending || !this.text.trim();
    stop.hidden = !live;
    stop.disabled = Boolean(live?.stopping);
    if (hadFocus && (document.activeElement === document.body || document.activeElement?.disabled)) this.focus();
  }
}

function saveDraft(key, text) {
  try {
    sessionStorage.setItem(key, text);
  } catch {
    // The storage is full; a draft is a convenience.
  }
}
