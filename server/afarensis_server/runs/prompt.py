"""Builds what the model is asked: instructions, the thread, and what this run did so far."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from ..clock import now
from ..domain.files import File
from ..domain.runs import (
    CodeInterpreterCall,
    FunctionCall,
    MessageCreation,
    Run,
    RunStep,
    StepStatus,
    ToolCalls,
    TruncationType,
)
from ..domain.threads import ImageFileContent, Message, MessageRole, MessageStatus
from ..domain.tools import CodeInterpreterTool, ToolChoice, ToolChoiceMode
from ..files.service import Files
from ..sessions.live import LiveSession
from ..sessions.service import Sessions
from ..store import files, messages, steps
from ..store.database import Database
from .budgets import used_so_far
from .citations import made_by
from .history import answered_calls, calls_of, is_answered, read_history
from .images import ImageCache, choose
from .manifest import describe, has_lost_session, read_manifest
from .models.protocol import (
    AssistantMessage,
    ImageBytes,
    ModelRequest,
    PromptMessage,
    SystemMessage,
)
from .models.usage import estimate_prompt
from .reading import Cut, Pictures, displayed, join_turns, message_read, text_of, turn_read

#: Tokens of a shortened prompt's history for each image in it, which costs about a quarter of that.
_TOKENS_OF_SHORT_PROMPT_PER_IMAGE = 4_000


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What of a run and its thread goes into a prompt."""

    #: Tokens of the thread's messages, roughly, the newest first; 0: no limit.
    history_tokens: int = 100_000
    #: Characters of one code interpreter call's output that the model reads; the middle of more is left out.
    output_characters: int = 20_000
    #: Steps of calls of earlier runs, and the characters of the code and of the output of a call of theirs.
    tool_turns: int = 3
    tool_turn_characters: int = 4_000
    #: Files that the model is told of by name.
    files: int = 50
    #: Images, the newest; bytes of one, and of all.
    images: int = 10
    image_bytes: int = 20 * 1024 * 1024
    images_bytes: int = 20 * 1024 * 1024
    #: Bytes of images that are kept for the next model call, of all runs together.
    cache_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Material:
    """What a prompt is made of, as the store has it."""

    system: str
    #: Messages, and steps of earlier runs, oldest first.
    history: list[Message | RunStep]
    #: The run's own steps, and its messages by id.
    done: list[RunStep]
    said: dict[str, Message]
    #: The images of all this, by id.
    images: dict[str, File]
    #: How its calls are cut, and how many images are shown.
    cut: Cut
    most_images: int


class Prompts:
    """Builds the prompts of runs. Reads everything anew each time: a run's state is in the store, nowhere else."""

    def __init__(self, database: Database, stored: Files, sessions: Sessions, limits: PromptLimits) -> None:
        self._database = database
        self._sessions = sessions
        self._limits = limits
        characters = limits.tool_turn_characters
        self._earlier = Cut(characters, characters, characters)
        self._images = ImageCache(stored, limits.cache_bytes)

    async def build(self, run: Run, code_seconds: float, history_tokens: int | None = None) -> ModelRequest:
        """The next model call of a run.

        ``history_tokens`` is less than usual when the model said that a prompt was too long for it: so many tokens of
        history, as many characters of each output, and an image for each few thousand, but one.
        """
        live = self._sessions.open_of_thread(run.thread_id)
        present = self._sessions.paths_of(run.thread_id)
        material = await self._database.read(
            lambda connection: self._read(connection, run, code_seconds, live, present, history_tokens)
        )
        pictures = await self._pictures(material)
        history: list[PromptMessage] = []
        for one in material.history:
            if isinstance(one, Message):
                history.append(message_read(one, pictures))
            else:
                history += turn_read(answered_calls(one, run), pictures, self._earlier)
        done = material.done
        used = used_so_far(done)
        return ModelRequest(
            model=run.model,
            messages=(*_head(material), *history, *join_turns(_tail(material, pictures))),
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
            code_seconds=code_seconds,
            deadline=run.expire_time,
        )

    # --- what the store has -------------------------------------------------------------------------------------------

    def _read(
        self,
        connection: Connection,
        run: Run,
        code_seconds: float,
        live: LiveSession | None,
        present: Collection[str],
        history_tokens: int | None,
    ) -> _Material:
        limits = self._limits
        done = steps.list_of_run(connection, run.project, run.id)
        has_spoken = any(isinstance(step.details, MessageCreation) for step in done)
        own = messages.list_of_run(connection, run.project, run.thread_id, run.id) if has_spoken else []
        cut, most_images = Cut(limits.output_characters), limits.images
        if history_tokens is not None:
            cut = Cut(min(limits.output_characters, history_tokens), answered=history_tokens)
            most_images = min(limits.images, max(1, history_tokens // _TOKENS_OF_SHORT_PROMPT_PER_IMAGE))
        before = _Material(
            system=self._system_text(connection, run, code_seconds, live, present, done),
            history=[],
            done=done,
            said={message.id: message for message in own},
            images={},
            cut=cut,
            most_images=most_images,
        )
        history = read_history(
            connection,
            run,
            tokens=self._history_budget(run, before, history_tokens),
            tool_turns=limits.tool_turns,
            cut=self._earlier,
        )
        wanted = set(_image_ids([*history, *done]))
        return replace(before, history=history, images=files.get_many(connection, run.project, wanted))

    def _system_text(
        self,
        connection: Connection,
        run: Run,
        code_seconds: float,
        live: LiveSession | None,
        present: Collection[str],
        done: Sequence[RunStep],
    ) -> str:
        parts = [run.instructions] if run.instructions else []
        if any(isinstance(tool, CodeInterpreterTool) for tool in run.tools):
            has_run_code = any(isinstance(call, CodeInterpreterCall) for step in done for call in calls_of(step))
            given = () if live is None else live.row.file_ids
            manifest = read_manifest(connection, run, given, set(made_by(done).files.values()), present)
            parts.append(
                describe(
                    manifest,
                    self._sessions.settings.limits if live is None else live.row.limits,
                    code_seconds=code_seconds,
                    output_characters=self._limits.output_characters,
                    most=self._limits.files,
                    # Its first transcript tells of it from then on.
                    session_lost=live is None and not has_run_code and has_lost_session(connection, run),
                )
            )
        return "\n\n".join(parts)

    def _history_budget(self, run: Run, before: _Material, history_tokens: int | None) -> int | None:
        """The tokens that are left for the thread's messages; None: as many as there are."""
        budgets = []
        if history_tokens is not None:
            budgets.append(history_tokens)
        elif self._limits.history_tokens and run.truncation_strategy.type is TruncationType.AUTO:
            budgets.append(self._limits.history_tokens)
        if run.max_prompt_tokens is not None:
            used = used_so_far(before.done).prompt_tokens + estimate_prompt(
                [*_head(before), *_tail(before, _unseen(before))], run.tools
            )
            budgets.append(max(0, run.max_prompt_tokens - used))
        return min(budgets) if budgets else None

    async def _pictures(self, material: _Material) -> Pictures:
        limits = self._limits
        newest = list(_image_ids([*material.history, *material.done]))[::-1]
        chosen, left_out = choose(
            newest,
            material.images,
            now(),
            most=material.most_images,
            image_bytes=limits.image_bytes,
            all_bytes=limits.images_bytes,
        )
        pictures: dict[str, ImageBytes | str] = {**left_out}
        for file in chosen:
            content = await self._images.content(file)
            deleted = f"[the image {file.id} was deleted]"
            pictures[file.id] = deleted if content is None else ImageBytes(content, file.media_type)
        return pictures


def _head(material: _Material) -> list[PromptMessage]:
    return [SystemMessage(material.system)] if material.system else []


def _unseen(material: _Material) -> Pictures:
    """As many of the run's own images as are shown, without their content."""
    newest = list(_image_ids(material.done))[::-1]
    return dict.fromkeys(newest[: material.most_images], ImageBytes(b"", "image/png"))


def _tail(material: _Material, pictures: Pictures) -> list[PromptMessage]:
    """What this run said and did so far, as the model's own words and the answers it got."""
    tail: list[PromptMessage] = []
    for step in material.done:
        if isinstance(step.details, ToolCalls):
            answered = [call for call in step.details.calls if is_answered(call)]
            tail += turn_read(answered, pictures, material.cut)
        else:
            message = material.said.get(step.details.message_id)
            if message is not None and message.status is MessageStatus.COMPLETED:
                tail.append(AssistantMessage(text=text_of(message)))
    return tail


def _image_ids(said: Sequence[Message | RunStep]) -> Iterator[str]:
    """The images that are to be seen in all this, in order."""
    for one in said:
        if isinstance(one, Message):
            if one.role is MessageRole.USER:
                yield from (part.file_id for part in one.content if isinstance(part, ImageFileContent))
        else:
            for call in calls_of(one):
                if isinstance(call, CodeInterpreterCall):
                    yield from displayed(call)


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
