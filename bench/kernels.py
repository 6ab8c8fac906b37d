"""The peer: ipykernel, driven by jupyter_client's blocking client, in an environment and a process of its own.

    .bench/bin/python bench/kernels.py

takes one JSON object a line on standard input and answers each with one. It imports nothing of this repository.
"""

import itertools
import json
import queue
import subprocess
import sys
import time
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager

#: Seconds after which a kernel that says nothing counts as lost.
_PATIENCE = 120.0


class Kernels:
    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._kernels: dict[int, tuple[KernelManager, BlockingKernelClient]] = {}

    def open(self, code: str) -> dict[str, Any]:
        """Start a kernel and run its first cell."""
        start = time.perf_counter()
        manager = KernelManager()
        manager.start_kernel(stderr=subprocess.DEVNULL)
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=_PATIENCE)
        _execute(client, code)
        seconds = time.perf_counter() - start
        number = next(self._numbers)
        self._kernels[number] = manager, client
        return {"seconds": seconds, "kernel": number, "pid": manager.provisioner.pid}

    def execute(self, kernel: int, code: str, count: int) -> dict[str, Any]:
        """Run a cell again and again: the seconds of each, and the characters that the last one printed."""
        client = self._kernels[kernel][1]
        times, printed = [], 0
        for _ in range(count):
            start = time.perf_counter()
            printed = _execute(client, code)
            times.append(time.perf_counter() - start)
        return {"seconds": times, "printed": printed}

    def close(self, kernel: int) -> dict[str, Any]:
        manager, client = self._kernels.pop(kernel)
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        return {}

    def close_all(self) -> None:
        for kernel in list(self._kernels):
            self.close(kernel)


def _execute(client: BlockingKernelClient, code: str) -> int:
    """Run a cell until it is idle and has answered; the characters that it printed."""
    message_id = client.execute(code)
    printed = 0
    while True:
        message = client.get_iopub_msg(timeout=_PATIENCE)
        if message["parent_header"].get("msg_id") != message_id:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            printed += len(content["text"])
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            break
    while True:
        reply = client.get_shell_msg(timeout=_PATIENCE)
        if reply["parent_header"].get("msg_id") == message_id:
            break
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"])
    return printed


def _main() -> None:
    kernels = Kernels()
    for line in sys.stdin:
        request = json.loads(line)
        operation = getattr(kernels, request.pop("operation"))
        try:
            answer = operation(**request)
        except (RuntimeError, queue.Empty) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    kernels.close_all()


if __name__ == "__main__":
    _main()
