"""`direct`: answers without a language model, by running the Python blocks of the last user message.

It is the embedded default, because no useful language model fits into a package. It learns what its code did from the
tool messages in the prompt, like any model, and keeps nothing between calls.
"""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from ...domain.executions import ExecutionStatus, FileChangeKind
from ...domain.runs import RunErrorCode, Usage
from ...domain.tools import CodeInterpreterTool, ResponseFormatType, ToolChoiceMode
from ...ids import call_id
from . import code_interpreter
from .protocol import (
    AssistantMessage,
    Finish,
    FinishReason,
    ModelError,
    ModelErrorReason,
    ModelEvent,
    ModelRequest,
    ModelUsage,
    PromptMessage,
    TextDelta,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from .transcript import Transcript, parse

#: The model's name.
NAME = "direct"

#: Words behind an opening fence that mark Python. Blocks without one are left alone: they may be data or output.
_LANGUAGES = frozenset({"python", "python3", "py"})
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n]*?)[ \t]*")

#: How a traceback ends: an exception's name, with its module or without, and what it says.
_ERROR = re.compile(r"[^\W\d][\w.]*(: .*)?")
#: Characters of that line which the first sentence repeats.
_ERROR_CHARACTERS = 200
#: What became of code that did not end by itself.
_FAILURES = {
    ExecutionStatus.ERROR: "ended with an error",
    ExecutionStatus.TIMEOUT: "ran too long and was stopped",
    ExecutionStatus.INTERRUPTED: "was interrupted",
    ExecutionStatus.OUT_OF_MEMORY: "used more memory than there is",
    ExecutionStatus.SESSION_LOST: "ended the interpreter",
}

#: How much of each block's output, and of an error, the answer repeats. All of it is in the run's steps.
_SHOWN_CHARACTERS = 2_000
#: Arguments and text are sent in pieces of about this many characters, so that clients see them grow.
_PIECE_CHARACTERS = 200

_INTRODUCTION = (
    "I am `direct`, the model that is built into this server. I am not a language model: I run the Python blocks of a "
    "message, one after another, and report what they did."
)
_HOW_TO_USE = (
    "Send me code in a block like this:\n\n```python\nprint(1 + 1)\n```\n\n"
    "For answers to anything else, connect the server to a language model: set AFARENSIS_OPENAI_BASE_URL (and "
    "AFARENSIS_OPENAI_API_KEY if the endpoint wants a key) to any OpenAI-compatible endpoint, and put the name of one "
    "of its models into the assistant's `model`."
)


class DirectModel:
    """Runs the fenced Python blocks of the last user message, one call each, and stops at the first that fails."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Call the interpreter with the next block, or report when there is none left.

        Raises ModelError for what it cannot do. Limits on tokens do not bind it: it uses none.
        """
        turn = _Turn.of(request.messages)
        _check(request, turn)
        can_run = request.tool_choice.mode is not ToolChoiceMode.NONE and any(
            isinstance(tool, CodeInterpreterTool) for tool in request.tools
        )
        if can_run and (code := turn.next_block()) is not None:
            for event in _call(code):
                yield event
            reason = FinishReason.TOOL_CALLS
        else:
            for piece in _pieces(_answer(turn, can_run)):
                yield TextDelta(piece)
            reason = FinishReason.STOP
        yield ModelUsage(Usage())
        yield Finish(reason)


@dataclass(frozen=True, slots=True)
class _Turn:
    """The blocks to run, and what those that ran did."""

    blocks: tuple[str, ...]
    #: Fenced blocks that do not say that they are Python.
    other_blocks: int
    done: tuple[Transcript, ...]

    @classmethod
    def of(cls, messages: Sequence[PromptMessage]) -> "_Turn":
        text, calls, results = "", list[str](), dict[str, str]()
        for message in messages:
            match message:
                case UserMessage():
                    text = message.text
                    calls.clear()
                case AssistantMessage(tool_calls=()):
                    # An answer of an earlier run: what comes behind it belongs to a new one.
                    calls.clear()
                case AssistantMessage():
                    calls += [call.id for call in message.tool_calls if call.name == code_interpreter.NAME]
                case ToolMessage():
                    results[message.call_id] = message.text
        blocks = list(fenced_blocks(text))
        python = tuple(code for language, code in blocks if language in _LANGUAGES)
        done = tuple(parse(results[call]) for call in calls if call in results)
        return cls(python, len(blocks) - len(python), done)

    @property
    def failed(self) -> bool:
        return any(transcript.status is not ExecutionStatus.OK for transcript in self.done)

    def next_block(self) -> str | None:
        return None if self.failed or len(self.done) >= len(self.blocks) else self.blocks[len(self.done)]


def _check(request: ModelRequest, turn: _Turn) -> None:
    """Refuse what only a language model can do, rather than do something else."""
    choice, wanted = request.tool_choice, request.response_format
    if wanted is not None and wanted.type is not ResponseFormatType.TEXT:
        raise _refused("it answers in words, not in the response_format of this run. Leave response_format out")
    if choice.mode is ToolChoiceMode.FUNCTION:
        raise _refused(
            f"it calls no functions, and the run's tool_choice is the function '{choice.function_name}'. Leave "
            "tool_choice at auto"
        )
    must_call = choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.CODE_INTERPRETER)
    has_interpreter = any(isinstance(tool, CodeInterpreterTool) for tool in request.tools)
    if must_call and (turn.next_block() is None or not has_interpreter):
        raise _refused(
            "the run's tool_choice demands a call, and it can only run Python blocks of the last message by the tool "
            "code_interpreter. Add a block and the tool, or leave tool_choice at auto"
        )


def _refused(why: str) -> ModelError:
    return ModelError(
        RunErrorCode.INVALID_PROMPT,
        ModelErrorReason.MODEL_REQUEST_REFUSED,
        f"The model '{NAME}' is no language model: {why}, or use a language model.",
    )


def fenced_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The fenced code blocks of a Markdown text: language (lower case, may be empty) and code.

    As in CommonMark, a fence closes with at least as many marks as it opened with, and a block without a closing fence
    goes to the end.
    """
    lines = iter(text.replace("\r\n", "\n").split("\n"))
    for line in lines:
        opening = _FENCE.fullmatch(line)
        if opening is None or (opening["fence"][0] == "`" and "`" in opening["info"]):
            continue
        fence, indent = opening["fence"], len(line) - len(line.lstrip(" "))
        body = []
        for inner in lines:
            closing = _FENCE.fullmatch(inner)
            if closing is not None and closing["fence"].startswith(fence) and not closing["info"]:
                break
            # As many spaces as the fence is indented by belong to the indentation of the whole block.
            body.append(re.sub(rf"^ {{0,{indent}}}", "", inner))
        language = re.match(r"[{.]*([\w+#-]*)", opening["info"].lower())
        code = "\n".join(body)
        if code.strip():
            yield (language[1] if language else "", code)


def _call(code: str) -> Iterator[ModelEvent]:
    first = True
    for piece in _pieces(code_interpreter.arguments(code)):
        if first:
            yield ToolCallDelta(0, call_id(), code_interpreter.NAME, piece)
        else:
            yield ToolCallDelta(0, arguments_json=piece)
        first = False


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARACTERS):
        yield text[start : start + _PIECE_CHARACTERS]


def _answer(turn: _Turn, can_run: bool) -> str:
    if turn.done:
        return _report(turn)
    if turn.blocks:
        reason = "this assistant has no code_interpreter tool, or this run does not allow it"
        return f"{_INTRODUCTION}\n\nI did not run the Python of your message: {reason}."
    if turn.other_blocks:
        return (
            f"{_INTRODUCTION}\n\nYour message has a code block, but it does not say that it is Python. "
            f"Begin it with ```python and I will run it."
        )
    return f"{_INTRODUCTION}\n\n{_HOW_TO_USE}"


def _report(turn: _Turn) -> str:
    parts = [_summary(turn)]
    for number, transcript in enumerate(turn.done, 1):
        name = f"Block {number}" if len(turn.blocks) > 1 else "The block"
        if transcript.status is None:
            parts.append(f"{name} was not run:\n\n{_quote(transcript.output)}")
        elif transcript.output:
            verb = "printed" if transcript.status is ExecutionStatus.OK else "ended with"
            parts.append(f"{name} {verb}:\n\n{_quote(transcript.output)}")
    files = _files(turn.done)
    if files:
        cited = "\n".join(f"- [{path.rpartition('/')[2]}](sandbox:{path})" for path in files)
        parts.append(f"{'Files' if len(files) > 1 else 'File'}:\n\n{cited}")
    return "\n\n".join(parts)


def _summary(turn: _Turn) -> str:
    total, ran = len(turn.blocks), len(turn.done)
    images = sum(transcript.images for transcript in turn.done)
    showed = f" {images} image{'s' if images > 1 else ''} came out." if images else ""
    if not turn.failed:
        what = "the Python block" if total == 1 else f"the {total} Python blocks"
        return f"I ran {what} of your message without an error.{showed}"
    how = _failure(turn.done[-1])
    if total == 1:
        return f"I ran the Python block of your message and it {how}.{showed}"
    left = total - ran
    rest = f" I did not run the {f'{left} blocks' if left > 1 else 'block'} behind it." if left > 0 else ""
    return f"I ran the Python blocks of your message in order, and block {ran} of {total} {how}.{rest}{showed}"


def _failure(transcript: Transcript) -> str:
    """What became of a block that failed, to stand behind its name."""
    if transcript.status is None:
        return "failed: the call was refused"
    if transcript.status is ExecutionStatus.ERROR and (error := _error(transcript.output)):
        return f"raised {error}"
    return _FAILURES[transcript.status]


def _error(output: str) -> str:
    """The first line of the error that a traceback ends with; empty when there is none, or a long one."""
    lines = output.split("\n")
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    # Behind the last frame, its code is indented and the error is not. An error alone has no frames.
    behind = lines[frames[-1] + 1 :] if frames else lines[-1:]
    error = next((line for line in behind if line and not line.startswith(" ")), "")
    return error.rstrip(".") if len(error) <= _ERROR_CHARACTERS and _ERROR.fullmatch(error) else ""


def _files(done: Sequence[Transcript]) -> list[str]:
    """The paths of the files that were written and are still there, in the order they were first written."""
    paths: dict[str, None] = {}
    for transcript in done:
        for change, path in transcript.files:
            if change is FileChangeKind.DELETED:
                paths.pop(path, None)
            else:
                paths[path] = None
    return list(paths)


def _quote(output: str) -> str:
    """The output in a fence that it cannot close: its end, where errors are, when it is long."""
    shown = output.strip("\n")
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"... (the beginning is in the run's steps)\n{shown[-_SHOWN_CHARACTERS:]}"
    longest = max((len(marks) for marks in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
