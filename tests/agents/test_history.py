"""Whatever is stored, the provider gets a valid history: judged by the demo model's own strict check."""

from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents.compaction import Memory
from agents.demo.history import check_history
from agents.history import Past, past, provider_messages

text = st.sampled_from(["", " \n", "hello", "two\nlines"])
numbers = count()  # the ids of calls are ours, and unique in a chat


def tool_part(number: int, state: str, value: Any) -> dict[str, Any]:
    part = {"type": "tool-clock", "toolCallId": f"c{number}", "state": state, "input": value}
    return part | ({"output": None} if state == "output-available" else {"errorText": ""})


@st.composite
def assistant_parts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Of runs that ended well or anyhow, at any point."""
    parts: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 3))):
        parts.append({"type": "step-start"})
        if draw(st.booleans()):
            parts.append({"type": "reasoning", "text": "hm", "state": "done"})
        if draw(st.booleans()):
            parts.append({"type": "text", "text": draw(text), "state": "done"})
        for _ in range(draw(st.integers(0, 2))):
            state = draw(st.sampled_from(["output-available", "output-error", "input-available"]))
            parts.append(tool_part(next(numbers), state, draw(st.sampled_from([{}, {"a": 1}, "{broken"]))))
    return parts


# Each question with its answer, and what continuing that one made.
turns = st.lists(st.lists(assistant_parts(), max_size=3), max_size=4)
FILE = {"type": "file", "mediaType": "text/plain", "filename": "a", "url": "data:text/plain;charset=utf-8;base64,"}


@given(turns, st.booleans())
def test_every_stored_chat_becomes_a_history_that_a_strict_provider_takes(
    turns: list[list[list[dict[str, Any]]]], asks: bool
) -> None:
    stored: list[tuple[str, list[dict[str, Any]]]] = []
    for answers in turns:
        stored += [("user", [FILE, {"type": "text", "text": "question"}]), *(("assistant", parts) for parts in answers)]
    if asks or not turns:
        stored.append(("user", [{"type": "text", "text": "last question"}]))
    messages = provider_messages("be good", stored)
    check_history(messages)
    if asks:
        assert messages[-1]["role"] == "user"
        assert messages[-1]["content"].endswith("last question")


def test_questions_without_an_answer_between_them_become_one() -> None:
    stored = [
        ("user", [{"type": "text", "text": "one"}]),
        ("assistant", []),
        ("user", [{"type": "text", "text": "two"}]),
    ]
    assert provider_messages("s", stored)[1:] == [{"role": "user", "content": "one\n\ntwo"}]


part = st.one_of(
    st.builds(lambda words: {"type": "text", "text": words, "state": "streaming"}, text),
    st.builds(lambda words: {"type": "reasoning", "text": words}, text),
    st.just({"type": "step-start"}),
    st.builds(
        lambda state, value: tool_part(next(numbers), state, value),
        st.sampled_from(["input-streaming", "input-available", "output-available", "output-error"]),
        st.sampled_from([None, {}, [1], "{broken"]),
    ),
)
anything = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.lists(part, max_size=5)), max_size=8)


@given(anything, st.sampled_from(["", "They talked."]), st.integers(0, 400))
def test_whoever_spoke_in_whatever_order_a_strict_provider_takes_it(
    said: list[tuple[str, list[dict[str, Any]]]], summary: str, limit: int
) -> None:
    stored = [(index, role, parts) for index, (role, parts) in enumerate(said)]
    found = past("be good", stored, summary)
    check_history(found.messages())
    # also where it is cut, and wherever a summary may end
    check_history(Memory(found).messages([], limit))
    for gone in range(1, len(found.exchanges)):
        check_history(Past("be good", found.exchanges[gone:], "They talked.").messages())
    # and every stored message is in the exchange that says so
    assert [exchange.last for exchange in found.exchanges][-1:] == [len(stored) - 1] * bool(stored) or not stored


@given(anything)
def test_behind_a_summary_the_history_goes_on_as_it_would_without(
    said: list[tuple[str, list[dict[str, Any]]]],
) -> None:
    stored = [(index, role, parts) for index, (role, parts) in enumerate(said)]
    found = past("be good", stored)
    for gone, exchange in enumerate(found.exchanges[:-1], 1):
        again = past("be good", stored[exchange.last + 1 :], "They talked.")
        assert again.exchanges == found.exchanges[gone:]
