"""What a model is told of the code interpreter before its first call: what is there, what it may use, what was lost.

What this run's own code made is left out: its transcripts tell of that, and a text that stays the same from call to
call can be cached by the model's provider.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ..domain.files import File
from ..domain.runs import Run
from ..domain.sessions import SessionLimits
from ..sandbox.driver import DATA_DIRECTORY
from ..sessions.checkpoint import lay_out
from ..store import files, sessions
from .models.transcript import one_line


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that code will find, by its absolute path. ``is_input``: as it was given, code has not changed it."""

    path: str
    file: File
    is_input: bool


def read_files(connection: Connection, run: Run, more_ids: Sequence[str], made: Collection[str]) -> list[DataFile]:
    """The files below /mnt/data of a run's thread: inputs as they were given, then what code made, newest first.

    ``more_ids`` are inputs that the open session has besides the run's, ``made`` the files of the run's own code.
    """
    wanted = list(dict.fromkeys((*run.tool_resources.code_interpreter_file_ids, *more_ids)))
    stored = files.get_many(connection, run.project, wanted)
    layout = lay_out(connection, run.project, run.thread_id, [stored[each] for each in wanted if each in stored])
    found = [
        DataFile(f"{DATA_DIRECTORY}/{path}", file, is_input=layout.inputs.get(path) == file.id)
        for path, file in layout.placed.items()
        if file.id not in made or path in layout.inputs
    ]
    found.sort(key=lambda each: each.path)
    found.sort(key=lambda each: each.file.id, reverse=True)
    order = {file_id: number for number, file_id in enumerate(wanted)}
    found.sort(key=lambda each: order[each.file.id] if each.is_input else len(order))
    return found


def has_lost_session(connection: Connection, run: Run) -> bool:
    """Whether the thread had a session whose variables its next one will not have. For threads without an open one."""
    return sessions.exists_for_thread(connection, run.project, run.thread_id)


def describe(
    found: Sequence[DataFile],
    limits: SessionLimits,
    *,
    code_seconds: float,
    output_characters: int,
    most: int,
    session_lost: bool,
) -> str:
    """The text for the model; ``most`` files are named."""
    cores = f"{limits.cpu_cores:g} CPU core{'' if limits.cpu_cores == 1 else 's'}"
    allowed = (
        f"{code_seconds:g} seconds per call, {size_in_words(limits.memory_bytes)} of memory, {cores}, "
        f"{size_in_words(limits.disk_bytes)} of new files; you read up to {output_characters:,} characters of a call's "
        "output"
    )
    parts = [f"Code interpreter: Python runs in {DATA_DIRECTORY}, without network. Limits: {allowed}."]
    if found:
        lines = [_line(each) for each in found[:most]]
        if len(found) > most:
            lines.append(f"- and {len(found) - most:,} more")
        parts.append("\n".join([f"Files in {DATA_DIRECTORY}:", *lines]))
    else:
        parts.append(f"There are no files in {DATA_DIRECTORY}.")
    if session_lost:
        parts.append(
            "The Python session of earlier calls has ended: its variables, imports and functions are gone, the files "
            "are still there."
        )
    return "\n\n".join(parts)


def size_in_words(size_bytes: int) -> str:
    """A size as people say it, to three digits at most: ``61 bytes``, ``1.21 KB``, ``1 GB``."""
    if size_bytes < 1_000:
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    power = next(power for power in (1, 2, 3) if power == 3 or size_bytes < 999.5 * 1024**power)
    size = size_bytes / 1024**power
    return f"{size:,.0f} GB" if size >= 999.5 else f"{size:.3g} {'KMG'[power - 1]}B"


def _line(each: DataFile) -> str:
    origin = f"id {each.file.id}" if each.is_input else "made by code"
    about = f"{each.file.media_type}, {size_in_words(each.file.size_bytes)}, {origin}"
    return f"- {one_line(each.path)} ({about})"
