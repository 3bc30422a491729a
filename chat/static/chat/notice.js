// Says what went wrong, or what the server answered, in the line above the box.

import { ApiError } from "./api.js";

const HINTS = {
  UNREACHABLE: "Try again: no message is answered twice.",
  UNAVAILABLE: "Try again in a moment.",
  INTERNAL: "Try again in a moment.",
  CSRF_FAILED: "Reload the page and try again.",
  RUN_MISMATCH: "Another answer is being written now.",
};

const box = document.getElementById("notice");
box.querySelector("button").addEventListener("click", clearNotice);

export function say(text) {
  box.querySelector("p").textContent = text;
  box.hidden = false;
}

export function clearNotice() {
  box.hidden = true;
}

export function failed(error) {
  if (!(error instanceof ApiError)) {
    console.error(error);
    return say("Something on this page went wrong. Reload it.");
  }
  // The page is on its way to the login page.
  if (error.code !== "NOT_AUTHENTICATED") say(`${error.message} ${hintFor(error)}`.trim());
}

function hintFor(error) {
  // Longer waits are told in words, by who knows what they are for.
  if (error.retryAfter && error.retryAfter < 3600) return `Try again in ${error.retryAfter} s.`;
  return Object.hasOwn(HINTS, error.code) ? HINTS[error.code] : "";
}
