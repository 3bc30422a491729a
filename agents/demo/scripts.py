"""What the demo model says: each script turns one call into moves, deterministically."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat

from agents.demo.answers import go_on, hello, markdown, quoted, recall, slow, summary, title, words
from agents.demo.directives import Directives, WantedCall
from agents.demo.moves import (
    Broken,
    CallTools,
    Cut,
    Finish,
    Headers,
    Move,
    Raw,
    Refuse,
    Reset,
    Say,
    Spoil,
    Think,
    ToolCall,
    Wait,
)

FOREVER = Wait(math.inf)
# A reset discards what the other side has not read yet; this lets the tokens before it arrive.
SETTLE = Wait(0.05)
DEFAULT_ARGUMENTS = {"current_time": '{"zone":"UTC"}', "calculate": '{"expression":"6*7"}'}
MIB = 1024 * 1024
CACHED_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """One call as the scripts see it; `step` counts the tool steps since the last user message."""

    directives: Directives
    prompt: str
    step: int = 0
    offered: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    opening: str = ""  # the first message of the conversation
    said: str = ""  # the answer before the prompt
    heard: str = ""  # all that the request says, whoever said it


def play(turn: Turn) -> Iterator[Move]:
    """Raises KeyError on an unknown script, before the first move."""
    script = SCRIPTS[turn.directives.script]
    delay = (Wait(turn.directives.delay),) if turn.directives.delay else ()
    if calls := step_calls(turn):
        return chain(delay, (Headers(),), _tokens(turn, turn.directives.say), (CallTools(calls), Finish("tool_calls")))
    return chain(delay, script(turn))


def step_calls(turn: Turn) -> tuple[ToolCall, ...]:
    """Empty when this call is to be answered: all tool steps were taken, or no tools are offered."""
    wishes = turn.directives
    special = TOOL_SCRIPTS.get(wishes.script)
    steps = wishes.steps or len(wishes.wanted) or (1 if special else 0)
    if wishes.script == "endless":
        steps = turn.step + 1
    if not turn.offered or turn.step >= steps or (wishes.script == "ask" and not _offers_what_is_asked(turn)):
        return ()
    return (special or _wanted)(turn)


# Tool steps


def _wanted(turn: Turn) -> tuple[ToolCall, ...]:
    groups = turn.directives.wanted or ((WantedCall(_any_tool(turn)),),)
    group = groups[min(turn.step, len(groups) - 1)]
    return tuple(_call(turn, index, wanted.name, wanted.arguments) for index, wanted in enumerate(group))


def _offers_what_is_asked(turn: Turn) -> bool:
    return all(call.name in turn.offered for group in turn.directives.wanted for call in group)


def _any_tool(turn: Turn) -> str:
    return "current_time" if "current_time" in turn.offered else turn.offered[0]


def _call(turn: Turn, index: int, name: str, arguments: str | None = None) -> ToolCall:
    # Ids repeat from turn to turn, as those of some providers do.
    return ToolCall(f"call_{turn.step}_{index}", name, arguments or DEFAULT_ARGUMENTS.get(name, "{}"))


def _broken_json(turn: Turn) -> tuple[ToolCall, ...]:
    return (_call(turn, 0, _any_tool(turn), '{"zone": "Eur'),)


def _unknown_tool(turn: Turn) -> tuple[ToolCall, ...]:
    return (_call(turn, 0, "no_such_tool"),)


def _duplicate_ids(turn: Turn) -> tuple[ToolCall, ...]:
    return (_call(turn, 0, _any_tool(turn)),) * 2


def _many_calls(turn: Turn) -> tuple[ToolCall, ...]:
    return tuple(_call(turn, index, _any_tool(turn)) for index in range(200))


def _big_arguments(turn: Turn) -> tuple[ToolCall, ...]:
    return (_call(turn, 0, _any_tool(turn), json.dumps({"zone": "x" * (turn.directives.size or 5 * MIB)})),)


TOOL_SCRIPTS: dict[str, Callable[[Turn], tuple[ToolCall, ...]]] = {
    "tools": _wanted,
    "endless": _wanted,
    "broken_json": _broken_json,
    "unknown_tool": _unknown_tool,
    "duplicate_ids": _duplicate_ids,
    "many_calls": _many_calls,
    "big_arguments": _big_arguments,
}


# Answers


def token(index: int, size: int = 0) -> Say:
    """The `index`th delta of every token text, exactly `size` bytes of UTF-8 when that is given."""
    return _cached_token(index, size) if size <= CACHED_SIZE else _token(index, size)


def _token(index: int, size: int) -> Say:
    text = f"{('tok', 'tök', 'tok', 'ток', 'tok', '🙂k')[index % 6]}{index} "
    if not size:
        return Say(text)
    cut = text.encode()[:size].decode(errors="ignore")
    return Say(cut + "." * (size - len(cut.encode())))


# Shared by all calls and their records: a benchmark's texts cost nothing to make and little to keep.
_cached_token = lru_cache(maxsize=20_000)(_token)


def _tokens(turn: Turn, count: int, first: int = 0) -> Iterator[Move]:
    return (token(index, turn.directives.size) for index in range(first, count))


def _text(turn: Turn) -> Iterator[Move]:
    return chain((Headers(),), _tokens(turn, turn.directives.tokens), (Finish("stop"),))


def _thoughts(count: int) -> Iterator[Move]:
    return (Think(f"thought{index} ünd ") for index in range(count))


def _reasoning(turn: Turn) -> Iterator[Move]:
    count = turn.directives.tokens
    return chain((Headers(),), _thoughts(count), _tokens(turn, count), (Finish("stop"),))


def _only_reasoning(turn: Turn) -> Iterator[Move]:
    return chain((Headers(),), _thoughts(turn.directives.tokens), (Finish("stop"),))


def _prose(answer: Callable[[Turn], str]) -> Callable[[Turn], Iterator[Move]]:
    return lambda turn: chain((Headers(),), map(Say, words(answer(turn))), (Finish("stop"),))


def _think(turn: Turn) -> Iterator[Move]:
    yield Headers()
    yield from map(Think, words("The question is what to say. I only know my script, so I shall say that."))
    yield from map(Say, words(hello(turn.prompt)))
    yield Finish("stop")


def _asked(turn: Turn) -> str:
    if turn.results:
        return "The tool answered: " + " / ".join(map(quoted, turn.results))
    names = ", ".join(call.name for group in turn.directives.wanted for call in group)
    return f"I would call {names} now, but no tools were offered to me."


def _constant(*moves: Move) -> Callable[[Turn], Iterator[Move]]:
    return lambda turn: iter((Headers(), *moves))


def _finished(reason: str) -> Callable[[Turn], Iterator[Move]]:
    return lambda turn: chain((Headers(),), _tokens(turn, turn.directives.tokens), (Finish(reason),))


def _no_usage(turn: Turn) -> Iterator[Move]:
    return chain((Headers(),), _tokens(turn, turn.directives.tokens), (Finish("stop", usage=False),))


def _big_delta(turn: Turn) -> Iterator[Move]:
    return iter((Headers(), token(0, turn.directives.size or MIB), Finish("stop")))


def _many_deltas(turn: Turn) -> Iterator[Move]:
    return chain((Headers(),), _tokens(turn, 10_000), (Finish("stop"),))


# Faults


def _status(turn: Turn) -> Iterator[Move]:
    status = turn.directives.status
    message, kind, code = STATUS_ERRORS.get(status, ("The server had an error.", "server_error", None))
    return iter((Refuse(status, message, kind, code, turn.directives.retry_after or None),))


def too_long(window: int, length: int) -> Refuse:
    message = (
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {length} tokens. "
        "Please reduce the length of the messages."
    )
    return Refuse(400, message, "invalid_request_error", "context_length_exceeded")


STATUS_ERRORS = {
    400: ("Invalid request.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: ("You are not allowed to sample from this model.", "invalid_request_error", "permission_denied"),
    404: ("The model does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"),
    429: ("Rate limit reached.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}


def _after_tokens(*moves: Move) -> Callable[[Turn], Iterator[Move]]:
    return lambda turn: chain((Headers(),), _tokens(turn, turn.directives.after), moves)


def _malformed(turn: Turn) -> Iterator[Move]:
    """One delta is broken and lost, all others arrive: who skips the bad frame keeps a text with a hole."""
    after = turn.directives.after
    lost = Spoil(b'data: {"id":"chatcmpl-x","choices":[{"index":0,"delta":{"content":"tok\n\n')
    rest = _tokens(turn, max(turn.directives.tokens, after + 1), first=after + 1)
    return chain((Headers(),), _tokens(turn, after), (lost,), rest, (Finish("stop"),))


def _keepalive(turn: Turn) -> Iterator[Move]:
    comment = (Raw(b": keep-alive\n\n"), Wait(turn.directives.every))
    return chain((Headers(),), _tokens(turn, turn.directives.after), chain.from_iterable(repeat(comment)))


def _drip(turn: Turn) -> Iterator[Move]:
    """A frame that never ends, a byte at a time."""
    bytes_ = chain(b'data: {"id":"', repeat(ord("x")))
    drops = ((Raw(bytes((byte,))), Wait(turn.directives.every)) for byte in bytes_)
    return chain((Headers(),), _tokens(turn, turn.directives.after), chain.from_iterable(drops))


ERROR_FRAME = Spoil(
    b'data: {"error":{"message":"The server had an error while processing your request.",'
    b'"type":"server_error","param":null,"code":null}}\n\n'
)

SCRIPTS: dict[str, Callable[[Turn], Iterator[Move]]] = {
    **dict.fromkeys(TOOL_SCRIPTS, _text),
    "text": _text,
    "reasoning": _reasoning,
    "only_reasoning": _only_reasoning,
    "empty": _constant(Finish("stop")),
    "nul": _constant(Say("before\0after "), Say("lone \ud800 and "), Say("\udfff end"), Finish("stop")),
    "big_delta": _big_delta,
    "many_deltas": _many_deltas,
    "no_usage": _no_usage,
    "length": _finished("length"),
    "content_filter": _finished("content_filter"),
    "status": _status,
    "overflow": lambda turn: iter((too_long(8192, 9001),)),
    "no_headers": lambda turn: iter((FOREVER,)),
    "hang": lambda turn: iter((Headers(role=False), FOREVER)),
    "stall": _after_tokens(FOREVER),
    "keepalive": _keepalive,
    "drip": _drip,
    "reset": _after_tokens(SETTLE, Reset()),
    "eof": _after_tokens(Cut()),
    "malformed": _malformed,
    "error": _after_tokens(ERROR_FRAME, Broken()),
    "no_finish": _after_tokens(Broken()),
    "hello": _prose(lambda turn: hello(turn.prompt)),
    "slow": _prose(lambda turn: slow()),
    "markdown": _prose(lambda turn: markdown()),
    "title": _prose(lambda turn: title(turn.opening)),
    "summary": _prose(lambda turn: summary(turn.heard)),
    "recall": _prose(lambda turn: recall(turn.heard, turn.directives.about)),
    "go_on": _prose(lambda turn: go_on(turn.said)),
    "think": _think,
    "ask": _prose(_asked),
}
