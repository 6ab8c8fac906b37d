"""Afarensis: a self-hosted Assistants API with a real code interpreter."""

__version__ = "0.1.0"
