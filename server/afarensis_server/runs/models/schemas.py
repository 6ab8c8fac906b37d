"""JSON Schemas that clients gave, for requests."""

import json

from ...domain.runs import RunErrorCode
from .protocol import ModelError, ModelErrorReason


def schema_of(schema_json: str, what: str) -> object:
    """The schema as JSON; raises ModelError when it is not. ``what``: like "the parameters of the function 'f'"."""
    try:
        return json.loads(schema_json)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            RunErrorCode.INVALID_PROMPT,
            ModelErrorReason.MODEL_REQUEST_REFUSED,
            f"JSON is expected as {what}, but it cannot be read: {error}. Correct it and create a new run.",
        ) from error
