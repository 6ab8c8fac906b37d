"""SessionService: the code interpreter without a model."""

import asyncio
from collections.abc import AsyncIterator

from afarensis import v1 as pb

from ...clock import now
from ...errors import Unimplemented
from ...sessions.service import Sessions
from ...validation import Violations
from ..calls import Calls
from ..context import project
from ..convert.executions import execution_event_message
from ..convert.sessions import session_message, session_wishes
from ..convert.values import positive_seconds
from ..disconnects import Context
from .executions import Execution
from .later import not_yet
from .streams import heartbeat_seconds

#: What an execution's code may have.
_CODE_CHARACTERS = 1024 * 1024


class SessionServicer(pb.SessionServiceServicer):
    """Opens sessions and runs clients' own code in them."""

    def __init__(self, sessions: Sessions, calls: Calls) -> None:
        self._sessions = sessions
        self._calls = calls
        #: Executions whose clients went away and which go on all the same.
        self._left_alone: set[asyncio.Task[None]] = set()

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        _refuse_request_id("CreateSession", request.request_id)
        wishes = session_wishes(request, self._sessions.settings)
        session = await self._sessions.create(project(), request.thread_id or None, request.file_ids, wishes)
        return pb.CreateSessionResponse(session=session_message(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        session = await self._sessions.get(project(), request.session_id)
        running = self._sessions.active_execution(session.id)
        return pb.GetSessionResponse(session=session_message(session, running))

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        session = await self._sessions.close(project(), request.session_id)
        return pb.CloseSessionResponse(session=session_message(session))

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> AsyncIterator[pb.ExecuteResponse]:
        _refuse_request_id("Execute", request.request_id)
        heartbeat = heartbeat_seconds(request)
        timeout = self._check(request)
        live = await self._sessions.live(project(), request.session_id)
        execution = Execution(self._sessions.execute(live, request.code, timeout_seconds=timeout, wait=False))
        sequence = 0
        try:
            async for event in execution.events(heartbeat):
                if event is None:
                    yield pb.ExecuteResponse(heartbeat=pb.Heartbeat(last_sequence=sequence))
                    continue
                sequence += 1
                message = execution_event_message(event)
                message.sequence = sequence
                message.create_time.FromDatetime(now())
                yield pb.ExecuteResponse(event=message)
        finally:
            if request.interrupt_on_disconnect or self._calls.draining:
                await execution.interrupt()
            elif not execution.task.done():
                execution.leave_alone()
                self._left_alone.add(execution.task)
                execution.task.add_done_callback(self._left_alone.discard)

    def _check(self, request: pb.ExecuteRequest) -> float | None:
        """The timeout that an execution asks for, if any."""
        found = Violations()
        found.string("code", request.code, maximum=_CODE_CHARACTERS, required=True)
        timeout = None
        if request.HasField("timeout"):
            maximum = self._sessions.settings.max_execution_seconds
            timeout = positive_seconds(request.timeout, "timeout", maximum, found)
        found.check()
        return timeout

    async def aclose(self) -> None:
        """Interrupt the executions that nobody reads any more."""
        for task in self._left_alone:
            task.cancel()
        await asyncio.gather(*self._left_alone, return_exceptions=True)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        raise Unimplemented(method="ListSessions")

    async def AddSessionFiles(self, request: pb.AddSessionFilesRequest, context: Context) -> pb.AddSessionFilesResponse:
        raise Unimplemented(method="AddSessionFiles")

    async def ExecuteAndWait(self, request: pb.ExecuteAndWaitRequest, context: Context) -> pb.ExecuteAndWaitResponse:
        raise Unimplemented(method="ExecuteAndWait")

    async def GetExecution(self, request: pb.GetExecutionRequest, context: Context) -> pb.GetExecutionResponse:
        raise Unimplemented(method="GetExecution")

    def StreamExecutionEvents(
        self, request: pb.StreamExecutionEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamExecutionEventsResponse]:
        return not_yet("StreamExecutionEvents")

    async def ListExecutionEvents(
        self, request: pb.ListExecutionEventsRequest, context: Context
    ) -> pb.ListExecutionEventsResponse:
        raise Unimplemented(method="ListExecutionEvents")

    async def InterruptExecution(
        self, request: pb.InterruptExecutionRequest, context: Context
    ) -> pb.InterruptExecutionResponse:
        raise Unimplemented(method="InterruptExecution")

    async def ListSessionFiles(
        self, request: pb.ListSessionFilesRequest, context: Context
    ) -> pb.ListSessionFilesResponse:
        raise Unimplemented(method="ListSessionFiles")

    def ReadSessionFile(
        self, request: pb.ReadSessionFileRequest, context: Context
    ) -> AsyncIterator[pb.ReadSessionFileResponse]:
        return not_yet("ReadSessionFile")


def _refuse_request_id(method: str, request_id: str) -> None:
    # Taking no notice of it would run code twice where a client relies on once.
    if request_id:
        raise Unimplemented(method=f"The request_id of {method}")
