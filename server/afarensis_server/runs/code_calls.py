"""Runs the code that a model asks for, in the session of the run's thread, and streams into the run what it does."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from ..domain.events import CodeInterpreterCallDelta, OutputDelta
from ..domain.executions import CodeError, ExecutionResult, ExecutionStatus, Started, without_inline_files
from ..domain.runs import Run, Usage
from ..domain.tools import CodeInterpreterTool
from ..errors import SessionNotActive
from ..sessions.live import LiveSession
from ..sessions.service import Sessions
from .drafts import CodeCallDraft
from .models.code_interpreter import parse_code
from .turn import AskedCall, Turn
from .writer import Writer


class Halted(Exception):
    """The run was halted while its code ran; what came of that is stored."""


class CodeCalls:
    """The code of one run."""

    def __init__(self, run: Run, sessions: Sessions, writer: Writer) -> None:
        self._run = run
        self._sessions = sessions
        self._writer = writer
        #: The session in which code of the run is at work.
        self._at_work: LiveSession | None = None
        #: Why the run was halted, if it was.
        self._halt_reason = ""

    @property
    def seconds(self) -> float:
        """How long one execution of this run may take."""
        settings = self._sessions.settings
        chosen = [tool.execution_timeout_seconds for tool in self._run.tools if isinstance(tool, CodeInterpreterTool)]
        return min((chosen and chosen[0]) or settings.execution_seconds, settings.max_execution_seconds)

    async def halt(self, reason: str, within_seconds: float) -> bool:
        """Have code that is at work end within these seconds: `run` raises Halted then.

        What the code put out, and how it ended, is stored as ever, with the ``reason``. False when no code is at work:
        whatever else goes on may just be broken off. To be repeated: the code may be about to begin.
        """
        if self._at_work is None:
            return False
        self._halt_reason = reason
        await self._at_work.sandbox.interrupt(within_seconds=within_seconds)
        return True

    async def run(self, turn: Turn, index: int, usage: Callable[[], Usage] | None = None) -> None:
        """Run a call's code, and stream into the open step what it does. Raises Halted, and DomainError for a session.

        Arguments that hold no code are answered with an error, which the model reads. With ``usage``, what the model
        call took, the step ends with the code.
        """
        call = turn.calls[index]
        try:
            code = parse_code(call.arguments_json)
        except ValueError as error:
            if not call.shown:
                await turn.show_code(index, call.arguments_json)
            failure = CodeError("InvalidArguments", str(error), "")
            result = ExecutionResult(ExecutionStatus.ERROR, wall_seconds=0.0, error=failure)
            await self._writer.add_call(CodeInterpreterCallDelta(index, call.id, result=result), stored=True)
            return
        await turn.show_code(index, code)
        begun = time.monotonic()
        try:
            await self._run_in_session(index, call, code, usage)
            if self._halt_reason:
                raise Halted
        except asyncio.CancelledError:
            # Nobody reads the interpreter's own words any more. Who ends the run keeps this with the rest of the step.
            failure = CodeError("KeyboardInterrupt", "The run was stopped while this code was running.", "")
            seconds = time.monotonic() - begun
            result = ExecutionResult(ExecutionStatus.INTERRUPTED, seconds, error=failure)
            if self._writer.calls is not None:
                self._writer.note_result(index, call.id, result)
            raise
        finally:
            self._at_work = None

    async def _run_in_session(self, index: int, call: AskedCall, code: str, usage: Callable[[], Usage] | None) -> None:
        """Run code in the thread's session, or in its next one if that ends before the code has begun."""
        for tries_left in (2, 1, 0):
            try:
                live = await self._sessions.for_thread(
                    self._run.project, self._run.thread_id, self._run.tool_resources.code_interpreter_file_ids
                )
                await self._stream_execution(live, index, call, code, usage)
                break
            except SessionNotActive:
                if not tries_left:
                    raise

    async def _stream_execution(
        self, live: LiveSession, index: int, call: AskedCall, code: str, usage: Callable[[], Usage] | None
    ) -> None:
        opened = self._writer.calls
        assert opened is not None
        draft = opened.draft.calls[index]
        assert isinstance(draft, CodeCallDraft)
        async with aclosing(self._sessions.execute(live, code, timeout_seconds=self.seconds)) as events:
            async for event in events:
                match event:
                    case Started():
                        # Stored before the code runs: whoever takes this run up after a crash must know that it may
                        # have run.
                        started = CodeInterpreterCallDelta(
                            index,
                            call.id,
                            session_id=live.id,
                            execution_id=event.execution_id,
                            state_lost=event.state_lost,
                        )
                        await self._writer.add_call(started, stored=True)
                        self._at_work = live
                    case ExecutionResult():
                        result = event.explained(self._halt_reason)
                        delta = CodeInterpreterCallDelta(index, call.id, result=result)
                        if usage is None or self._halt_reason:
                            await self._writer.add_call(delta, stored=True)
                        else:
                            await self._writer.complete_calls(usage(), delta)
                    case _:
                        # Images stay out of steps and run events: a page of steps must fit into one message.
                        output: OutputDelta = draft.place(without_inline_files(event))
                        await self._writer.add_call(CodeInterpreterCallDelta(index, call.id, outputs=(output,)))
