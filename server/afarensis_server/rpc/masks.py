"""Which fields a request is about: those that are set, or those that the mask of an update names (AIP-134)."""

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from ..errors import UpdateMaskInvalid

#: Stands for every field that can be updated.
ALL = "*"
_MASK_FIELD = "update_mask"


def fields_to_create(request: Message) -> frozenset[str]:
    """The names of the fields that a request sets. Empty lists, maps and strings without presence are not set."""
    return frozenset(field.name for field, _ in request.ListFields())


def fields_to_change(request: Message, mask: FieldMask, id_field: str) -> frozenset[str]:
    """The names of the fields that an update request changes; every other field of it but ``id_field`` can be.

    An empty mask stands for the fields that are set; those named and not set are cleared. Raises UpdateMaskInvalid.
    """
    allowed = [field.name for field in request.DESCRIPTOR.fields if field.name not in (id_field, _MASK_FIELD)]
    if not mask.paths:
        return fields_to_create(request).intersection(allowed)
    for path in mask.paths:
        if path not in allowed and path != ALL:
            raise UpdateMaskInvalid(path, allowed)
    return frozenset(allowed if ALL in mask.paths else mask.paths)
