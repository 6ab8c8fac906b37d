"""What runs outside the server: the supervisor, the zygotes it starts, and the way of a child into its sandbox.

Standard library alone, and nothing of ``afarensis_server``: these modules are run by the guest environment's Python.
The server imports ``messages`` and ``syscalls`` from here, never the other way round.
"""
