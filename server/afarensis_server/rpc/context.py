"""What a servicer may know about the call it answers."""

from contextvars import ContextVar

#: Set by the interceptor before the servicer is called. A call is one task, so nothing else sees it.
project_of_call: ContextVar[str] = ContextVar("project_of_call")


def project() -> str:
    """The project of the call in progress."""
    return project_of_call.get()
