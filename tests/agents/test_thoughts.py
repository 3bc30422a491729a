"""What goes back to providers of OpenAI's format with a tool call: under which name, and to whom nothing."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from agents.clients import ModelClients
from agents.demo.history import check_history
from agents.loop import run_agent
from agents.steps import ModelStep
from tests.agents.test_loop import turn
from tests.agents.wires import Wire, completion, listening

CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "double", "arguments": '{"number": 4}'}}
KEYS = ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "GROQ_API_KEY", "CEREBRAS_API_KEY", "OPENROUTER_API_KEY")


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    for key in KEYS:
        monkeypatch.setenv(key, "sk-canary")
    async with listening() as wire:
        yield wire


async def second_request(wire: Wire, model: str, *thoughts: dict[str, Any], by_litellm: bool = False) -> dict[str, Any]:
    """The answer with the call in it, as its provider got it back."""
    called = completion(*thoughts, {"content": None, "tool_calls": [CALL]}, reason="tool_calls")
    wire.will(called, completion({"content": "8"}))
    clients = ModelClients(litellm_for_all=by_litellm)
    try:
        async with aclosing(run_agent(clients, turn(model=model, api_base=wire.address), [])) as events:
            steps = [event async for event in events if isinstance(event, ModelStep)]
    finally:
        await clients.close()
    assert [step.parts[-1]["type"] for step in steps] == ["tool-double", "text"]
    check_history(wire.asked[1]["messages"])
    answered, result = wire.asked[1]["messages"][-2:]
    assert (answered["role"], result["tool_call_id"]) == ("assistant", steps[0].calls[0].id)
    return dict(answered)


def thoughts_in(answered: dict[str, Any]) -> dict[str, Any]:
    known = {"role", "content", "tool_calls"}
    return {name: value for name, value in answered.items() if name not in known and value is not None}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_plain_reasoning_goes_back_under_the_name_it_came_with(wire: Wire, name: str) -> None:
    answered = await second_request(wire, "openai/x", {name: "h"}, {name: "m"})
    assert thoughts_in(answered) == {name: "hm"}


async def test_blocks_go_back_put_together_and_plain_reasoning_not_beside_them(wire: Wire) -> None:
    def piece(index: int, **fields: Any) -> dict[str, Any]:
        block = {"index": index, "format": "f", **fields}
        return {"reasoning": fields.get("text", ""), "reasoning_details": [block]}

    text, secret = {"type": "reasoning.text", "signature": None}, {"type": "reasoning.encrypted", "id": "i"}
    answered = await second_request(
        wire,
        "openai/x",
        piece(0, **text, text="h"),
        piece(0, **text, text="m"),
        piece(0, type="reasoning.text", signature="signed"),
        piece(0, **text, text="another"),
        piece(1, **secret, data="a"),
        piece(1, **secret, data="b"),
    )
    assert thoughts_in(answered) == {
        "reasoning_details": [
            {"type": "reasoning.text", "index": 0, "format": "f", "text": "hm", "signature": "signed"},
            {"type": "reasoning.text", "index": 0, "format": "f", "text": "another"},
            {"type": "reasoning.encrypted", "index": 1, "format": "f", "id": "i", "data": "a"},
            {"type": "reasoning.encrypted", "index": 1, "format": "f", "id": "i", "data": "b"},
        ]
    }


async def test_a_call_goes_back_with_what_it_was_signed_with(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = {"google": {"thought_signature": "s"}}
    monkeypatch.setitem(CALL, "extra_content", signed)
    answered = await second_request(wire, "openai/x")
    assert [call["extra_content"] for call in answered["tool_calls"]] == [signed]


@pytest.mark.usefixtures("_litellm")
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai/x", {"reasoning_content": "hm"}),
        ("deepseek/deepseek-chat", {"reasoning_content": "hm"}),
        ("openrouter/x/y", {"reasoning_content": "hm"}),
        ("groq/openai/gpt-oss-120b", {}),
        ("cerebras/gpt-oss-120b", {}),
    ],
)
async def test_litellm_s_name_for_it_goes_only_to_whom_it_is_known(
    wire: Wire, model: str, expected: dict[str, str]
) -> None:
    # What these two call it; litellm shows it under the other name.
    name = "reasoning" if model.startswith(("openrouter", "groq")) else "reasoning_content"
    answered = await second_request(wire, model, {"content": "", name: "hm"}, by_litellm=True)
    assert thoughts_in(answered) == expected
