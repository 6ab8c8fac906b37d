"""The docker driver: sessions in containers, for hostile users and for hosts where the local driver may not run.

======================  ==============================================================================================
``driver``              the driver: finds the engine, opens sessions, counts them, ends them
``session``             one session; ``execution`` is one request to its interpreter
``container``           what a session takes up; ``shared.pool`` makes some ahead
``spec``, ``profile``   what a container is made of, and which system calls it may make
``connection``          the stream to a container's agent, which is hostile until proven otherwise; ``tls`` reads it
``engine``              the engine, asked by its SDK
``layers``              what of all this a session really has
======================  ==============================================================================================

Inside runs ``sandbox.agent``.
"""

from .settings import DockerSandboxSettings, InputMode

# The driver itself is imported from its module, by those who use it: the engine's SDK takes a tenth of a start.
__all__ = ["DockerSandboxSettings", "InputMode"]
