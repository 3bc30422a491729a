// Makes DOM elements; text goes in as text, never as markup.

export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Runs `work` at most once per pause and never more often than the screen is painted; the last call always counts.
export function throttled(work, pauseMs) {
  let waiting = false;
  let last = -Infinity;
  const run = () => {
    waiting = false;
    last = performance.now();
    work();
  };
  return () => {
    if (waiting) return;
    waiting = true;
    const delay = Math.max(0, last + pauseMs() - performance.now());
    setTimeout(() => requestAnimationFrame(run), delay);
  };
}
