"""Limits of what clients send."""

from typing import Annotated

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt

from .base import KIB, MIB, Bytes, Section


class LimitsSection(Section):
    """Limits of what clients send; the defaults are the Assistants API's where it had one."""

    metadata_pairs: PositiveInt = 16
    """Pairs in the metadata of one object."""
    metadata_key_characters: PositiveInt = 64
    """Characters of a key of metadata."""
    metadata_value_characters: PositiveInt = 512
    """Characters of a value of metadata."""
    request_id_characters: Annotated[int, Field(ge=36, le=1_000)] = 128
    """Characters of a request id, which makes a call repeatable."""
    json_depth: Annotated[int, Field(ge=8, le=200)] = 64
    """Arrays and objects within one another in JSON: bodies of requests over HTTP, parameters of functions, schemas."""
    function_name_characters: PositiveInt = 64
    """Characters of the name of a function or of a response format."""
    reasoning_effort_characters: PositiveInt = 64
    """Characters of a reasoning effort, in the words of the model's provider."""
    code_bytes: Annotated[ByteSize, Field(ge=1 * KIB, le=2 * MIB)] = ByteSize(1 * MIB)
    """Bytes of the code of one execution in a session; at most 2 MiB."""
    temperature: PositiveFloat = 2.0
    """The highest sampling temperature; the lowest is 0."""
    name_characters: PositiveInt = 256
    """Characters of the name of an assistant."""
    description_characters: PositiveInt = 512
    """Characters of the description of an assistant."""
    instructions_characters: PositiveInt = 256_000
    """Characters of the instructions of an assistant or a run."""
    assistant_tools: PositiveInt = 128
    """Tools of one assistant."""
    run_tools: PositiveInt = 20
    """Tools that a run may name in place of its assistant's."""
    assistant_files: PositiveInt = 20
    """Files of one assistant for the code interpreter."""
    thread_files: PositiveInt = 20
    """Files of one thread for the code interpreter."""
    thread_messages: PositiveInt = 100_000
    """Messages of one thread."""
    messages_per_call: PositiveInt = 100
    """Messages that are created together with a thread or a run."""
    message_characters: PositiveInt = 256_000
    """Characters of a text in a message."""
    message_parts: PositiveInt = 100
    """Parts of the content of one message."""
    message_attachments: PositiveInt = 20
    """Files attached to one message."""
    image_url_characters: PositiveInt = 8_192
    """Characters of the address of an image."""
    image_bytes: Bytes = ByteSize(20 * MIB)
    """Bytes of an image in a message."""
    minimum_tokens: PositiveInt = 256
    """The smallest token budget of a run, of prompts and of completions."""
    tool_output_characters: PositiveInt = 512_000
    """Characters of one submitted tool output."""
