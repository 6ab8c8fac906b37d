"""Projects: whose objects are whose."""

#: The project of every call, until keys exist that tell projects apart.
DEFAULT_PROJECT = "default"
