"""The event log of a run, a Redis Stream: its entries, the scripts that write it, and how it is read.

Entry ids are `{attempt}-{seq}`, seq dense from 1 within an attempt; `{attempt}-0` is the fence. Losing all of it loses
no fact. Source of every rule here: `docs/stream.md`, "The log".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import structlog
from django.conf import settings

from agents.chunks import Chunk
from runs.connections import REDIS_ERRORS, control

logger = structlog.get_logger(__name__)

# Entries of one attempt since its last `start`; a writer that gets there begins anew, with all deltas merged.
MOST_ENTRIES = 10_000

OK, LOST, FORGOTTEN = b"ok", b"lost", b"forgotten"
ANSWERS = (OK, LOST, FORGOTTEN)
APPEND, REWRITE = "append", "rewrite"

# Writes batches into many logs at once; KEYS are the logs. Arguments: expiry in ms, then for each log what to do,
# attempt, seq of the first chunk, number of chunks, chunks. Answers for each log one of the three, or its error.
_WRITE = """
    local at = 2
    local function write(name)
        local what, attempt, first, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
        local chunks = at + 4
        at = chunks + count
        local last = redis.call('XREVRANGE', name, '+', '-', 'COUNT', 1)[1]
        last = last and last[1] or ''
        if last == attempt .. '-' .. (first + count - 1) then return 'ok' end
        if (tonumber(string.match(last, '^%d+')) or 0) > attempt then return 'lost' end
        if what == 'append' and last ~= attempt .. '-' .. (first - 1) then return 'forgotten' end
        for i = 0, count - 1 do
            redis.call('XADD', name, attempt .. '-' .. (first + i), 'd', ARGV[chunks + i])
        end
        if what == 'rewrite' then redis.call('XTRIM', name, 'MINID', attempt .. '-' .. first) end
        redis.call('PEXPIRE', name, ARGV[1])
        return 'ok'
    end
    local answers = {}
    for i, name in ipairs(KEYS) do
        local done, answer = pcall(write, name)
        answers[i] = done and answer or type(answer) == 'table' and answer.err or tostring(answer)
    end
    return answers
"""
# Arguments: attempt, expiry in ms.
FENCE = """
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    if (tonumber(string.match(last and last[1] or '', '^%d+')) or 0) >= tonumber(ARGV[1]) then return 'ok' end
    redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'f', '1')
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 'ok'
"""


class EntryId(NamedTuple):
    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


BEFORE_ALL = EntryId(0, 0)
ENTRY_ID = re.compile(r"^(0|[1-9][0-9]{0,9})-(0|[1-9][0-9]{0,14})$", re.ASCII)


def parse_entry_id(text: str) -> EntryId | None:
    """None for anything but `{attempt}-{seq}` in plain decimal digits."""
    match = ENTRY_ID.fullmatch(text)
    return EntryId(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Chunks, encoded, on their way into the log of an attempt; repeated exactly like this it changes nothing."""

    run_id: UUID
    attempt: int
    what: str
    first: int
    payload: list[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.payload) - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """`data` is the chunk as compact JSON; None in a fence."""

    id: EntryId
    data: bytes | None

    @property
    def is_start(self) -> bool:
        return self.data is not None and self.data.startswith(b'{"type":"start",')

    @property
    def is_terminal(self) -> bool:
        return self.data is not None and self.data.startswith(b'{"type":"finish",')

    @property
    def chunk(self) -> Chunk:
        chunk: Chunk = orjson.loads(self.data or b"{}")
        return chunk


def key(run_id: UUID | str) -> str:
    return f"run:{run_id}:log"


def expiry_ms() -> int:
    return int(settings.RUN_LOG_TTL_SECONDS * 1000)


def encode(chunks: Iterable[Chunk]) -> list[bytes]:
    return [orjson.dumps(chunk) for chunk in chunks]


def write_command(batches: Sequence[Batch]) -> list[Any]:
    """The arguments of the one EVAL that writes them all."""
    command: list[Any] = [_WRITE, len(batches), *(key(batch.run_id) for batch in batches), expiry_ms()]
    for batch in batches:
        command += (batch.what, batch.attempt, batch.first, len(batch.payload), *batch.payload)
    return command


def merged(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Neighbouring text or reasoning deltas of one part become one; nothing else is merged or moved."""
    result: list[Chunk] = []
    run: list[str] = []
    for chunk in chunks:
        last = result[-1] if result else None
        if last and chunk["type"] == last["type"] and "delta" in chunk and chunk["id"] == last["id"]:
            run.append(chunk["delta"])
            continue
        _close(result, run)
        run = [chunk["delta"]] if "delta" in chunk else []
        result.append(chunk)
    _close(result, run)
    return result


def _close(result: list[Chunk], run: list[str]) -> None:
    if len(run) > 1:
        result[-1] = {**result[-1], "delta": "".join(run)}


def entries(reply: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
    """What XRANGE and XREAD answer. An entry that is none of ours (ids without an attempt) is passed over."""
    found = []
    for raw_id, fields in reply:
        entry_id = parse_entry_id(raw_id.decode())
        if entry_id is not None:
            found.append(Entry(entry_id, fields.get(b"d")))
    return found


def message_so_far(log: Sequence[Entry], attempt: int) -> list[Entry] | None:
    """The entries from the last `start` of a log whose newest attempt is this one; None if it cannot be used."""
    if not log or log[-1].id.attempt != attempt:
        return None
    for position in range(len(log) - 1, -1, -1):
        if log[position].is_start:
            tail = log[position:]
            dense = all(b.id == (a.id.attempt, a.id.seq + 1) for a, b in pairwise(tail))
            return list(tail) if dense and tail[0].id.attempt == attempt else None
    return None


def read(run_id: UUID, attempt: int) -> list[Entry]:
    """For sync code: the message so far as this attempt logged it; empty without Redis or where it forgot."""
    return message_so_far(_entries_before(run_id, attempt + 1), attempt) or []


def read_last(run_id: UUID, before: int) -> list[Entry]:
    """The message so far of the newest attempt before that one which logged anything: what a dead worker left."""
    log = _entries_before(run_id, before)
    while log and log[-1].data is None:
        log.pop()
    return (message_so_far(log, log[-1].id.attempt) if log else None) or []


def _entries_before(run_id: UUID, attempt: int) -> list[Entry]:
    try:
        reply: Any = control().xrange(key(run_id), "-", f"({attempt}-0")
    except REDIS_ERRORS:
        return []
    return entries(reply)


def fence(run_id: UUID, attempt: int) -> bool:
    """Keeps earlier attempts from writing. Best effort: who claims the attempt fences again. False: Redis is away."""
    return _try(run_id, FENCE, 1, key(run_id), attempt, expiry_ms())


def write_whole(run_id: UUID, attempt: int, chunks: Iterable[Chunk]) -> None:
    """The whole message of an attempt at once, by whoever ends a run that nobody holds. Best effort: readers that miss
    it get the end from the row."""
    _try(run_id, *write_command([Batch(run_id, attempt, REWRITE, 1, encode(chunks))]))


def _try(run_id: UUID, *command: Any) -> bool:
    try:
        control().eval(*command)
    except REDIS_ERRORS as error:
        logger.warning("log_write_failed", run_id=str(run_id), error=type(error).__name__)
        return False
    return True
