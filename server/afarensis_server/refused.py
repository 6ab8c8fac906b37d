"""Why the server does not start."""


class Refused(Exception):
    """The server does not start; the message says why and what to do."""


class Misconfigured(Refused):
    """A setting cannot be; the message names it."""
