"""SessionService: the code interpreter without a model."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from afarensis import v1 as pb

from ...domain.executions import ExecutionEventType, LoggedExecutionEvent
from ...domain.sessions import Session
from ...events.log import Heartbeat
from ...sessions.data import SessionData
from ...sessions.executions import ExecutionRequest, Executions
from ...sessions.service import Sessions
from ...validation import Reason, Violations, check_request_id
from ..context import project
from ..convert.executions import execution_event_message, execution_message
from ..convert.sessions import session_file_message, session_message, session_status_value, session_wishes
from ..convert.values import positive_seconds
from ..disconnects import Context
from ..last import last
from ..pages import RESPONSE_BYTES, check_page_size, list_page
from .streams import bounded, check_cursor, check_list, heartbeat_seconds

_DEFAULT_FILES = 100
_MAX_FILES = 1_000


class SessionServicer(pb.SessionServiceServicer):
    """Opens sessions and runs clients' own code in them."""

    def __init__(self, sessions: Sessions, executions: Executions, data: SessionData) -> None:
        self._sessions = sessions
        self._executions = executions
        self._data = data

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        wishes = session_wishes(request, self._sessions.settings)
        session = await self._sessions.create(
            project(), request.thread_id or None, request.file_ids, wishes, request.request_id
        )
        return pb.CreateSessionResponse(session=self._message(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        session = await self._sessions.get(project(), request.session_id)
        return pb.GetSessionResponse(session=self._message(session))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        status = session_status_value(request.status)
        sessions, token = await list_page(
            request,
            lambda page: self._sessions.list(project(), page, request.thread_id or None, status),
            self._message,
        )
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        session = await self._sessions.close(project(), request.session_id)
        return pb.CloseSessionResponse(session=self._message(session))

    async def AddSessionFiles(self, request: pb.AddSessionFilesRequest, context: Context) -> pb.AddSessionFilesResponse:
        session = await self._sessions.add_files(project(), request.session_id, request.file_ids)
        return pb.AddSessionFilesResponse(session=self._message(session))

    def _message(self, session: Session) -> pb.Session:
        return session_message(session, self._sessions.active_execution(session.id))

    # --- executions ---------------------------------------------------------------------------------------------------

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> AsyncIterator[pb.ExecuteResponse]:
        heartbeat = heartbeat_seconds(request)
        items = self._executions.stream(
            project(),
            self._wanted(request, "Execute"),
            heartbeat,
            interrupt_when_left=request.interrupt_on_disconnect,
        )
        async with aclosing(items):
            async for item in items:
                event, beat, is_last = _item(item)
                yield last(pb.ExecuteResponse(event=event, heartbeat=beat), is_last)

    async def ExecuteAndWait(self, request: pb.ExecuteAndWaitRequest, context: Context) -> pb.ExecuteAndWaitResponse:
        state = await self._executions.run(project(), self._wanted(request, "ExecuteAndWait"))
        return pb.ExecuteAndWaitResponse(execution=execution_message(state, RESPONSE_BYTES))

    async def GetExecution(self, request: pb.GetExecutionRequest, context: Context) -> pb.GetExecutionResponse:
        state = await self._executions.get(project(), request.execution_id)
        return pb.GetExecutionResponse(execution=execution_message(state, RESPONSE_BYTES))

    async def StreamExecutionEvents(
        self, request: pb.StreamExecutionEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamExecutionEventsResponse]:
        check_cursor(request.after_sequence)
        items = self._executions.follow_events(
            project(), request.execution_id, request.after_sequence, heartbeat_seconds(request)
        )
        async with aclosing(items):
            async for item in items:
                event, beat, is_last = _item(item)
                yield last(pb.StreamExecutionEventsResponse(event=event, heartbeat=beat), is_last)

    async def ListExecutionEvents(
        self, request: pb.ListExecutionEventsRequest, context: Context
    ) -> pb.ListExecutionEventsResponse:
        limit = check_list(request.after_sequence, request.page_size)
        page = await self._executions.list_events(project(), request.execution_id, request.after_sequence, limit)
        events = bounded(page.events, execution_event_message)
        return pb.ListExecutionEventsResponse(events=events, last_sequence=page.last_sequence, ended=page.ended)

    async def InterruptExecution(
        self, request: pb.InterruptExecutionRequest, context: Context
    ) -> pb.InterruptExecutionResponse:
        await self._executions.interrupt(project(), request.execution_id)
        return pb.InterruptExecutionResponse()

    def _wanted(self, request: pb.ExecuteRequest | pb.ExecuteAndWaitRequest, method: str) -> ExecutionRequest:
        """What a request asks to be run."""
        settings = self._sessions.settings
        found = Violations(settings.shared)
        check_request_id(found, request.request_id)
        found.string("code", request.code, required=True)
        if (size := len(request.code.encode())) > settings.code_bytes:
            text = f"Invalid 'code': too long. Expected at most {settings.code_bytes} bytes, but got {size} instead."
            found.add("code", Reason.STRING_TOO_LONG, text)
        timeout = None
        if request.HasField("timeout"):
            timeout = positive_seconds(request.timeout, "timeout", settings.max_execution_seconds, found)
        found.check()
        return ExecutionRequest(request.session_id, request.code, timeout, method, request.request_id)

    # --- files --------------------------------------------------------------------------------------------------------

    async def ListSessionFiles(
        self, request: pb.ListSessionFilesRequest, context: Context
    ) -> pb.ListSessionFilesResponse:
        found = Violations()
        found.string("directory", request.directory)
        check_page_size(request.page_size, _MAX_FILES, found)
        found.check()
        page = await self._data.list(
            project(), request.session_id, request.directory, request.page_size or _DEFAULT_FILES, request.page_token
        )
        files = [session_file_message(file) for file in page.items]
        return pb.ListSessionFilesResponse(files=files, next_page_token=page.next_token)

    async def ReadSessionFile(
        self, request: pb.ReadSessionFileRequest, context: Context
    ) -> AsyncIterator[pb.ReadSessionFileResponse]:
        found = Violations()
        found.string("path", request.path, required=True)
        found.number("offset_bytes", request.offset_bytes, minimum=0)
        found.number("limit_bytes", request.limit_bytes, minimum=0)
        found.check()
        file, chunks = await self._data.open(
            project(), request.session_id, request.path, request.offset_bytes, request.limit_bytes
        )
        async with aclosing(chunks):
            yield pb.ReadSessionFileResponse(file=session_file_message(file))
            async for chunk in chunks:
                yield pb.ReadSessionFileResponse(data=chunk)


def _item(item: LoggedExecutionEvent | Heartbeat) -> tuple[pb.ExecutionEvent | None, pb.Heartbeat | None, bool]:
    """An event or a heartbeat, and whether none follows it."""
    if isinstance(item, Heartbeat):
        return None, pb.Heartbeat(last_sequence=item.last_sequence), item.is_last
    return execution_event_message(item), None, item.type is ExecutionEventType.RESULT
