// Starts a turn where detached runs are switched off: the run lives as long as the stream that began it, which this page
// holds open. Reload or close the page, and the run is stopped.

import * as api from "./api.js";

// The run, as far as the beginning of its stream tells of it.
export async function startAttached(chatId, turn) {
  const stream = await api.say(bodyOf(chatId, turn));
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  const { messageId, messageMetadata } = await firstChunk(reader);
  hold(reader);
  const id = messageMetadata.runId;
  return { id, message_id: messageId, stream_url: `/api/runs/${id}/stream`, finished_at: null };
}

function bodyOf(chatId, { text, files = [], replaces }) {
  if (text === undefined) return { id: chatId, trigger: "regenerate-message", messageId: replaces, messages: [{}] };
  const parts = [...files.map(filePart), { type: "text", text }];
  // A message that is stored under this id is edited.
  const message = { ...(replaces && { id: replaces }), role: "user", parts };
  return { id: chatId, trigger: "submit-message", messages: [message] };
}

function filePart({ name, text }) {
  const url = `data:text/plain;charset=utf-8,${encodeURIComponent(text)}`;
  return { type: "file", mediaType: "text/plain", filename: name, url };
}

async function firstChunk(reader) {
  let text = "";
  while (true) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) throw new api.ApiError(0, "UNREACHABLE", "The answer of the server broke off.");
    text += value;
    const data = text.match(/^data: (.*)\n/m)?.[1];
    if (data) return JSON.parse(data);
  }
}

// What comes is thrown away: the run is followed like any other.
async function hold(reader) {
  try {
    while (!(await reader.read()).done);
  } catch {
    // The server broke it off, and then the run goes on by itself.
  }
}
