"""Chunks fold into parts, parts unfold into chunks: the same message whichever way it went."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents import chunks
from agents.chunks import Chunk
from runs.eventlog import merged
from runs.transcript import Transcript, assembled, unfold

words = st.sampled_from(["a", "ü ", "🙂", "two words", "\n", "{", '"'])


@st.composite
def turns(draw: st.DrawFn) -> list[Chunk]:
    """The chunks of a whole turn, as the agent's loop yields them."""
    result = [chunks.start("m1", {"chatId": "c1", "runId": "r1", "attempt": 1})]
    for step in range(draw(st.integers(0, 3))):
        result.append(chunks.start_step())
        for kind, number in draw(
            st.sampled_from([[], [("text", 0)], [("reasoning", 0), ("text", 0)], [("text", 0), ("text", 1)]])
        ):
            name = chunks.part_id(kind, step, number)
            deltas = [chunks.delta(kind, name, text) for text in draw(st.lists(words, max_size=4))]
            result += [chunks.opened(kind, name), *deltas, chunks.ended(kind, name)]
        calls = [f"call_{step}_{number}" for number in range(draw(st.integers(0, 2)))]
        for call in calls:
            result.append(chunks.tool_input_start(call, "clock"))
            result += [chunks.tool_input_delta(call, text) for text in draw(st.lists(words, max_size=2))]
        result += [chunks.tool_input_available(call, "clock", {"zone": draw(words)}) for call in calls]
        for call in draw(st.permutations(calls)):
            ended = draw(
                st.sampled_from([chunks.tool_output_available(call, [1, "two"]), chunks.tool_output_error(call, "no")])
            )
            result.append(ended)
        result.append(chunks.message_metadata({"usage": {"inputTokens": step}}))
        result.append(chunks.finish_step())
    return result


def state(transcript: Transcript) -> Any:
    return transcript.message_id, transcript.parts, transcript.metadata, transcript.step_is_open


@given(turns(), st.data())
def test_a_replay_at_any_moment_goes_on_like_the_original(turn: list[Chunk], data: st.DataObject) -> None:
    # given a reader who joins after any chunk and gets the message so far instead of its chunks
    cut = data.draw(st.integers(1, len(turn)))
    before = assembled("m1", turn[:cut])
    joined = assembled("m1", before.replay())
    assert state(joined) == state(before)
    # when both see the rest
    for chunk in turn[cut:]:
        before.fold(chunk)
        joined.fold(chunk)
    # then they hold the same message, which is the whole one
    assert state(joined) == state(before) == state(assembled("m1", turn))


@given(turns())
def test_merging_deltas_changes_nothing_but_their_number(turn: list[Chunk]) -> None:
    assert state(assembled("m1", merged(turn))) == state(assembled("m1", turn))
    assert not [pair for pair in zip(merged(turn), merged(turn)[1:], strict=False) if mergeable(*pair)]


def mergeable(one: Chunk, other: Chunk) -> bool:
    return one["type"] == other["type"] in ("text-delta", "reasoning-delta") and one["id"] == other["id"]


@given(turns(), st.data())
def test_sealing_at_any_moment_leaves_nothing_open(turn: list[Chunk], data: st.DataObject) -> None:
    transcript = assembled("m1", turn[: data.draw(st.integers(1, len(turn)))])
    for chunk in list(transcript.sealing()):
        transcript.fold(chunk)
    assert not transcript.step_is_open
    assert {part.get("state") for part in transcript.parts} <= {None, "done", "output-available", "output-error"}
    assert list(transcript.sealing()) == []


@given(turns(), st.data())
def test_a_settled_message_unfolds_into_itself(turn: list[Chunk], data: st.DataObject) -> None:
    transcript = assembled("m1", turn[: data.draw(st.integers(1, len(turn)))])
    for chunk in list(transcript.sealing()):
        transcript.fold(chunk)
    again = assembled("m1", [turn[0], *unfold(transcript.parts)])
    assert again.parts == transcript.parts


def test_a_start_drops_what_was_there() -> None:
    turn = [
        chunks.start("m1", {"attempt": 1}),
        chunks.start_step(),
        chunks.opened("text", "text-0-0"),
        chunks.delta("text", "text-0-0", "lost"),
        chunks.message_metadata({"usage": {"inputTokens": 3}}),
        chunks.start("m1", {"attempt": 2}),
    ]
    assert state(assembled("m1", turn)) == ("m1", [], {"attempt": 2}, False)


def test_the_parts_are_those_an_ai_sdk_client_holds() -> None:
    turn = [
        chunks.start("m1", {}),
        chunks.start_step(),
        chunks.opened("reasoning", "reasoning-0-0"),
        chunks.delta("reasoning", "reasoning-0-0", "hm"),
        chunks.ended("reasoning", "reasoning-0-0"),
        chunks.tool_input_available("c1", "clock", {"zone": "UTC"}),
        chunks.tool_output_available("c1", "noon"),
        chunks.tool_input_available("c2", "clock", "{broken"),
        chunks.tool_output_error("c2", "not JSON"),
        chunks.finish_step(),
    ]
    assert assembled("m1", turn).parts == [
        {"type": "step-start"},
        {"type": "reasoning", "text": "hm", "state": "done"},
        {
            "type": "tool-clock",
            "toolCallId": "c1",
            "state": "output-available",
            "input": {"zone": "UTC"},
            "output": "noon",
        },
        {
            "type": "tool-clock",
            "toolCallId": "c2",
            "state": "output-error",
            "input": "{broken",
            "errorText": "not JSON",
        },
    ]
