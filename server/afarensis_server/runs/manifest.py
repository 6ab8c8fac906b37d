"""What a model is told of the code interpreter before its first call: what is there, what it may use, what was lost.

What this run's own code made is left out: its transcripts tell of that, and a text that stays the same from call to
call can be cached by the model's provider.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ..clock import now
from ..domain.files import File
from ..domain.runs import Run
from ..domain.sessions import SessionLimits
from ..files.lookup import find_files
from ..sandbox.driver import DATA_DIRECTORY
from ..sessions.checkpoint import lay_out
from ..store import sessions
from .models.transcript import one_line


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that code will find, by its absolute path. ``is_input``: as it was given, code has not changed it."""

    path: str
    file: File
    is_input: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """What code will find below /mnt/data, and the absolute paths of what it does not find there any more."""

    files: Sequence[DataFile]
    deleted: Sequence[str] = ()


def read_manifest(
    connection: Connection, run: Run, more_ids: Sequence[str], made: Collection[str], present: Collection[str]
) -> Manifest:
    """The files of a run's thread: inputs as they were given, then what code made, newest first.

    ``more_ids`` are inputs that the open session has besides the run's, ``made`` the files of the run's own code;
    ``present`` are the paths of what the open session has, also of files that were deleted since it was opened.
    """
    wanted = (*run.tool_resources.code_interpreter_file_ids, *more_ids)
    inputs = find_files(connection, run.project, wanted, now())
    layout = lay_out(connection, run.project, run.thread_id, list(inputs.values()))
    found = [
        DataFile(f"{DATA_DIRECTORY}/{path}", file, is_input=layout.inputs.get(path) == file.id)
        for path, file in layout.placed.items()
        if file.id not in made or path in layout.inputs
    ]
    found.sort(key=lambda each: each.path)
    found.sort(key=lambda each: each.file.id, reverse=True)
    order = {file_id: number for number, file_id in enumerate(inputs)}
    found.sort(key=lambda each: order[each.file.id] if each.is_input else len(order))
    deleted = [path for each in layout.deleted if (path := f"{DATA_DIRECTORY}/{each}") not in present]
    return Manifest(found, deleted)


def has_lost_session(connection: Connection, run: Run) -> bool:
    """Whether the thread had a session whose variables its next one will not have. For threads without an open one."""
    return sessions.exists_for_thread(connection, run.project, run.thread_id)


def describe(
    manifest: Manifest,
    limits: SessionLimits,
    *,
    code_seconds: float,
    output_characters: int,
    most: int,
    session_lost: bool,
) -> str:
    """The text for the model; ``most`` files are named, and as many that were deleted."""
    cores = f"{limits.cpu_cores:g} CPU core{'' if limits.cpu_cores == 1 else 's'}"
    allowed = (
        f"{code_seconds:g} seconds per call, {size_in_words(limits.memory_bytes)} of memory, {cores}, "
        f"{size_in_words(limits.disk_bytes)} of new files; you read up to {output_characters:,} characters of a call's "
        "output"
    )
    parts = [f"Code interpreter: Python runs in {DATA_DIRECTORY}, without network. Limits: {allowed}."]
    if manifest.files:
        lines = _listed([_line(each) for each in manifest.files], most)
        parts.append("\n".join([f"Files in {DATA_DIRECTORY}:", *lines]))
    else:
        parts.append(f"There are no files in {DATA_DIRECTORY}.")
    if manifest.deleted:
        lines = _listed([f"- {one_line(path)}" for path in manifest.deleted], most)
        parts.append("\n".join(["Files that were deleted and are not there any more:", *lines]))
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


def _listed(lines: Sequence[str], most: int) -> list[str]:
    more = [f"- and {len(lines) - most:,} more"] if len(lines) > most else []
    return [*lines[:most], *more]


def _line(each: DataFile) -> str:
    origin = f"id {each.file.id}" if each.is_input else "made by code"
    about = f"{each.file.media_type}, {size_in_words(each.file.size_bytes)}, {origin}"
    return f"- {one_line(each.path)} ({about})"
