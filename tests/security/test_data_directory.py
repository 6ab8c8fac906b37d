"""The server's own files against other users of the host."""

from pathlib import Path

import pytest

from afarensis_server.claims import prepare
from afarensis_server.refused import Refused


def test_a_data_directory_that_is_there_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert prepare(tmp_path).stat().st_mode & 0o777 == 0o700


def test_an_open_directory_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(Refused, match="open to other users"):
        prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
