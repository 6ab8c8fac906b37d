"""Threads: conversations, their messages and their files."""
