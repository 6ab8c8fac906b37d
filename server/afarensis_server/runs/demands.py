"""What a run demands of its model's answers, checked here, since not every endpoint sees to it.

An endpoint may ignore that tools must not be used, or must, that one call at a time was asked for, or a format. Who set
such a field is to get what was asked for, or be told.
"""

import json
from collections.abc import Sequence

from ..domain.runs import RunError, RunErrorCode
from ..domain.tools import ResponseFormat, ResponseFormatType, ToolChoice, ToolChoiceMode
from .models import code_interpreter
from .turn import AskedCall

#: Characters of what is wrong with an answer that the client is told.
_DETAIL_CHARACTERS = 500


def call_refused(choice: ToolChoice, *, parallel: bool, index: int, call: AskedCall) -> str | None:
    """What the model is told instead of the answer to a call that it may not make; None when it may."""
    if choice.mode is ToolChoiceMode.NONE:
        return "No tools may be used in this run. Answer without them."
    if (wanted := _forced(choice)) is not None and call.name != wanted:
        return f"Call the tool '{wanted}' first."
    if index > 0 and not parallel:
        return (
            "Only one tool call at a time is allowed in this run. Make this call again once you read the first answer."
        )
    return None


def missing_call(choice: ToolChoice, calls: Sequence[AskedCall]) -> str | None:
    """What a model that had to call a tool, and did not, is told; None when all is well."""
    wanted = _forced(choice)
    if choice.mode is not ToolChoiceMode.REQUIRED and wanted is None:
        return None
    if any(wanted in (None, call.name) for call in calls):
        return None
    tool = "one of the tools" if wanted is None else f"the tool '{wanted}'"
    return f"Call {tool} before you answer."


def choice_ignored(reminder: str) -> RunError:
    """The error of a run whose model would not call a tool."""
    return RunError(
        RunErrorCode.SERVER_ERROR,
        f"The run's tool_choice was not obeyed, although the model was reminded: {reminder} Use a model whose endpoint "
        "supports tool_choice, or leave tool_choice at auto.",
        "TOOL_CHOICE_IGNORED",
    )


def format_missed(wanted: ResponseFormat | None, text: str) -> RunError | None:
    """The error of a run whose answer is not in the format that was asked for; None when it is.

    Whether it is JSON is checked. Its schema is the endpoint's to keep: a schema may be written to take for ever.
    """
    if wanted is None or wanted.type is ResponseFormatType.TEXT:
        return None
    try:
        answer = json.loads(text)
    except ValueError as error:
        return _missed(f"it is not JSON: {error}")
    except RecursionError:
        return _missed("it is nested too deeply")
    if wanted.type is ResponseFormatType.JSON_OBJECT and not isinstance(answer, dict):
        return _missed("it is JSON, but not an object")
    return None


def _missed(detail: str) -> RunError:
    return RunError(
        RunErrorCode.SERVER_ERROR,
        f"The model's answer is not in the run's response_format: {detail[:_DETAIL_CHARACTERS]}. Use a model whose "
        "endpoint supports structured outputs, or say in the instructions what the answer must look like.",
        "RESPONSE_FORMAT_MISSED",
    )


def _forced(choice: ToolChoice) -> str | None:
    """The name of the one tool that must be called."""
    if choice.mode is ToolChoiceMode.CODE_INTERPRETER:
        return code_interpreter.NAME
    return choice.function_name if choice.mode is ToolChoiceMode.FUNCTION else None
