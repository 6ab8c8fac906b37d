"""What all sections share: their shape, and sizes."""

from typing import Annotated

from pydantic import BaseModel, ByteSize, ConfigDict, Field

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Bytes = Annotated[ByteSize, Field(gt=0)]


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)
