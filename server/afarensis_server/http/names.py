"""What fields are called on this wire, where the nouns call them as the contract of gRPC does."""

import re
from dataclasses import replace

from ..errors import FieldViolation

#: Patterns of what stands in a field's path, each with what stands there instead.
Names = tuple[tuple[str, str], ...]

#: On all paths.
COMMON: Names = (
    (r"^request_id$", "Idempotency-Key"),
    (r"(?<=\.function\.)parameters_json$", "parameters"),
    (r"(?<=\.json_schema\.)schema_json$", "schema"),
    # A text is one field here, be it a message's or that of one part.
    (r"(^|messages\[\d+\]\.)text$", r"\1content"),
    (r"(?<=\.text)\.value$", ""),
)
FILE_FORM: Names = ((r"^media_type$", "content_type"), (r"^ttl$", "expires_after[seconds]"))
UPLOAD: Names = ((r"^media_type$", "mime_type"), (r"^size_bytes$", "bytes"), (r"^ttl$", "expires_after.seconds"))


def named(violation: FieldViolation, names: Names) -> FieldViolation:
    """The same with the field's name on this wire."""
    field = violation.field
    for pattern, name in names:
        field = re.sub(pattern, name, field)
    return replace(
        violation, field=field, description=violation.description.replace(f"'{violation.field}'", f"'{field}'")
    )
