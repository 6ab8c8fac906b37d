"""Reads what happened on a thread before a run, from its end, as far as it fits into the run's prompts."""

from collections.abc import Sequence
from itertools import islice

from sqlalchemy import Connection

from ..domain.runs import CodeInterpreterCall, Run, RunStep, ToolCall, ToolCalls, TruncationType
from ..domain.threads import ImageFileContent, Message
from ..domain.tools import CodeInterpreterTool, FunctionTool
from ..ids import sort_key
from ..store import messages, runs, steps
from .models.protocol import ImageBytes
from .models.usage import estimate_prompt
from .reading import Cut, message_read, turn_read

#: Stands for any image while tokens are counted.
_ANY_IMAGE = ImageBytes(b"", "image/png")


def read_history(
    connection: Connection, run: Run, *, tokens: int | None, tool_turns: int, cut: Cut
) -> list[Message | RunStep]:
    """Messages, and steps of calls of earlier runs, oldest first.

    Args:
        connection: the database.
        run: whose prompt it is for.
        tokens: what fits, the newest first; the newest message of all is always there. None: everything.
        tool_turns: how many steps of calls there may be. They take a third of the tokens at most, and none is older
            than the oldest message.
        cut: how their calls are cut.
    """
    newest = messages.newest_first(connection, run.project, run.thread_id, run.id)
    if run.truncation_strategy.type is TruncationType.LAST_MESSAGES:
        newest = islice(newest, run.truncation_strategy.last_messages)
    turns = _tool_turns(connection, run, tool_turns)
    left = tokens
    if tokens is not None:
        turns, used = _fitting(turns, run, tokens // 3, cut)
        left = tokens - used
    kept: list[Message] = []
    for message in newest:
        if left is not None:
            left -= _message_tokens(message)
            if kept and left < 0:
                break
        kept.append(message)
    kept.reverse()
    said: list[Message | RunStep] = [*kept]
    said += [step for step in turns if kept and sort_key(step.id) >= sort_key(kept[0].id)]
    return sorted(said, key=lambda one: sort_key(one.id))


def _tool_turns(connection: Connection, run: Run, most: int) -> list[RunStep]:
    """The last steps of earlier runs whose calls this run could make, too; newest first."""
    found: list[RunStep] = []
    if not run.tools or not most:
        return found
    for run_id in runs.ids_besides(connection, run.project, run.thread_id, run.id, most):
        # Between two steps of calls there may be a message.
        last = steps.newest_of_run(connection, run.project, run_id, 2 * most)
        found += [step for step in last if answered_calls(step, run)]
        if len(found) >= most:
            break
    return found[:most]


def _fitting(turns: Sequence[RunStep], run: Run, tokens: int, cut: Cut) -> tuple[list[RunStep], int]:
    """The first of these steps that fit, and the tokens that they take."""
    kept: list[RunStep] = []
    used = 0
    for step in turns:
        cost = estimate_prompt(turn_read(answered_calls(step, run), {}, cut))
        if used + cost > tokens:
            break
        kept.append(step)
        used += cost
    return kept, used


def calls_of(step: RunStep) -> tuple[ToolCall, ...]:
    """The calls of a step; none when it is a message."""
    return step.details.calls if isinstance(step.details, ToolCalls) else ()


def answered_calls(step: RunStep, run: Run) -> list[ToolCall]:
    """The calls of a step that have an answer, and whose tool this run has."""
    has_code = any(isinstance(tool, CodeInterpreterTool) for tool in run.tools)
    functions = {tool.name for tool in run.tools if isinstance(tool, FunctionTool)}
    return [
        call
        for call in calls_of(step)
        if is_answered(call) and (has_code if isinstance(call, CodeInterpreterCall) else call.name in functions)
    ]


def is_answered(call: ToolCall) -> bool:
    """Whether the model can be told what came of a call."""
    return (call.result if isinstance(call, CodeInterpreterCall) else call.output) is not None


def _message_tokens(message: Message) -> int:
    pictures = {part.file_id: _ANY_IMAGE for part in message.content if isinstance(part, ImageFileContent)}
    return estimate_prompt([message_read(message, pictures)])
