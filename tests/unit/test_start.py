"""What a server does not do before it is asked to."""

import subprocess
import sys


def imported_by(code: str, *names: str) -> set[str]:
    """Which of these modules a program imports."""
    code = f"import sys\n{code}\nprint(*({set(names)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_only_some_servers_use_is_not_imported_by_all() -> None:
    """SDKs of models take up to a second of every start, the engine's and Alembic a tenth each."""
    assert imported_by("import afarensis_server.app", "openai", "anthropic", "docker", "alembic") == set()


def test_database_that_is_up_to_date_takes_no_alembic() -> None:
    code = """
import asyncio, pathlib, tempfile
from afarensis_server.store.database import Database

async def open_twice():
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            async with Database(f"sqlite:///{directory}/a.db"):
                print("alembic" in sys.modules)
                for name in [name for name in sys.modules if name.partition(".")[0] == "alembic"]:
                    del sys.modules[name]

asyncio.run(open_twice())
"""
    assert imported_by(code) == {"True", "False"}
