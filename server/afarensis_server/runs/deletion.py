"""Deletes a thread with all that lives on it: its run is stopped and its session closed before."""

from contextlib import suppress

from ..domain.runs import RunStatus
from ..domain.sessions import SessionStatus
from ..errors import RunNotCancellable
from ..sessions.service import Sessions
from ..store.pages import PageRequest
from ..threads.service import Threads
from .service import Runs

_ACTIVE = tuple(status for status in RunStatus if not status.is_terminal)
#: Seconds that a run is given to stop; what it still writes afterwards finds no thread.
_STOP_SECONDS = 10.0


async def delete_thread(threads: Threads, runs: Runs, sessions: Sessions, project: str, thread_id: str) -> None:
    """Stop the thread's run, close its session and delete it. Raises ThreadNotFound."""
    for run in (await runs.list(project, PageRequest(1), thread_id=thread_id, statuses=_ACTIVE)).items:
        # It may have ended since it was listed.
        with suppress(RunNotCancellable):
            await runs.cancel(project, run.id)
            await runs.wait(project, run.id, _STOP_SECONDS)
    for session in (await sessions.list(project, PageRequest(1), thread_id=thread_id)).items:
        if session.status is SessionStatus.ACTIVE:
            await sessions.close(project, session.id)
    await threads.delete(project, thread_id)
