"""What a server does not do before it is asked to."""

import subprocess
import sys


def test_sdks_of_models_are_imported_with_the_first_endpoint_that_needs_one() -> None:
    """Each takes up to a second of every start."""
    code = "import sys, afarensis_server.app; print(sorted({'openai', 'anthropic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
