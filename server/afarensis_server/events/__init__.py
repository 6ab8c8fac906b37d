"""The event log of each run: append, read from a cursor, wait for more."""
