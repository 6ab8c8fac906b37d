"""Tools an assistant may use, and how a model is to use them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, slots=True)
class CodeInterpreterTool:
    """Python in the thread's session."""

    #: Seconds that one execution may take; None takes the server's setting.
    execution_timeout_seconds: float | None = None
    type: Literal["code_interpreter"] = "code_interpreter"


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function of the client's, described to the model and called through ``requires_action``."""

    name: str
    description: str | None = None
    #: A JSON Schema object as text, so that numbers stay what they are.
    parameters_json: str | None = None
    strict: bool | None = None
    type: Literal["function"] = "function"


Tool = Annotated[CodeInterpreterTool | FunctionTool, Field(discriminator="type")]


class ToolChoiceMode(StrEnum):
    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    CODE_INTERPRETER = "code_interpreter"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and which tool the model must call; ``function_name`` belongs to FUNCTION."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    function_name: str | None = None


class ResponseFormatType(StrEnum):
    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form of the model's answer; the fields behind ``type`` belong to JSON_SCHEMA."""

    type: ResponseFormatType = ResponseFormatType.TEXT
    name: str | None = None
    description: str | None = None
    schema_json: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolResources:
    """Files that the code interpreter sees."""

    code_interpreter_file_ids: tuple[str, ...] = ()
