"""An example of all that goes in or out, by the name of its shape in the OpenAPI description: one chat, one turn."""

from typing import Any

_WORKSPACE = "0192f0be-0d1c-7b6a-8f1e-5a4b3c2d1e0f"
_CHAT = "0192f0bf-3c4d-7e5f-a061-b2c3d4e5f607"
_RUN = "0192f0c1-7a5e-7c1d-9f64-2b1d3c4e5f60"
_MESSAGE = "0192f0c1-7a5e-7c1d-9f64-2b1d3c4e5f61"
_ROLE = "0192f0b2-1111-7222-8333-444455556666"
_MODEL = "openai/gpt-5-mini"
_CREATED, _STARTED, _FINISHED = (f"2026-11-22T09:30:{seconds}Z" for seconds in ("00.120334", "00.164501", "07.902118"))

_USAGE = {"input_tokens": 212, "output_tokens": 48, "cost_usd": 0.00021, "estimated": False}
_CALL = {"type": "tool-add", "toolCallId": "call_1_0", "state": "output-available", "input": {"a": 19, "b": 23}}
_ANSWER = {"type": "text", "text": "19 and 23 make 42.", "state": "done"}
_STEP_PARTS = [{"type": "step-start"}, {**_CALL, "output": 42}, {"type": "step-start"}, _ANSWER]

_run = {
    "id": _RUN,
    "chat_id": _CHAT,
    "message_id": _MESSAGE,
    "status": "succeeded",
    "end_reason": "completed",
    "error": None,
    "trigger": "api",
    "detached": True,
    "model": _MODEL,
    "role_id": None,
    "attempt": 1,
    "step_count": 2,
    "usage": _USAGE,
    "limits": {"steps": 20, "tokens": None, "cost_usd": None, "seconds": 3600.0},
    "worker": "worker-1",
    "heartbeat_at": _STARTED,
    "created_by": 7,
    "stop_requested_at": None,
    "stop_requested_by": None,
    "stop_source": None,
    "created_at": _CREATED,
    "started_at": _STARTED,
    "finished_at": _FINISHED,
    "stream_url": f"/api/runs/{_RUN}/stream",
}
_message = {
    "id": _MESSAGE,
    "chat_id": _CHAT,
    "role": "assistant",
    "parts": _STEP_PARTS,
    "text": _ANSWER["text"],
    "status": "completed",
    "metadata": {"chatId": _CHAT, "runId": _RUN, "attempt": 1},
    "run_id": _RUN,
    "created_at": _CREATED,
}
_chat = {
    "id": _CHAT,
    "workspace_id": _WORKSPACE,
    "title": "Sums",
    "role_id": None,
    "active_run_id": None,
    "created_at": _CREATED,
    "updated_at": _FINISHED,
}
_role = {
    "id": _ROLE,
    "workspace_id": _WORKSPACE,
    "name": "Accountant",
    "description": "Adds up, and says where the figures come from.",
    "is_default": False,
    "model": _MODEL,
    "tools": ["add"],
    "limits": {"steps": 8, "tokens": None, "cost_usd": 0.5, "seconds": None},
}
_step = {
    "index": 1,
    "attempt": 1,
    "parts": _STEP_PARTS[2:],
    "usage": _USAGE,
    "model": _MODEL,
    "finish_reason": "stop",
    "started_at": _STARTED,
    "finished_at": _FINISHED,
}
_workspace = {"id": _WORKSPACE, "name": "Ann", "role": "owner", "ai_chat": True, "autonomous_runs": True}
_question = {"id": "msg-1", "role": "user", "parts": [{"type": "text", "text": "What do 19 and 23 make?"}]}

EXAMPLES: dict[str, Any] = {
    "ChatCreate": {"title": "Sums"},
    "ChatChange": {"title": "Sums and products"},
    "ChatStop": {"run_id": _RUN},
    "ChatSend": {"id": _CHAT, "trigger": "submit-message", "messages": [_question]},
    "RunStart": {"text": "What do 19 and 23 make?", "limits": {"steps": 8, "seconds": 120}},
    "NoFields": {},
    "MeOut": {"id": 7, "username": "ann", "workspaces": [_workspace]},
    "ModelsOut": {"default": _MODEL, "patterns": ["openai/*"]},
    "ChatOut": _chat,
    "ChatPage": {"next": None, "previous": None, "results": [_chat]},
    "ExportOut": {"id": _CHAT, "title": "Sums", "messages": [_message]},
    "RoleOut": _role,
    "RolePage": {"next": None, "previous": None, "results": [_role]},
    "MessageOut": _message,
    "MessagePage": {"next": None, "previous": None, "results": [_message]},
    "RunOut": _run,
    "RunPage": {"next": None, "previous": None, "results": [_run]},
    "StepOut": _step,
    "StepPage": {"next": None, "previous": None, "results": [_step]},
    "LatestOut": {"run": _run, "message": _message},
    "StopOut": {
        "stopped": True,
        "state": "requested",
        "run": {
            **_run,
            "status": "running",
            "end_reason": None,
            "finished_at": None,
            "stop_requested_at": _FINISHED,
            "stop_requested_by": 7,
            "stop_source": "user",
        },
    },
    "RunStreamEvent": {
        "event": "message",
        "id": "1-3",
        "data": '{"type":"text-delta","id":"text-0-0","delta":"19 and"}',
    },
    "FeedEvent": {
        "event": "run",
        "id": "user-7:0",
        "data": f'{{"id":"{_RUN}","chat_id":"{_CHAT}","status":"succeeded","step_count":2,"end_reason":"completed"}}',
    },
}
