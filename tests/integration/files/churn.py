"""Uploads files and deletes others for as long as it lives, and tells of those it keeps. `test_crash` kills it."""

import asyncio
import sys
from pathlib import Path

from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files, UploadHead
from afarensis_server.store.database import Database


async def churn(files: Files, number: int) -> None:
    content = bytes([number % 3]) * 200_000
    while True:
        file = await files.create("default", UploadHead("x"), content)
        if number % 2:
            await files.delete("default", file.id)
        else:
            sys.stdout.write(file.id + "\n")
            sys.stdout.flush()


async def main(directory: Path) -> None:
    async with Database(f"sqlite:///{directory}/afarensis.db") as database, asyncio.TaskGroup() as tasks:
        files = Files(database, DirectoryBlobs(directory / "blobs"), FileLimits())
        for number in range(6):
            tasks.create_task(churn(files, number))


asyncio.run(main(Path(sys.argv[1])))
