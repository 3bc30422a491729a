// Ties the page together: which chat is open, what the buttons do, what went wrong.

import * as api from "./api.js";
import { startAttached } from "./attached.js";
import { ChatList } from "./chats.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { clearNotice, failed, say } from "./notice.js";
import { Drawer, ask } from "./panels.js";

const OTHERS_PAUSE_MS = 10_000;
// A chat without a title gets one after its first turn: soon, or when the server has waited for a model long enough.
const TITLE_PAUSES_MS = [2_000, 12_000];

const $ = (id) => document.getElementById(id);

const nodes = { title: $("title"), actions: $("chat-actions"), messages: $("messages") };
const welcome = $("welcome");
// Tabs of this browser tell each other that a chat changed.
const tabs = new BroadcastChannel("perdure");

let chat = null;
let conversation = null;
// A send whose outcome nobody knows: sent again with the same key, the server recognises it.
let unanswered = null;

const chats = new ChatList(
  { list: $("chats"), search: $("search"), older: $("older"), empty: $("no-chats") },
  { open: (id) => go(`/c/${id}`), failed },
);
const composer = new Composer(
  {
    form: $("composer"), input: $("text"), send: $("send"), stop: $("stop"), status: $("status"), editing: $("editing"),
    button: $("attach"), picker: $("picker"), chips: $("files"),
  },
  { owner: document.body.dataset.user, mostBytes: Number(document.body.dataset.messageBytes) },
  { send, stop, refused: say },
);
const drawer = new Drawer($("sidebar"), $("menu"));

function go(path) {
  if (path !== location.pathname) history.pushState(null, "", path);
  show();
}

// Opens what the address says.
async function show() {
  const id = location.pathname.match(/^\/c\/([0-9a-f-]{36})$/i)?.[1].toLowerCase() ?? null;
  drawer.close();
  clearNotice();
  leave();
  composer.openDraft(id);
  composer.focus();
  chats.select(id);
  if (id === null) showWelcome();
  else await open(id);
}

function leave() {
  conversation?.close();
  conversation = null;
  chat = null;
  composer.show({ sending: false, live: null });
  showTitle();
}

function showWelcome() {
  nodes.messages.replaceChildren(welcome);
}

async function open(id) {
  const opened = new Conversation(id, nodes.messages, listenerOf(id));
  conversation = opened;
  chat = chats.find(id) ?? null;
  showTitle();
  try {
    const [found] = await Promise.all([api.chat(id), opened.load()]);
    if (conversation !== opened) return;
    setChat(found);
    opened.scrollToTheEnd();
  } catch (error) {
    if (conversation === opened) notOpened(id, error);
  }
}

function listenerOf(id) {
  const isOpen = () => conversation?.chatId === id;
  return {
    changed: () => isOpen() && composer.show({ live: conversation.live }),
    ended: (notice) => isOpen() && runEnded(notice),
    act: (action) => isOpen() && act(action),
    failed,
  };
}

function notOpened(id, error) {
  if (error.status !== 404) return failed(error);
  leave();
  chats.remove(id);
  history.replaceState(null, "", "/");
  composer.moveDraft(null);
  chats.select(null);
  showWelcome();
  say("This chat does not exist, or it is somebody else's.");
}

function setChat(found) {
  chat = found;
  chats.rememberFirstWords(chat.id, conversation?.firstWords);
  chats.put(chat);
  showTitle();
}

function showTitle() {
  const title = chat ? chats.titleOf(chat) : conversation ? "" : "New chat";
  nodes.title.textContent = title;
  nodes.actions.hidden = chat === null;
  document.title = chat ? `${title} · Perdure` : "Perdure";
}

function act({ name, message }) {
  if (name === "edit") return composer.edit(message);
  composer.focus();
  if (!composer.state.sending) send(name === "continue" ? { continue: true } : { replaces: message.id });
}

// `turn` is what the API takes: a text with its files, what it replaces, or that the last answer goes on.
async function send(turn) {
  if (conversation?.live) return say("An answer is still being written. Stop it, or wait for its end: your text stays here.");
  clearNotice();
  composer.show({ sending: true });
  try {
    await sendIn(conversation ?? (await begin()), turn);
  } catch (error) {
    await refused(error, turn);
  } finally {
    composer.show({ sending: false });
  }
}

// A chat comes into being with its first message.
async function begin() {
  const created = await api.createChat($("workspace").value);
  history.pushState(null, "", `/c/${created.id}`);
  conversation = new Conversation(created.id, nodes.messages, listenerOf(created.id));
  composer.moveDraft(created.id);
  chats.select(created.id);
  setChat(created);
  return conversation;
}

async function sendIn(target, turn) {
  const takeBack = target.expect(turn);
  const key = keyFor(target.chatId, JSON.stringify(turn));
  try {
    const run = await start(target.chatId, turn, key);
    unanswered = null;
    if (turn.text) composer.sent(target.chatId, turn);
    if (target !== conversation) return;
    target.watch(run);
    setChat(chat);
    changedHere();
  } catch (error) {
    takeBack();
    if (!error.outcomeUnknown) unanswered = null;
    throw error;
  }
}

async function start(chatId, turn, key) {
  try {
    return await api.startRun(chatId, turn, key);
  } catch (error) {
    if (error.code !== "AUTONOMOUS_RUNS_OFF" || turn.continue) throw error;
    return startAttached(chatId, turn);
  }
}

function keyFor(chatId, body) {
  if (unanswered?.chatId !== chatId || unanswered.body !== body) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    unanswered = { chatId, body, key: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
  }
  return unanswered.key;
}

async function refused(error, turn) {
  if (error.status === 404 && turn.replaces) return outdated();
  if (error.status === 404 && conversation) return notOpened(conversation.chatId, error);
  if (error.code !== "A_RUN_ALREADY_ACTIVE") return failed(error);
  await reload();
  say("Another answer is being written in this chat. Your text stays here until it has ended.");
}

async function outdated() {
  composer.forgetOriginal();
  await reload();
  if (conversation) say("This message was replaced meanwhile. Here is the chat as it is now.");
}

async function stop() {
  const live = conversation?.live;
  if (!live) return;
  clearNotice();
  try {
    const notice = await live.stop();
    if (notice) say(notice);
  } catch (error) {
    if (error.code === "RUN_MISMATCH") await reload();
    failed(error);
  }
}

function runEnded(notice) {
  composer.show({ live: null });
  if (notice) say(notice);
  changedHere();
  awaitTitle(conversation.chatId);
}

function awaitTitle(id) {
  for (const pause of TITLE_PAUSES_MS) setTimeout(() => chats.find(id)?.title || refreshList(), pause);
}

function changedHere() {
  tabs.postMessage(conversation?.chatId ?? null);
  refreshList();
}

async function refreshList() {
  await chats.refresh({ quietly: true });
  if (chat) chat = chats.find(chat.id) ?? chat;
  showTitle();
}

async function reload(load = (opened) => opened.load()) {
  const opened = conversation;
  try {
    if (opened) await load(opened);
  } catch (error) {
    if (conversation === opened) notOpened(opened.chatId, error);
  }
}

async function rename() {
  const title = await ask($("rename"), { title: chats.titleOf(chat) });
  const wanted = title?.get("title").trim();
  if (!wanted || wanted === chat.title) return;
  try {
    setChat(await api.renameChat(chat.id, wanted));
    changedHere();
  } catch (error) {
    failed(error);
  }
}

async function remove() {
  const { id } = chat;
  if (!(await ask($("delete")))) return;
  try {
    await api.deleteChat(id);
  } catch (error) {
    if (error.status !== 404) return failed(error);
  }
  chats.remove(id);
  changedHere();
  if (conversation?.chatId === id) go("/");
}

// Somebody in one workspace never sees the choice.
async function offerWorkspaces() {
  const { workspaces } = await api.me();
  if (workspaces.length < 2) return;
  $("workspace").replaceChildren(...workspaces.map(({ id, name }) => new Option(name, id)));
  $("workspace").value = workspaces[0].id;
  $("workspace-choice").hidden = false;
}

// What happened while nobody looked.
function catchUp() {
  if (document.hidden) return;
  refreshList();
  if (!conversation?.live) reload((opened) => opened.catchUp());
}

function listen() {
  $("new-chat").addEventListener("click", () => go("/"));
  $("rename-button").addEventListener("click", rename);
  $("delete-button").addEventListener("click", remove);
  $("logout").addEventListener("submit", () => sessionStorage.clear());
  addEventListener("popstate", show);
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  document.addEventListener("visibilitychange", catchUp);
  tabs.onmessage = ({ data: id }) => (conversation?.chatId === id ? catchUp() : refreshList());
  setInterval(() => !document.hidden && chats.awaitsOthers && refreshList(), OTHERS_PAUSE_MS);
}

listen();
show();
chats.refresh();
offerWorkspaces().catch(failed);
