// Speaks HTTP to the API: one function per route the page uses, one error type for whatever goes wrong.

const TIMEOUT_MS = 30_000;

export class ApiError extends Error {
  // `code` is the server's, or UNREACHABLE when no answer came: then nobody knows whether the request took effect.
  constructor(status, code, detail, { runId = null, retryAfter = null } = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.runId = runId;
    this.retryAfter = retryAfter;
  }

  get outcomeUnknown() {
    return this.status === 0 || this.status >= 500;
  }
}

// A proxy may have told the server another scheme or host than the browser uses: only path and query count.
export function onThisOrigin(url) {
  const { pathname, search } = new URL(url, location.origin);
  return pathname + search;
}

export const me = () => get("/api/me");
export const chats = (query) => get(query ? `/api/chats?q=${encodeURIComponent(query)}` : "/api/chats");
export const chat = (id) => get(`/api/chats/${id}`);
export const messages = (chatId, limit = 50) => get(`/api/chats/${chatId}/messages?order=newest&limit=${limit}`);
export const nextPage = (url) => get(onThisOrigin(url));
export const latestRun = (chatId) => get(`/api/chats/${chatId}/run`);
export const run = (id) => get(`/api/runs/${id}`);

export const createChat = (workspace) => send("POST", "/api/chats", workspace ? { workspace } : {});
export const renameChat = (id, title) => send("PATCH", `/api/chats/${id}`, { title });
export const deleteChat = (id) => send("DELETE", `/api/chats/${id}`);
export const stop = (chatId, runId) => send("POST", `/api/chats/${chatId}/stop`, { run_id: runId });

// `turn` is the body: a text with its files, what it replaces, or that the last answer goes on.
export function startRun(chatId, turn, idempotencyKey) {
  return send("POST", `/api/chats/${chatId}/runs`, turn, { "Idempotency-Key": idempotencyKey });
}

// The stream of a run that this begins; `body` is that of AI SDK clients. It takes as long as the run does.
export async function say(body) {
  const response = await answer("POST", "/api/chat", body, {}, null);
  if (!response.ok) throw await refusal(response);
  return response.body;
}

function get(path) {
  return send("GET", path);
}

async function send(method, path, body, headers = {}) {
  const response = await answer(method, path, body, headers);
  if (!response.ok) throw await refusal(response);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    throw new ApiError(0, "UNREACHABLE", "The answer of the server broke off.");
  }
}

async function answer(method, path, body, headers, signal = AbortSignal.timeout(TIMEOUT_MS)) {
  const options = { method, headers: { Accept: "application/json", ...headers }, signal };
  if (method !== "GET") options.headers["X-CSRFToken"] = csrfToken();
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  try {
    return await fetch(path, options);
  } catch {
    throw new ApiError(0, "UNREACHABLE", "The server cannot be reached.");
  }
}

async function refusal(response) {
  // A proxy in front of the server answers in its own shape, or in none.
  const body = (await response.json().catch(() => null)) ?? {};
  if (response.status === 401 || body.code === "NOT_AUTHENTICATED") leaveForLogin();
  return new ApiError(response.status, body.code ?? "UNAVAILABLE", explain(body, response.status), {
    runId: body.run_id ?? null,
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

function explain(body, status) {
  const fields = Object.values(body.errors ?? {}).flat().filter((text) => typeof text === "string");
  return [body.detail ?? `The server answered ${status}.`, ...fields].join(" ");
}

function leaveForLogin() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
}

function csrfToken() {
  return document.cookie.match(/(?:^|;\s*)csrftoken=([^;]*)/)?.[1] ?? "";
}
