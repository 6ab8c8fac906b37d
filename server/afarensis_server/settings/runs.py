"""How runs are worked on."""

from typing import Annotated

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt, model_validator

from .base import MIB, Bytes, Section


class RunsSection(Section):
    """How runs are worked on."""

    default_model: str = "direct"
    """The model of assistants that name none. `direct` needs no endpoint: it runs the code blocks it is given."""
    concurrent: PositiveInt = 200
    """Runs that are worked on at the same time; more wait."""
    per_project: Annotated[int, Field(ge=0)] = 0
    """Runs of one project that may be there at the same time, at work, waiting for a worker or for their client; more
    are refused with TENANT_RUN_LIMIT. 0: any number."""
    ttl_seconds: PositiveFloat = 600.0
    """How long a run may take until it expires, when its creator does not say."""
    max_ttl_seconds: PositiveFloat = 86_400.0
    """How long a run may take at most."""
    model_calls: PositiveInt = 100
    """Calls of the model in one run; a model that goes round in circles ends there."""
    lease_seconds: Annotated[float, Field(ge=5)] = 30.0
    """How long a worker may be silent until its run is taken up by another one."""
    cancel_grace_seconds: Annotated[float, Field(gt=0, le=60)] = 0.3
    """How long code of a run that is cancelled or expires may take to end by itself before it is killed."""
    history_tokens: Annotated[int, Field(ge=0)] = 100_000
    """Tokens of the thread's messages that the model reads, estimated, the newest first; 0: all of them. For runs that
    leave the choice to the server (truncation `auto`)."""
    prompt_output_characters: PositiveInt = 20_000
    """Characters of one execution's output that the model reads; the middle of more is left out."""
    prompt_tool_turns: Annotated[int, Field(ge=0)] = 3
    """Steps with code, or calls of functions, of a thread's earlier runs that the model reads again, so that it can say
    why it did what it did."""
    prompt_tool_turn_characters: PositiveInt = 4_000
    """Characters of the code, and of the output, of each call in those steps; the middle of more is left out."""
    prompt_files: Annotated[int, Field(ge=0)] = 50
    """Files below /mnt/data that the model is told of by name; of more it is told how many."""
    prompt_images: Annotated[int, Field(ge=0)] = 10
    """Images in one prompt: those of messages, and those that code showed; the newest are sent, the others named."""
    prompt_image_bytes: Bytes = ByteSize(20 * MIB)
    """Bytes of one image that is sent to the model."""
    prompt_images_bytes: Bytes = ByteSize(20 * MIB)
    """Bytes of all images in one prompt."""
    prompt_cache_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(64 * MIB)
    """Bytes of images that are kept in memory for the next model call, of all runs together."""

    @model_validator(mode="after")
    def _check_order(self) -> "RunsSection":
        if self.ttl_seconds > self.max_ttl_seconds:
            raise ValueError("ttl_seconds must not be more than max_ttl_seconds")
        return self
