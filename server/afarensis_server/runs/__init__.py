"""Runs: the engine that lets a model answer on a thread, and what clients may do with a run."""
