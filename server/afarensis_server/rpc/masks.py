"""Field masks of updates (AIP-134), as the contract defines them."""

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from ..errors import UpdateMaskInvalid

#: Stands for every field that can be updated.
ALL = "*"
_MASK_FIELD = "update_mask"


def fields_to_change(request: Message, mask: FieldMask, id_field: str) -> frozenset[str]:
    """The names of the fields that an update request changes; every other field of it but ``id_field`` can be.

    An empty mask stands for the fields that are set; those named and not set are cleared. Raises UpdateMaskInvalid.
    """
    fields = request.DESCRIPTOR.fields
    allowed = [field.name for field in fields if field.name not in (id_field, _MASK_FIELD)]
    if not mask.paths:
        # ListFields leaves out what has no presence and its default value: empty lists and maps.
        return frozenset(field.name for field, _ in request.ListFields() if field.name in allowed)
    if ALL in mask.paths and len(mask.paths) == 1:
        return frozenset(allowed)
    _check(mask.paths, allowed)
    return frozenset(mask.paths)


def _check(paths: Sequence[str], allowed: Sequence[str]) -> None:
    for path in paths:
        if path not in allowed:
            raise UpdateMaskInvalid(path, allowed)
