import subprocess
import sys

SCRIPT = """
import gc, weakref
from afarensis_server import collector

class Ring:
    def __init__(self):
        self.itself = self

collector.rest()
made_by_the_start = [weakref.ref(Ring()) for _ in range(50_000)]
print(all(ring() is not None for ring in made_by_the_start))
collector.begin()
made_later = [weakref.ref(Ring()) for _ in range(50_000)]
# The youngest may not have been looked at yet.
print(sum(ring() is not None for ring in made_later) < 10_000)
gc.collect()
print(all(ring() is not None for ring in made_by_the_start), all(ring() is None for ring in made_later))
"""


def test_garbage_is_looked_for_among_what_comes_after_the_start() -> None:
    # In a process of its own: what is frozen there stays so.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
