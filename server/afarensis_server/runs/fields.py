"""What a client may say when it creates a run, and the limits of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypedDict, TypeVar

from .. import ids
from ..domain.assistants import Assistant
from ..domain.runs import Run, RunStatus, TruncationStrategy, TruncationType
from ..domain.threads import Thread
from ..domain.tools import FunctionTool, ResponseFormat, Tool, ToolChoice, ToolChoiceMode, ToolResources
from ..validation import (
    Reason,
    SharedLimits,
    Violations,
    check_metadata,
    check_response_format,
    check_sampling,
    check_tools,
)

T = TypeVar("T")


class RunFields(TypedDict, total=False):
    """The fields of a run that its creator gives; what is left out comes from the assistant."""

    assistant_id: str
    model: str | None
    instructions: str | None
    additional_instructions: str | None
    tools: tuple[Tool, ...] | None
    metadata: Mapping[str, str]
    temperature: float | None
    top_p: float | None
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    truncation_strategy: TruncationStrategy
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    #: None: as the model likes, whatever the assistant says.
    response_format: ResponseFormat | None
    reasoning_effort: str | None
    ttl_seconds: float | None


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits of what a run may ask for; the defaults are the Assistants API's."""

    #: Characters of instructions, and of additional instructions.
    instructions_characters: int = 256_000
    #: Tools in a run's override.
    tools: int = 20
    #: The smallest token budget, of prompts and of completions.
    minimum_tokens: int = 256
    #: Messages added in one call.
    additional_messages: int = 100
    #: Seconds until a run expires when its creator does not say.
    ttl_seconds: float = 600.0
    #: Seconds until a run expires at most.
    max_ttl_seconds: float = 86_400.0
    #: Runs of one project that are not over at a time; 0: as many as there are threads.
    per_project: int = 0
    #: Characters of one submitted tool output.
    tool_output_characters: int = 512_000
    shared: SharedLimits = SharedLimits()


def check_run(violations: Violations, fields: RunFields, limits: RunLimits) -> None:
    """Collect all that is wrong with the fields of a new run."""
    violations.string("assistant_id", fields.get("assistant_id"), required=True)
    violations.string("model", fields.get("model"), maximum=256)
    for name in ("instructions", "additional_instructions"):
        violations.string(name, fields.get(name), maximum=limits.instructions_characters)  # type: ignore[arg-type]  # both are strings
    if (tools := fields.get("tools")) is not None:
        check_tools(violations, "tools", tools, maximum=limits.tools)
    check_metadata(violations, "metadata", fields.get("metadata", {}))
    check_sampling(
        violations,
        temperature=fields.get("temperature"),
        top_p=fields.get("top_p"),
        reasoning_effort=fields.get("reasoning_effort"),
    )
    check_response_format(violations, "response_format", fields.get("response_format"))
    violations.number("max_prompt_tokens", fields.get("max_prompt_tokens"), minimum=limits.minimum_tokens)
    violations.number("max_completion_tokens", fields.get("max_completion_tokens"), minimum=limits.minimum_tokens)
    violations.number("ttl", fields.get("ttl_seconds"), minimum=1, maximum=limits.max_ttl_seconds)
    strategy = fields.get("truncation_strategy", TruncationStrategy())
    if strategy.type is TruncationType.LAST_MESSAGES:
        if strategy.last_messages is None:
            violations.required("truncation_strategy.last_messages")
        violations.number("truncation_strategy.last_messages", strategy.last_messages, minimum=1)
    elif strategy.last_messages is not None:
        text = "Invalid 'truncation_strategy.last_messages': only allowed where the prompt is cut to the last messages."
        violations.add("truncation_strategy.last_messages", Reason.INVALID_VALUE, text)


def check_tool_choice(violations: Violations, run: Run) -> None:
    """A forced tool must be among the tools in effect."""
    choice = run.tool_choice
    if choice.mode is ToolChoiceMode.FUNCTION:
        names = {tool.name for tool in run.tools if isinstance(tool, FunctionTool)}
        if choice.function_name not in names:
            text = f"Invalid 'tool_choice': there is no function '{choice.function_name}' among the tools of this run."
            violations.add("tool_choice", Reason.INVALID_VALUE, text)
    elif choice.mode is ToolChoiceMode.CODE_INTERPRETER:
        if all(isinstance(tool, FunctionTool) for tool in run.tools):
            text = "Invalid 'tool_choice': code_interpreter is not among the tools of this run."
            violations.add("tool_choice", Reason.INVALID_VALUE, text)
    elif choice.mode is ToolChoiceMode.REQUIRED and not run.tools:
        text = "Invalid 'tool_choice': a tool is required, but this run has none."
        violations.add("tool_choice", Reason.INVALID_VALUE, text)


def build_run(
    project: str, thread: Thread, assistant: Assistant, fields: RunFields, limits: RunLimits, moment: datetime
) -> Run:
    """The run that these fields ask for: the assistant's settings, and over them the run's own."""
    given = fields.get("instructions")
    instructions = assistant.instructions if given is None else given
    if additional := fields.get("additional_instructions"):
        instructions = f"{instructions}\n\n{additional}" if instructions else additional
    tools = fields.get("tools")
    ttl = fields.get("ttl_seconds") or limits.ttl_seconds
    files = dict.fromkeys(
        (
            *assistant.tool_resources.code_interpreter_file_ids,
            *thread.tool_resources.code_interpreter_file_ids,
        )
    )
    return Run(
        id=ids.run_id(),
        project=project,
        thread_id=thread.id,
        assistant_id=assistant.id,
        create_time=moment,
        status=RunStatus.QUEUED,
        model=fields.get("model") or assistant.model,
        instructions=instructions,
        tools=assistant.tools if tools is None else tools,
        tool_resources=ToolResources(tuple(files)),
        metadata=fields.get("metadata", {}),
        temperature=_first(fields.get("temperature"), assistant.temperature),
        top_p=_first(fields.get("top_p"), assistant.top_p),
        max_prompt_tokens=fields.get("max_prompt_tokens"),
        max_completion_tokens=fields.get("max_completion_tokens"),
        truncation_strategy=fields.get("truncation_strategy", TruncationStrategy()),
        tool_choice=fields.get("tool_choice", ToolChoice()),
        parallel_tool_calls=fields.get("parallel_tool_calls", True),
        response_format=fields.get("response_format", assistant.response_format),
        # Present and empty: the provider's own default, whatever the assistant says.
        reasoning_effort=_first(fields.get("reasoning_effort"), assistant.reasoning_effort) or None,
        expire_time=moment + timedelta(seconds=ttl),
    )


def _first(given: T | None, default: T | None) -> T | None:
    return default if given is None else given
