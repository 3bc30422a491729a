// An answer that a limit made shorter is no error and carries none; its run tells which limit it was.

import * as api from "./api.js";

// What to say about it, or null when nobody knows: the message says already that it was a limit.
export async function limitReached(runId) {
  try {
    return limitOf(await api.run(runId));
  } catch {
    return null;
  }
}

function limitOf({ limits, usage, step_count: steps, end_reason: reason }) {
  const told = (limit) => `The answer ends here: the run reached its limit of ${limit}.`;
  if (reason === "timeout") return told(counted(limits.seconds, "second"));
  if (limits.steps !== null && steps >= limits.steps) return told(counted(limits.steps, "step"));
  if (limits.tokens !== null && usage.input_tokens + usage.output_tokens >= limits.tokens) return told(counted(limits.tokens, "token"));
  if (limits.cost_usd !== null && usage.cost_usd >= limits.cost_usd) return told(`$${limits.cost_usd}`);
  return "The answer ends here: the limit for today was reached.";
}

function counted(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
