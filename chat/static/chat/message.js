// Shows one message: its parts in order, and below them how it ended.

import { element, throttled } from "./element.js";
import { viewOf } from "./parts.js";
import { PlainText } from "./plain.js";

const UPDATE_PAUSE_MS = 100;

// What to say about an end that was not a plain success: [what happened, what to do].
const ENDINGS = {
  stopped: ["Stopped."],
  disconnected: ["Stopped, because the connection it belonged to went away."],
  superseded: ["Stopped in favour of a newer message."],
  budget: ["Stopped at its limit of steps, tokens or cost."],
  timeout: ["Stopped at its time limit."],
  provider_error: ["The model could not be reached or refused to answer.", "Trying again often helps."],
  tool_error: ["A tool failed.", "The tool's card above tells more. Try again or ask in another way."],
  worker_lost: ["The answer was interrupted too many times by crashes.", "Trying again starts afresh."],
  internal_error: ["Something went wrong on our side.", "Trying again often helps."],
};
const UNKNOWN_ENDINGS = {
  aborted: ["Stopped."],
  error: ["The answer failed.", "Trying again often helps."],
};

const LABELS = { edit: "Edit", regenerate: "Try again", continue: "Continue" };

// A limit may cut short an answer that is a success otherwise.
export function isAtLimit(metadata) {
  return ["budget", "timeout"].includes(metadata?.run?.endReason);
}

export class MessageView {
  constructor(message) {
    this.parts = element("div", { className: "parts" });
    this.foot = element("div", { className: "foot" });
    this.views = [];
    this.element = element("article", { className: `message ${message.role}` }, this.parts, this.foot);
    this.element.setAttribute("aria-label", message.role === "user" ? "You" : "Assistant");
    this.show(message);
    this.showSoon = throttled(() => this.show(this.coming), () => UPDATE_PAUSE_MS);
  }

  get id() {
    return this.message.id;
  }

  get isFinal() {
    return this.message.status !== "streaming";
  }

  // For a message that changes many times a second.
  update(message) {
    this.coming = message;
    this.showSoon();
  }

  show(message) {
    this.message = message;
    this.element.classList.toggle("streaming", !this.isFinal);
    if (message.role === "user") this.showOwnText(message);
    else this.showParts(message.parts);
    this.foot.replaceChildren(...ending(message), ...usage(message.metadata?.usage), ...this.actions());
  }

  // What can be done with it, told to whoever listens for `act`. The page has no id yet of what it sent itself.
  actions() {
    if (!this.isFinal || typeof this.id !== "string") return [];
    const interrupted = this.message.status === "error" || this.message.status === "aborted";
    const names = this.message.role === "user" ? ["edit"] : interrupted ? ["continue", "regenerate"] : ["regenerate"];
    return [element("p", { className: "actions" }, ...names.map((name) => this.action(name)))];
  }

  action(name) {
    const button = element("button", { type: "button", className: `quiet ${name}` }, LABELS[name]);
    const act = () => new CustomEvent("act", { bubbles: true, detail: { name, message: this.message } });
    button.addEventListener("click", () => this.element.dispatchEvent(act()));
    return button;
  }

  // Screen readers wait while it is busy and then read what is new.
  announce(busy) {
    this.element.setAttribute("aria-live", "polite");
    this.element.setAttribute("aria-busy", String(busy));
  }

  showOwnText(message) {
    const plain = new PlainText();
    plain.update(message.text);
    this.parts.replaceChildren(...message.parts.filter(({ type }) => type === "file").map(fileElement), plain.element);
  }

  showParts(parts) {
    parts.forEach((part, index) => this.showPart(part, index));
    for (const slot of this.views.splice(parts.length)) slot.view?.element.remove();
  }

  showPart(part, index) {
    if (this.views[index]?.key !== keyOf(part)) this.place(part, index);
    this.views[index].view?.update(part);
  }

  // After a new start another part may stand where this one stood; what follows it is placed again as well.
  place(part, index) {
    for (const slot of this.views.splice(index)) slot.view?.element.remove();
    const view = viewOf(part);
    this.views.push({ key: keyOf(part), view });
    if (view) this.parts.append(view.element);
  }
}

function fileElement(part) {
  const view = viewOf(part);
  view.update(part);
  return view.element;
}

function keyOf(part) {
  return part.toolCallId ? `${part.type} ${part.toolCallId}` : part.type;
}

function ending(message) {
  const isWhole = message.status === "completed" && !isAtLimit(message.metadata);
  if (message.role !== "assistant" || message.status === "streaming" || isWhole) return [];
  const reason = message.metadata?.run?.endReason;
  const [what, hint] = (Object.hasOwn(ENDINGS, reason ?? "") ? ENDINGS[reason] : UNKNOWN_ENDINGS[message.status]);
  const box = element("div", { className: `ending ${message.status}` });
  box.append(element("p", { dir: "auto" }, (message.status !== "aborted" && message.error) || what));
  if (hint) box.append(element("p", { className: "hint" }, hint));
  return [box];
}

function usage(counted) {
  if (!counted) return [];
  const facts = [];
  if (counted.inputTokens || counted.outputTokens) {
    facts.push(`${number(counted.inputTokens)} tokens in`, `${number(counted.outputTokens)} out`);
  }
  if (Number(counted.costUsd) > 0) facts.push(`$${Number(counted.costUsd).toPrecision(2)}`);
  if (!facts.length) return [];
  return [element("p", { className: "usage" }, facts.join(" · ") + (counted.estimated ? " (estimated)" : ""))];
}

function number(count) {
  return Number(count ?? 0).toLocaleString();
}
