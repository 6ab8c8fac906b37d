"""What can be done with assistants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from sqlalchemy import Connection

from .. import clock, ids
from ..domain.assistants import Assistant
from ..domain.tools import ResponseFormat, Tool, ToolResources
from ..errors import AssistantNotFound
from ..files.lookup import require_files
from ..store import assistants, requests
from ..store.database import Database
from ..store.pages import Page, PageRequest
from ..store.writer import Transaction
from ..validation import (
    SharedLimits,
    Violations,
    check_file_ids,
    check_metadata,
    check_page_size,
    check_request_id,
    check_response_format,
    check_sampling,
    check_tools,
)


class AssistantFields(TypedDict, total=False):
    """The fields of an assistant that clients set: all that are given on creation, those that change on update."""

    #: Empty: the server's default.
    model: str
    name: str | None
    description: str | None
    instructions: str | None
    tools: tuple[Tool, ...]
    tool_resources: ToolResources
    metadata: Mapping[str, str]
    temperature: float | None
    top_p: float | None
    response_format: ResponseFormat | None
    reasoning_effort: str | None


@dataclass(frozen=True, slots=True)
class AssistantLimits:
    """Limits of assistants; the defaults are the Assistants API's."""

    #: Characters of the name.
    name_characters: int = 256
    #: Characters of the description.
    description_characters: int = 512
    #: Characters of the instructions.
    instructions_characters: int = 256_000
    #: Characters of the model's name.
    model_characters: int = 256
    #: Tools of one assistant.
    tools: int = 128
    #: Files of one assistant for the code interpreter.
    code_interpreter_files: int = 20
    shared: SharedLimits = SharedLimits()


class Assistants:
    """Assistants of all projects.

    Args:
        database: where they are kept.
        limits: what clients may ask for.
        default_model: the model of an assistant that names none.
        check_model: raises ModelUnknown for a model that the server does not have.
    """

    def __init__(
        self, database: Database, limits: AssistantLimits, *, default_model: str, check_model: Callable[[str], None]
    ) -> None:
        self._database = database
        self._limits = limits
        self._default_model = default_model
        self._check_model = check_model

    async def create(self, project: str, fields: AssistantFields, request_id: str = "") -> Assistant:
        """Create an assistant. Raises InvalidFields, ModelUnknown, FileNotFound, RequestIdReused.

        Files may be given without the tool that reads them: a run can bring it.
        """
        violations = Violations(self._limits.shared)
        self._check(violations, fields)
        check_request_id(violations, request_id)
        violations.check()
        given: AssistantFields = {**fields, "model": self._model(fields.get("model", ""))}
        fingerprint = requests.fingerprint_of(fields)

        def work(tx: Transaction) -> Assistant:
            def insert() -> str:
                time = clock.now()
                blank = Assistant(id=ids.assistant_id(), project=project, create_time=time, model="")
                assistant = replace(blank, **given)
                require_files(tx.connection, project, assistant.tool_resources.code_interpreter_file_ids, time)
                assistants.insert(tx.connection, assistant)
                return assistant.id

            assistant_id = requests.once(tx, project, "CreateAssistant", request_id, fingerprint, insert)
            return _require(tx.connection, project, assistant_id)

        return await self._database.write(work)

    async def get(self, project: str, assistant_id: str) -> Assistant:
        """Raises AssistantNotFound."""
        return await self._database.look(lambda connection: _require(connection, project, assistant_id))

    async def list(self, project: str, page: PageRequest) -> Page[Assistant]:
        """The assistants of the project. Raises InvalidFields, PageTokenInvalid."""
        violations = Violations(self._limits.shared)
        check_page_size(violations, page.size)
        violations.check()
        return await self._database.read(lambda connection: assistants.list_page(connection, project, page))

    async def update(self, project: str, assistant_id: str, fields: AssistantFields) -> Assistant:
        """Replace the fields that are given. Runs that exist keep what they were created with.

        Raises InvalidFields, ModelUnknown, AssistantNotFound, FileNotFound.
        """
        violations = Violations(self._limits.shared)
        self._check(violations, fields)
        violations.check()
        changes = fields
        if "model" in fields:
            changes = {**fields, "model": self._model(fields["model"])}

        def work(tx: Transaction) -> Assistant:
            before = _require(tx.connection, project, assistant_id)
            assistant = replace(before, **changes)
            if "tool_resources" in fields:
                file_ids = assistant.tool_resources.code_interpreter_file_ids
                # One that was deleted since must not stand in the way of the others.
                known = before.tool_resources.code_interpreter_file_ids
                require_files(tx.connection, project, file_ids, clock.now(), known=known)
            assistants.update(tx.connection, assistant)
            return assistant

        return await self._database.write(work)

    async def delete(self, project: str, assistant_id: str) -> None:
        """Delete an assistant; its files and its runs stay. Raises AssistantNotFound."""
        if not await self._database.write(lambda tx: assistants.delete(tx.connection, project, assistant_id)):
            raise AssistantNotFound(id=assistant_id)

    def _model(self, name: str) -> str:
        model = name or self._default_model
        self._check_model(model)
        return model

    def _check(self, violations: Violations, fields: AssistantFields) -> None:
        limits = self._limits
        violations.string("model", fields.get("model"), maximum=limits.model_characters)
        violations.string("name", fields.get("name"), maximum=limits.name_characters)
        violations.string("description", fields.get("description"), maximum=limits.description_characters)
        violations.string("instructions", fields.get("instructions"), maximum=limits.instructions_characters)
        check_tools(violations, "tools", fields.get("tools", ()), maximum=limits.tools)
        check_file_ids(
            violations,
            "tool_resources.code_interpreter.file_ids",
            fields.get("tool_resources", ToolResources()).code_interpreter_file_ids,
            maximum=limits.code_interpreter_files,
        )
        check_metadata(violations, "metadata", fields.get("metadata", {}))
        check_sampling(
            violations,
            temperature=fields.get("temperature"),
            top_p=fields.get("top_p"),
            reasoning_effort=fields.get("reasoning_effort"),
        )
        check_response_format(violations, "response_format", fields.get("response_format"))


def _require(connection: Connection, project: str, assistant_id: str) -> Assistant:
    assistant = assistants.get(connection, project, assistant_id)
    if assistant is None:
        raise AssistantNotFound(id=assistant_id)
    return assistant
