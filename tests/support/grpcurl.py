"""A stand-in for grpcurl, which no package index has: takes its command line, and has `buf curl` do the call.

AFARENSIS_COOKBOOK_TARGET is called in place of the address that the command line names.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BUF = Path(sysconfig.get_path("scripts")) / "buf"
#: buf's exit status is the gRPC code, shifted by this; grpcurl adds the code to 64.
_SHIFT, _BASE = 3, 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data")
    parser.add_argument("address")
    parser.add_argument("symbol", help="a method, or `list`")
    arguments = parser.parse_args()
    url = f"http://{os.environ['AFARENSIS_COOKBOOK_TARGET']}"
    buf = [str(_BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    if arguments.symbol == "list":
        command = [*buf, "--list-services", url]
    else:
        # Without -d, grpcurl sends an empty request to a method that takes one.
        command = [*buf, "--data", arguments.data or "{}", f"{url}/{arguments.symbol}"]
    called = subprocess.run(command, capture_output=True, text=True, check=False)
    if called.returncode == 0:
        if arguments.symbol == "list":
            sys.stdout.write(called.stdout)
        else:
            for document in documents(called.stdout):
                sys.stdout.write(json.dumps(_snake_case(document), indent=2, ensure_ascii=False) + "\n")
        return 0
    try:
        error = json.loads(called.stderr)
    except ValueError:
        sys.stderr.write(called.stderr)
        return 1
    code = "".join(word.capitalize() for word in error["code"].split("_"))
    sys.stderr.write(f"ERROR:\n  Code: {code}\n  Message: {error.get('message', '')}\n")
    return _BASE + (called.returncode >> _SHIFT)


def documents(text: str) -> Iterator[Any]:
    """The JSON documents of a text, one after another."""
    decoder = json.JSONDecoder()
    position = 0
    while (text := text[position:].lstrip()) != "":
        document, position = decoder.raw_decode(text)
        yield document


def _snake_case(value: Any) -> Any:
    """The names of fields as grpcurl writes them: the descriptors of a Python server have no other names."""
    match value:
        case dict():
            return {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", k): _snake_case(v) for k, v in value.items()}
        case list():
            return [_snake_case(item) for item in value]
        case _:
            return value


if __name__ == "__main__":
    sys.exit(main())
