"""The demo model's prose, for people who try it."""

import re

QUOTE_LIMIT = 200

SLOW = (
    "This is a long answer at a leisurely pace, so that there is time to try things. "
    "Reload the page: the text is still here and goes on. "
    "Open the chat in a second window: both follow the same run. "
    "Close every window and come back later: the run does not mind, because no browser carries it. "
    "Kill the worker that writes this: another one takes over behind the last finished step. "
    "Or press stop: it reaches whichever worker holds the run, and what was written so far is kept. "
    "If you do none of this, the answer simply ends here."
)

MARKDOWN = """## What the demo model can draw

A **bold** word, an *italic* one, some `code`, and a [link](https://example.org/).

| Process | Does | Forgets |
|---|---|---|
| web | takes messages, streams runs | everything |
| worker | runs the agent | everything |
| Postgres | keeps the facts | nothing |

```python
def double(number: int) -> int:
    return number * 2
```

1. First this.
2. Then that.
   - And a detail.

> Umlauts (äöü), accents (éèê) and emoji (🙂) arrive whole.
"""


def hello(prompt: str) -> str:
    return (
        "Hello! I am the demo model: a small script and no language model, here so that everything works without "
        f"a key. You wrote: “{quoted(prompt)}”. "
        "Some words make me do more. Say “slow” for a long answer that you can stop, reload or leave. "
        "Ask for the “time in Paris” or say “calculate 2*(3+4)” and I call a tool. "
        "“Think” shows reasoning, “markdown” or “table” shows formatting. "
        "“Fail” makes me answer with an error, and “hang” makes me never answer at all, until you press stop."
    )


def slow() -> str:
    return SLOW


def markdown() -> str:
    return MARKDOWN


def title(opening: str) -> str:
    return f"About: {' '.join(opening.split()[:6]).rstrip('.,;:!?')}"


def go_on(said: str) -> str:
    """The rest of a long answer that was interrupted there."""
    return SLOW.removeprefix(said) if said and SLOW.startswith(said) else "That was all I had to say."


def facts(text: str) -> dict[str, str]:
    """What `fact: door = blue` says, wherever it stands; the last word on a matter counts."""
    return dict(re.findall(r"\bfact: (\w+) = (\w+)", text))


def summary(text: str) -> str:
    return "\n".join(["They talked.", *(f"fact: {name} = {value}" for name, value in facts(text).items())])


def recall(text: str, name: str) -> str:
    return facts(text).get(name, "I do not know.")


def quoted(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTE_LIMIT else line[:QUOTE_LIMIT] + "…"


def words(text: str) -> list[str]:
    """Cut into deltas: each word with the space behind it; joined they are the text again."""
    return re.findall(r"\s+|\S+\s*", text)
