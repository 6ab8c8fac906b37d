"""Assistants: a model with instructions, tools and files."""
