"""The shape of a tool, and the decorator that makes one from a typed function."""

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema

from agents.tools.errors import ToolError, ToolFailed, ToolInputError, ToolTimeout, failure
from agents.tools.output import Json, UnstorableError, clean_text, storable
from agents.tools.threads import in_thread

DEFAULT_TIMEOUT = 30.0
# How long an async tool that was cancelled may clean up; then it is left behind.
CLEANUP_SECONDS = 1.0
SHOWN_PROBLEMS = 5
SHOWN_LENGTH = 200

_left_behind: set[asyncio.Task[Json]] = set()


class Repeat(StrEnum):
    """What happens to a call whose outcome is unknown, because the worker died while it ran."""

    SAFE = "safe"
    """It is run again: it only reads, or a second time changes nothing."""

    KEYED = "keyed"
    """It is run again with the same `ToolContext.key`, by which the other side recognises it."""

    ONCE = "once"
    """It is never run again; the model is told that the outcome is unknown."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom a call is made; `key` is "{run}:{call}", the same in every repeat of the call."""

    user_id: int | None
    chat_id: UUID
    run_id: UUID
    key: str


Perform = Callable[[Mapping[str, object], ToolContext], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Tool:
    """Something the model may call; `parameters` is a JSON schema, to which `perform` holds its arguments itself."""

    name: str
    description: str
    parameters: Mapping[str, object]
    perform: Perform
    repeat: Repeat = Repeat.ONCE
    timeout: float = DEFAULT_TIMEOUT

    async def call(self, arguments: Mapping[str, object], context: ToolContext) -> Json:
        """Raises ToolError and nothing else; cancelling it takes a second at most, whatever the tool does."""
        return await self._bounded(self._result(arguments, context))

    async def _result(self, arguments: Mapping[str, object], context: ToolContext) -> Json:
        try:
            value = await self.perform(arguments, context)
            # On a thread, for walking a structure of a few hundred thousand values would hold up every other run.
            return storable(value) if isinstance(value, str) else await in_thread(partial(storable, value))
        except ToolError:
            raise
        except UnstorableError as error:
            raise ToolFailed(f"The result of {self.name} cannot be kept: {error}.") from error
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # the last two would end the loop
            raise failure(error) from error

    async def _bounded(self, work: typing.Coroutine[object, object, Json]) -> Json:
        """In a task of its own: a tool that swallows its cancellation must not swallow the run's."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=self.timeout)
        except asyncio.CancelledError:
            await _cancel(task)
            raise
        if not task.done():
            await _cancel(task)
            raise ToolTimeout(f"{self.name} did not answer within {self.timeout:g} s; it may still have had an effect.")
        if task.cancelled():
            raise ToolFailed(f"{self.name} cancelled itself.")
        return task.result()


async def _cancel(task: asyncio.Task[Json]) -> None:
    task.cancel()
    _left_behind.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_forget)
    await asyncio.wait({task}, timeout=CLEANUP_SECONDS)


def _forget(task: asyncio.Task[Json]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not log it as never retrieved


Function = Callable[..., object]


def tool(*, repeat: Repeat = Repeat.ONCE, timeout: float = DEFAULT_TIMEOUT) -> Callable[[Function], Tool]:
    """Name, description and schema come from the function: its name, its docstring's first paragraph and its
    annotated parameters. A first parameter annotated ToolContext is passed and kept out of the schema. A
    synchronous function runs on a thread. Raises TypeError, at import, if the function does not say enough.
    """

    def make(function: Function) -> Tool:
        signature = _Signature(function)
        return Tool(
            name=function.__name__,
            description=_description(function),
            parameters=signature.schema(),
            perform=signature.perform,
            repeat=repeat,
            timeout=timeout,
        )

    return make


def _description(function: Function) -> str:
    paragraph = (inspect.getdoc(function) or "").split("\n\n", maxsplit=1)[0]
    if not paragraph.strip():
        raise TypeError(f"The tool {function.__name__} has no docstring: the model would not know what it does.")
    return " ".join(paragraph.split())


class _Untitled(GenerateJsonSchema):
    """Titles repeat the names and cost tokens in every request."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


class _Signature:
    """A function's parameters as a model of its arguments, and the way to call it with them."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        hints = typing.get_type_hints(function, include_extras=True)
        names = list(inspect.signature(function).parameters)
        self._takes_context = bool(names) and hints.get(names[0]) is ToolContext
        self._names = names[1:] if self._takes_context else names
        # Under aliases, for a parameter may be called `json` or `copy`, as methods of a model are.
        fields = {f"argument_{name}": _field(function, name, hints) for name in self._names}
        config = ConfigDict(extra="forbid")
        self._arguments: type[BaseModel] = create_model(function.__name__, __config__=config, **fields)

    def schema(self) -> Mapping[str, object]:
        schema = self._arguments.model_json_schema(schema_generator=_Untitled)
        return {"type": "object", "properties": {}} | {key: part for key, part in schema.items() if key != "title"}

    async def perform(self, arguments: Mapping[str, object], context: ToolContext) -> object:
        keywords = self._validated(arguments)
        call = partial(self._function, *([context] if self._takes_context else []), **keywords)
        if not self._is_async:
            return await in_thread(call)
        return await typing.cast("Awaitable[object]", call())

    def _validated(self, arguments: Mapping[str, object]) -> dict[str, object]:
        try:
            model = self._arguments.model_validate(dict(arguments))
        except ValidationError as error:
            raise ToolInputError(_problems(error)) from None
        return {name: getattr(model, f"argument_{name}") for name in self._names}


def _field(function: Function, name: str, hints: Mapping[str, object]) -> typing.Any:
    parameter = inspect.signature(function).parameters[name]
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise TypeError(f"The tool {function.__name__} takes {parameter}: only plain named parameters have a schema.")
    if name not in hints:
        raise TypeError(f"The parameter {name} of the tool {function.__name__} has no annotation.")
    return hints[name], Field(... if parameter.default is parameter.empty else parameter.default, alias=name)


def _problems(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [_shown(f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}") for problem in problems]
    more = f"; and {len(lines) - SHOWN_PROBLEMS} more" if len(lines) > SHOWN_PROBLEMS else ""
    return "The arguments do not fit. " + "; ".join(lines[:SHOWN_PROBLEMS]) + more


def _shown(text: str) -> str:
    return clean_text(text[:SHOWN_LENGTH])
