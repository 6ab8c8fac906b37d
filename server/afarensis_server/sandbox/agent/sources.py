"""Which sources the image of the sandbox holds, and a digest by which image and server know that they fit.

As a program it prints the digest: ``python sources.py``.
"""

import hashlib
from pathlib import Path

#: Directories of ``sandbox`` that are in the image, below `HOME`, under the same relative paths.
PACKAGES = ("agent", "guest", "zygote", "observing")
HOME = "/opt/afarensis/afarensis_sandbox"
#: The label of the image that holds the digest.
LABEL = "afarensis.sources"


def digest(sandbox: Path = Path(__file__).parents[1]) -> str:
    """The digest of the sources below a directory."""
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((sandbox / package).glob("*.py")):
            found.update(f"{package}/{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


if __name__ == "__main__":
    print(digest())  # noqa: T201 - what it is for
