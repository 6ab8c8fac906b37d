"""Looks at a session from outside of its interpreter: at its files and its processes.

Standard library alone, like ``guest``: the local driver does this in the server, the docker driver's agent in the
session's container.
"""
