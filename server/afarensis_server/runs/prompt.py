"""Builds what the model is asked: instructions, the thread, and what this run did so far."""

from dataclasses import dataclass

from ..domain.files import File
from ..domain.runs import (
    CodeInterpreterCall,
    FunctionCall,
    MessageCreation,
    Run,
    RunStep,
    StepStatus,
    ToolCall,
    ToolCalls,
    TruncationType,
)
from ..domain.threads import (
    ImageFileContent,
    ImageUrlContent,
    Message,
    MessageRole,
    MessageStatus,
    RefusalContent,
    TextContent,
)
from ..domain.tools import CodeInterpreterTool, ToolChoice, ToolChoiceMode
from ..errors import FileNotFound
from ..files.service import Files
from ..sandbox.driver import DATA_DIRECTORY
from ..sessions.service import Sessions
from ..store import messages, steps
from ..store.database import Database
from .budgets import used_so_far
from .models import code_interpreter
from .models.protocol import (
    AssistantMessage,
    ImageBytes,
    ImageUrl,
    ModelRequest,
    PromptMessage,
    PromptToolCall,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    UserPart,
)
from .models.transcript import render
from .models.usage import estimate_prompt


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What of a run goes into a prompt."""

    #: Characters of one code interpreter call's output that the model reads; the middle of more is left out.
    output_characters: int = 20_000
    #: Bytes of one image that is sent to the model.
    image_bytes: int = 20 * 1024 * 1024


class Prompts:
    """Builds the prompts of runs. Reads everything anew each time: a run's state is in the store, nowhere else."""

    def __init__(self, database: Database, files: Files, sessions: Sessions, limits: PromptLimits) -> None:
        self._database = database
        self._files = files
        self._sessions = sessions
        self._limits = limits

    async def build(self, run: Run, code_seconds: float) -> ModelRequest:
        """The next model call of a run."""
        strategy = run.truncation_strategy
        newest = strategy.last_messages if strategy.type is TruncationType.LAST_MESSAGES else None
        history, done = await self._database.read(
            lambda connection: (
                messages.list_for_prompt(connection, run.project, run.thread_id, run.id, newest),
                steps.list_of_run(connection, run.project, run.id),
            )
        )
        said = {message.id: message for message in history}
        tail = [part for step in done for part in self._step(step, said)]
        head = [SystemMessage(text)] if (text := await self._system_text(run)) else []
        earlier = [await self._message(run.project, message) for message in history if message.run_id != run.id]
        used = used_so_far(done)
        budget = None
        if run.max_prompt_tokens is not None:
            budget = run.max_prompt_tokens - used.prompt_tokens - estimate_prompt([*head, *tail], run.tools)
        return ModelRequest(
            model=run.model,
            messages=(*head, *_fit(earlier, budget), *_join_turns(tail)),
            tools=run.tools,
            tool_choice=_choice(run, done),
            parallel_tool_calls=run.parallel_tool_calls,
            temperature=run.temperature,
            top_p=run.top_p,
            response_format=run.response_format,
            reasoning_effort=run.reasoning_effort,
            max_completion_tokens=(
                None if run.max_completion_tokens is None else run.max_completion_tokens - used.completion_tokens
            ),
            deadline=run.expire_time,
            code_seconds=code_seconds,
        )

    async def _system_text(self, run: Run) -> str:
        parts = [run.instructions] if run.instructions else []
        if any(isinstance(tool, CodeInterpreterTool) for tool in run.tools):
            parts.append(await self._manifest(run))
        return "\n\n".join(part for part in parts if part)

    async def _manifest(self, run: Run) -> str:
        """The files that code will find, so that no call is wasted on looking for them."""
        found: list[File] = []
        for file_id in run.tool_resources.code_interpreter_file_ids:
            try:
                found.append(await self._files.get(run.project, file_id))
            except FileNotFound:
                continue  # opening the session reports it, if code is run at all
        if not found:
            return ""
        names = self._sessions.plan_names(run.thread_id, found)
        lines = [
            f"- {DATA_DIRECTORY}/{names[file.id]} ({file.media_type}, {file.size_bytes} bytes, id {file.id})"
            for file in found
        ]
        return "Files for the code interpreter:\n" + "\n".join(lines)

    async def _message(self, project: str, message: Message) -> PromptMessage:
        if message.role is MessageRole.ASSISTANT:
            return AssistantMessage(text=_text_of(message))
        parts: list[UserPart] = []
        for content in message.content:
            match content:
                case TextContent():
                    parts.append(TextPart(content.value))
                case RefusalContent():
                    parts.append(TextPart(content.refusal))
                case ImageUrlContent():
                    parts.append(ImageUrl(content.url, content.detail))
                case ImageFileContent():
                    parts.append(await self._image(project, content))
        return UserMessage(tuple(parts))

    async def _image(self, project: str, content: ImageFileContent) -> UserPart:
        try:
            file, chunks = await self._files.open(project, content.file_id)
        except FileNotFound:
            return TextPart(f"[the image {content.file_id} was deleted]")
        if file.size_bytes > self._limits.image_bytes:
            return TextPart(f"[the image {file.filename} is too large to be shown: {file.size_bytes} bytes]")
        return ImageBytes(b"".join([chunk async for chunk in chunks]), file.media_type, content.detail)

    def _step(self, step: RunStep, said: dict[str, Message]) -> list[PromptMessage]:
        """What a step of this run was, as the model's own words and the answers it got."""
        if isinstance(step.details, MessageCreation):
            message = said.get(step.details.message_id)
            if message is None or message.status is not MessageStatus.COMPLETED:
                return []
            return [AssistantMessage(text=_text_of(message))]
        answered = [call for call in step.details.calls if _is_answered(call)]
        if not answered:
            return []
        asked = AssistantMessage(tool_calls=tuple(_prompt_call(call) for call in answered))
        return [asked, *(ToolMessage(call.id, self._answer(call)) for call in answered)]

    def _answer(self, call: ToolCall) -> str:
        if isinstance(call, FunctionCall):
            return call.output or ""
        assert call.result is not None, "only answered calls are shown"
        return render(
            call.outputs,
            call.result,
            state_lost=call.state_lost,
            limit_characters=self._limits.output_characters,
        )


def _is_answered(call: ToolCall) -> bool:
    return (call.result if isinstance(call, CodeInterpreterCall) else call.output) is not None


def _prompt_call(call: ToolCall) -> PromptToolCall:
    if isinstance(call, FunctionCall):
        return PromptToolCall(call.id, call.name, call.arguments_json)
    return PromptToolCall(call.id, code_interpreter.NAME, code_interpreter.arguments(call.input))


def _text_of(message: Message) -> str:
    texts = []
    for content in message.content:
        match content:
            case TextContent():
                texts.append(content.value)
            case RefusalContent():
                texts.append(content.refusal)
            case ImageFileContent():
                texts.append(f"[image {content.file_id}]")
            case ImageUrlContent():
                texts.append(f"[image {content.url}]")
    return "\n".join(text for text in texts if text)


def _choice(run: Run, done: list[RunStep]) -> ToolChoice:
    """A forced tool is forced until it was called, or the run would never answer."""
    # A step that failed was cut short by the end of a server: the model is asked for the same again.
    called = [
        call
        for step in done
        if step.status is StepStatus.COMPLETED and isinstance(step.details, ToolCalls)
        for call in step.details.calls
    ]
    choice = run.tool_choice
    was_called = {
        ToolChoiceMode.REQUIRED: bool(called),
        ToolChoiceMode.CODE_INTERPRETER: any(isinstance(call, CodeInterpreterCall) for call in called),
        ToolChoiceMode.FUNCTION: any(
            isinstance(call, FunctionCall) and call.name == choice.function_name for call in called
        ),
    }
    return ToolChoice() if was_called.get(choice.mode) else choice


def _join_turns(said: list[PromptMessage]) -> list[PromptMessage]:
    """Text and calls of one answer as one message: endpoints refuse two assistant messages in a row."""
    joined: list[PromptMessage] = []
    for message in said:
        last = joined[-1] if joined else None
        if isinstance(message, AssistantMessage) and isinstance(last, AssistantMessage) and not last.tool_calls:
            joined[-1] = AssistantMessage(text=last.text, tool_calls=message.tool_calls)
        else:
            joined.append(message)
    return joined


def _fit(history: list[PromptMessage], budget: int | None) -> list[PromptMessage]:
    """The newest messages that fit into this many tokens; the newest of all is always there."""
    if budget is None:
        return history
    kept: list[PromptMessage] = []
    for message in reversed(history):
        budget -= estimate_prompt([message])
        if kept and budget < 0:
            break
        kept.append(message)
    return kept[::-1]
