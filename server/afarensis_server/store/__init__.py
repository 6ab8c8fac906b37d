"""Rows: tables, migrations, and the units of work that read and write them.

`database.Database` runs units of work, which are plain functions on a connection. The modules named after the values
(`assistants`, `threads`, `runs`, ...) hold the statements; each takes the project first and sees nothing beyond it.
SQL is SQLAlchemy Core throughout; what only SQLite needs is in `sqlite`.
"""
