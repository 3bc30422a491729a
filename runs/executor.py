"""One attempt of one run: claim, loop, journal, settle."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from copy import deepcopy
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from uuid_utils.compat import uuid7

from agents import chunks
from agents.budget import Budget, Reached, out_of_time
from agents.compaction import Summarised
from agents.history import Past
from agents.llm import ModelClient, ModelError, Usage
from agents.loop import Turn, run_agent
from agents.steps import ModelStep, Outcome, RecordedStep
from agents.tools import ToolContext
from runs import dispatch, journal, lifecycle
from runs.allowance import reached_today
from runs.database import in_thread, persistently, unbroken
from runs.ending import COMPLETED, INTERNAL_ERROR, Ending, ending_chunks, limit_reached, provider_failed, stopped
from runs.errors import LeaseLost
from runs.failpoints import failpoint
from runs.models import Run
from runs.roles import RoleSettings, limits_of
from runs.transcript import merge

if TYPE_CHECKING:
    from runs.logwriter import LogWriter, RunLog

logger = structlog.get_logger(__name__)

# How long the database may be away: at the claim (the run stays pending), in mid-run (what streams goes on, nothing
# new starts) and at the end (then the sweep settles).
CLAIM_SECONDS = 10.0
JOURNAL_SECONDS = 300.0
SETTLE_SECONDS = 120.0
# How long readers may make a run wait for Redis before its row is settled without them.
FLUSH_SECONDS = 1.0
# What a running tool gets to end when its worker shuts down.
TOOL_GRACE_SECONDS = 3.0


class Interrupt(Enum):
    STOP = "stop"
    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    HAND_OVER = "hand_over"


class Execution:
    """An attempt while this process holds it. A run is interrupted at most once: the first reason stays."""

    def __init__(self, run_id: UUID, attempt: int, worker: str, writer: LogWriter, client: ModelClient) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.run: Run | None = None
        self.is_settled = False
        self._worker = worker
        self._writer = writer
        self._client = client
        self._log: RunLog | None = None
        self._work: asyncio.Task[None] | None = None
        self._interrupt: Interrupt | None = None
        self._stop_source = ""
        self._budget = Budget()
        self._reached: Reached | None = None
        self._past = Past("", ())
        self._tools_running: set[str] = set()
        self._tools_ended = asyncio.Event()

    @property
    def is_claimed(self) -> bool:
        return self.run is not None

    async def execute(self) -> None:
        """Returns when this attempt is nobody's business any more: settled, handed over, or lost to another."""
        failpoint("before_claim")
        run = await persistently(CLAIM_SECONDS, lifecycle.claim, self.run_id, self.attempt, uuid4(), self._worker)
        if run is None:
            logger.info("claim_lost", run_id=str(self.run_id), attempt=self.attempt)
            return
        self.run = run
        logger.info("run_claimed", run_id=str(run.pk), chat_id=str(run.chat_id), attempt=run.attempt)
        try:
            await self._hold(run)
        except LeaseLost:
            logger.warning("lease_lost", run_id=str(run.pk), chat_id=str(run.chat_id), attempt=run.attempt)
            if self._log:
                self._log.lose()
        finally:
            if self._log:
                self._writer.close(self._log)

    def interrupt(self, reason: Interrupt, stop_source: str = "") -> None:
        """Cancels what the run is doing, whatever it waits for. Only the first reason counts."""
        if self._interrupt is None:
            self._interrupt, self._stop_source = reason, stop_source
            if self._work:
                self._work.cancel()

    async def hand_over(self) -> None:
        """The process shuts down: running tools get a moment, so that their outcome is known to whoever goes on."""
        if self._tools_running:
            try:
                async with asyncio.timeout(TOOL_GRACE_SECONDS):
                    await self._tools_ended.wait()
            except TimeoutError:
                logger.warning("tools_abandoned", run_id=str(self.run_id), calls=len(self._tools_running))
        self.interrupt(Interrupt.HAND_OVER)

    async def _hold(self, run: Run) -> None:
        self._work = asyncio.create_task(self._drive(run))
        if run.stop_requested_at is not None and self._interrupt is None:
            self._interrupt, self._stop_source = Interrupt.STOP, run.stop_source
        if self._interrupt:
            self._work.cancel()  # it came before or during the claim
        deadline = asyncio.get_running_loop().create_task(self._watch_deadline(run))
        await asyncio.wait({self._work})
        deadline.cancel()
        ending = self._ending(run, self._work)
        if ending is None and not await self._handed_over(run):
            ending = stopped(await in_thread(_stop_source, run.pk))
        if ending is not None:
            await self._end(run, ending)

    async def _watch_deadline(self, run: Run) -> None:
        """The run's own time limit, over all attempts, by the database's clock, as it stood at the claim."""
        assert run.started_at is not None
        assert run.heartbeat_at is not None
        spent = (run.heartbeat_at - run.started_at).total_seconds()
        left = max(run.max_seconds - spent, 0)
        self._budget.deadline = asyncio.get_running_loop().time() + left
        await asyncio.sleep(left)
        self.interrupt(Interrupt.TIMEOUT)

    async def _drive(self, run: Run) -> None:
        """The agent's loop, written down as it goes."""
        failpoint("after_claim")
        role = RoleSettings.of(run)
        steps, self._past, outside = await persistently(JOURNAL_SECONDS, _what_was, run, role.instructions)
        self._budget.limits, self._budget.outside = limits_of(run), outside
        self._budget.tokens_before = run.used.tokens - sum(step.usage.tokens for step in steps)
        self._budget.cost_before = run.cost_usd - sum(step.usage.cost_usd for step in steps)
        log = await self._begin_log(run, steps)
        turn = self._turn(run, role)
        async with aclosing(run_agent(self._client, turn, steps)) as events:
            async for event in events:
                if isinstance(event, ModelStep):
                    await unbroken(self._record_step(run, event, log))
                elif isinstance(event, Outcome):
                    await unbroken(self._record_outcome(run, event, log))
                elif isinstance(event, Summarised):
                    await unbroken(self._record_summary(run, event))
                elif isinstance(event, Reached):
                    self._reached = event
                else:
                    log.emit(event)
                    failpoint("mid_stream")

    def _turn(self, run: Run, role: RoleSettings) -> Turn:
        def context(call_id: str) -> ToolContext:
            failpoint("before_tool")
            return ToolContext(user_id=run.created_by_id, chat_id=run.chat_id, run_id=run.pk, key=f"{run.pk}:{call_id}")

        return Turn(
            model=run.model,
            past=self._past,
            tools=role.usable_tools(),
            context=context,
            # Unique in the whole chat, not only in the run: all of it is sent to the provider.
            call_prefix=f"call_{run.pk.hex[-12:]}",
            budget=self._budget,
            stall=role.stall_seconds,
            api_base=settings.AGENT_API_BASE,
            settings=role.model_settings,
            fallbacks=role.fallbacks,
            window=settings.AGENT_CONTEXT_TOKENS,
        )

    async def _begin_log(self, run: Run, steps: list[RecordedStep]) -> RunLog:
        await self._writer.fence(run.pk, run.attempt)
        failpoint("before_first_write")
        self._log = self._writer.open(run.pk, run.attempt, journal.transcript_of(run, steps))
        self._log.begin()
        return self._log

    async def _record_step(self, run: Run, step: ModelStep, log: RunLog) -> None:
        """While the database is away this waits, and with it the tools of the step."""
        self._tools_running = {call.id for call in step.calls}
        self._tools_ended.clear()
        failpoint("before_step_commit")
        self._budget.outside = await persistently(JOURNAL_SECONDS, _record, run, step)
        failpoint("after_step_commit")
        run.step_count = step.index + 1
        run.count(step.usage)
        log.emit(chunks.message_metadata({"usage": run.usage}))

    async def _record_summary(self, run: Run, summary: Summarised) -> None:
        await persistently(JOURNAL_SECONDS, lifecycle.record_summary, run.pk, run.attempt, uuid7(), summary)
        run.count(summary.usage)
        self._budget.tokens_before += summary.usage.tokens
        self._budget.cost_before += summary.usage.cost_usd
        logger.info("chat_summarised", run_id=str(run.pk), chat_id=str(run.chat_id), attempt=run.attempt)

    async def _record_outcome(self, run: Run, outcome: Outcome, log: RunLog) -> None:
        """Recorded first, then shown. The next step waits while the database is away."""
        failpoint("after_tool")
        await persistently(JOURNAL_SECONDS, lifecycle.record_outcome, run.pk, run.attempt, outcome)
        if outcome.error is not None:
            log.emit(chunks.tool_output_error(outcome.call_id, outcome.error))
        else:
            log.emit(chunks.tool_output_available(outcome.call_id, outcome.output))
        self._tools_running.discard(outcome.call_id)
        if not self._tools_running:
            self._tools_ended.set()

    def _ending(self, run: Run, work: asyncio.Task[None]) -> Ending | None:
        """What became of the work; None if it has to be handed over. Raises LeaseLost."""
        if work.cancelled():
            if self._interrupt is Interrupt.LEASE_LOST:
                raise LeaseLost
            if self._interrupt is Interrupt.HAND_OVER:
                return None
            if self._interrupt is None:  # by a library, not by anybody who may
                logger.error("run_broke", run_id=str(run.pk), chat_id=str(run.chat_id), error="CancelledError")
                return INTERNAL_ERROR
            if self._interrupt is Interrupt.TIMEOUT:
                return limit_reached(out_of_time(run.max_seconds, answered=False))
            return stopped(self._stop_source)
        error = work.exception()
        if error is None:
            return limit_reached(self._reached) if self._reached else COMPLETED
        if isinstance(error, LeaseLost):
            raise error
        if isinstance(error, ModelError):
            logger.warning("model_failed", run_id=str(run.pk), chat_id=str(run.chat_id), code=error.code)
            return provider_failed(error.text)
        logger.error("run_broke", run_id=str(run.pk), chat_id=str(run.chat_id), exc_info=error)
        return INTERNAL_ERROR

    async def _handed_over(self, run: Run) -> bool:
        interrupted = self._interrupted(run)
        if not await persistently(SETTLE_SECONDS, lifecycle.hand_over, run.pk, run.attempt, interrupted):
            return False
        logger.info("run_handed_over", run_id=str(run.pk), chat_id=str(run.chat_id), attempt=run.attempt)
        if self._log:
            self._log.lose()
        await self._writer.fence(run.pk, run.attempt + 1)
        await in_thread(dispatch.send, run.pk, run.attempt + 1)
        return True

    def _interrupted(self, run: Run) -> Usage:
        """What it used beside what is recorded."""
        step = journal.interrupted_usage(run, self._log.transcript, self._past) if self._log else Usage()
        return step + self._budget.unrecorded

    async def _end(self, run: Run, ending: Ending) -> None:
        interrupted = self._interrupted(run)
        run.count(interrupted)
        try:
            await self._settle(run, ending, interrupted)
        except LeaseLost:
            raise
        except Exception as error:
            # Whatever broke on the way to the end must not leave the run to the sweep.
            logger.error("settle_broke", run_id=str(run.pk), chat_id=str(run.chat_id), exc_info=error)
            await self._settle(run, INTERNAL_ERROR, interrupted)

    async def _settle(self, run: Run, ending: Ending, interrupted: Usage) -> None:
        """The content to the readers, the row with the message, the end to the readers: in this order."""
        log = self._log or await self._begin_log(
            run, await persistently(SETTLE_SECONDS, journal.recorded_steps, run.pk)
        )
        failpoint("before_settle")
        for chunk in list(log.transcript.sealing()):
            log.emit(chunk)
        await log.flushed(FLUSH_SECONDS)
        end = list(ending_chunks(run, ending))
        metadata = deepcopy(log.transcript.metadata)
        for chunk in end:
            merge(metadata, chunk.get("messageMetadata", {}))
        try:
            await persistently(
                SETTLE_SECONDS,
                lifecycle.settle,
                run,
                ending,
                log.transcript.parts,
                metadata,
                interrupted,
                on=(Exception,),
            )
        except LeaseLost:
            raise
        except Exception as error:
            logger.error("NON-TERMINAL", run_id=str(run.pk), chat_id=str(run.chat_id), error=repr(error)[:500])
            return
        self.is_settled = True
        logger.info(
            "run_settled", run_id=str(run.pk), chat_id=str(run.chat_id), attempt=run.attempt, status=ending.status
        )
        failpoint("after_settle_before_finish")
        for chunk in end:
            log.emit(chunk)
        await log.flushed(FLUSH_SECONDS)


def _what_was(run: Run, instructions: str) -> tuple[list[RecordedStep], Past, str]:
    """The steps so far, what was said before them, and the limit of the person's day, where that is reached."""
    used_up = reached_today(run.workspace, run.created_by_id)
    return journal.recorded_steps(run.pk), journal.history(run, instructions), used_up


def _record(run: Run, step: ModelStep) -> str:
    """Answers the limit of the person's day, where that is reached by now and more is to come."""
    lifecycle.record_step(run.pk, run.attempt, step)
    return reached_today(run.workspace, run.created_by_id) if step.calls else ""


def _stop_source(run_id: UUID) -> str:
    return Run.objects.filter(pk=run_id).values_list("stop_source", flat=True).first() or ""
