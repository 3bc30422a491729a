// Turns Markdown into HTML off the page's thread, where a parse that takes too long can be ended.

import hljs from "./vendor/highlight.min.js";
import { Marked } from "./vendor/marked.esm.js";

const HTML_LIMIT = 600_000;
const HIGHLIGHT_LIMIT = 50_000;
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

const escape = (text) => text.replace(/[&<>"']/g, (character) => ENTITIES[character]);

const marked = new Marked({
  gfm: true,
  renderer: {
    // HTML in an answer is shown as it was written, never interpreted; line breaks in tables are the exception.
    html({ text, block }) {
      if (/^<br\s*\/?>$/i.test(text.trim())) return "<br>";
      return block ? `<p>${escape(text)}</p>\n` : escape(text);
    },
    // A picture would be fetched from wherever the model says, before anybody clicked. A link waits for the click.
    image({ href, text }) {
      return `<a href="${escape(href)}">image: ${escape(text || href)}</a>`;
    },
    checkbox({ checked }) {
      return checked ? "\u2611 " : "\u2610 ";
    },
    code({ text, lang }) {
      return `<pre><code class="hljs">${highlight(text, (lang ?? "").split(/\s/)[0])}</code></pre>\n`;
    },
  },
});

function highlight(code, language) {
  if (code.length > HIGHLIGHT_LIMIT || !hljs.getLanguage(language)) return escape(code);
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}

// Null when the text is better shown as it is: the parser gave up, or a small text made an enormous page.
function toHtml(text) {
  try {
    const html = marked.parse(text);
    return html.length > HTML_LIMIT ? null : html;
  } catch {
    return null;
  }
}

onmessage = (event) => postMessage(toHtml(event.data));
postMessage("ready");
