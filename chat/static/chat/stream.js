// Assembles the chunks of a run's stream into the message that the server stores in the end.

export class Assembly {
  constructor() {
    this.beginAnew();
  }

  beginAnew() {
    this.message = { id: null, role: "assistant", parts: [], metadata: {}, status: "streaming", error: null };
    // Where the run is right now, from the transient `data-run` chunks: never a part of the message.
    this.progress = null;
    this.aborted = false;
    this.finished = false;
    this.texts = new Map();
    this.tools = new Map();
  }

  // Chunks of unknown types are skipped: the vocabulary may grow.
  apply(chunk) {
    // Whatever comes after the announcement of a retry means that the wait is over.
    if (this.progress?.retry) this.progress = { ...this.progress, retry: undefined };
    APPLY.get(chunk.type)?.(this, chunk);
  }

  addText(type, id) {
    const part = { type, text: "", state: "streaming" };
    this.texts.set(`${type} ${id}`, part);
    this.message.parts.push(part);
  }

  text(type, id) {
    return this.texts.get(`${type} ${id}`);
  }

  extendText(type, { id, delta }) {
    const part = this.text(type, id);
    if (part) part.text += delta;
  }

  endText(type, { id }) {
    const part = this.text(type, id);
    if (part) part.state = "done";
    this.texts.delete(`${type} ${id}`);
  }

  // A tool whose input was not streamed begins with `tool-input-available`.
  tool({ toolCallId, toolName }) {
    if (!this.tools.has(toolCallId)) {
      const part = { type: `tool-${toolName}`, toolCallId, state: "input-streaming", input: undefined };
      this.tools.set(toolCallId, part);
      this.message.parts.push(part);
    }
    return this.tools.get(toolCallId);
  }

  settleTool(toolCallId, outcome) {
    const part = this.tools.get(toolCallId);
    if (part) Object.assign(part, outcome);
  }

  addMetadata(metadata) {
    if (metadata) deepMerge(this.message.metadata, metadata);
  }

  finish() {
    this.finished = true;
    this.message.status = STATUS_AT_END.get(this.message.metadata.run?.status) ?? this.apparentStatus();
  }

  apparentStatus() {
    if (this.aborted) return "aborted";
    return this.message.error === null ? "completed" : "error";
  }
}

const STATUS_AT_END = new Map([["succeeded", "completed"], ["failed", "error"], ["aborted", "aborted"]]);

const APPLY = new Map(Object.entries({
  "start": (assembly, chunk) => {
    assembly.beginAnew();
    assembly.message.id = chunk.messageId ?? null;
    assembly.addMetadata(chunk.messageMetadata);
  },
  "start-step": (assembly) => assembly.message.parts.push({ type: "step-start" }),
  "text-start": (assembly, chunk) => assembly.addText("text", chunk.id),
  "text-delta": (assembly, chunk) => assembly.extendText("text", chunk),
  "text-end": (assembly, chunk) => assembly.endText("text", chunk),
  "reasoning-start": (assembly, chunk) => assembly.addText("reasoning", chunk.id),
  "reasoning-delta": (assembly, chunk) => assembly.extendText("reasoning", chunk),
  "reasoning-end": (assembly, chunk) => assembly.endText("reasoning", chunk),
  "tool-input-start": (assembly, chunk) => assembly.tool(chunk),
  "tool-input-delta": (assembly, chunk) => {
    const part = assembly.tools.get(chunk.toolCallId);
    // Half a JSON text is only for the eye; the parsed input takes its place.
    if (part) part.input = (part.input ?? "") + chunk.inputTextDelta;
  },
  "tool-input-available": (assembly, chunk) => {
    Object.assign(assembly.tool(chunk), { state: "input-available", input: chunk.input });
  },
  "tool-output-available": (assembly, chunk) => {
    assembly.settleTool(chunk.toolCallId, { state: "output-available", output: chunk.output });
  },
  "tool-output-error": (assembly, chunk) => {
    assembly.settleTool(chunk.toolCallId, { state: "output-error", errorText: chunk.errorText });
  },
  "message-metadata": (assembly, chunk) => assembly.addMetadata(chunk.messageMetadata),
  "data-run": (assembly, chunk) => {
    assembly.progress = chunk.data;
  },
  "error": (assembly, chunk) => {
    assembly.message.error = chunk.errorText;
  },
  "abort": (assembly) => {
    assembly.aborted = true;
  },
  "finish": (assembly, chunk) => {
    assembly.addMetadata(chunk.messageMetadata);
    assembly.finish();
  },
}));

const UNSAFE_KEYS = new Set(["__proto__", "constructor", "prototype"]);

function deepMerge(target, source) {
  for (const [key, value] of Object.entries(source)) {
    if (UNSAFE_KEYS.has(key)) continue;
    if (isObject(value)) target[key] = deepMerge(isObject(target[key]) ? target[key] : {}, value);
    else target[key] = value;
  }
  return target;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
