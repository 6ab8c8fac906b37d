"""Lets the event loop read a socket that is encrypted, which cannot be polled: a thread stands between."""

import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

_SIZE = 256 * 1024


def polled(encrypted: ssl.SSLSocket, close: Callable[[], object]) -> socket.socket:
    """A socket that carries the same and can be polled. The caller's to close; closing it ends the other one.

    ``close`` closes what else holds that, and must not be collected before.
    """
    ours, theirs = socket.socketpair()
    threading.Thread(target=_pump, args=(encrypted, theirs, close), name="sandbox-tls", daemon=True).start()
    return ours


def _pump(encrypted: ssl.SSLSocket, plain: socket.socket, close: Callable[[], object]) -> None:
    """Carry bytes both ways until one side ends. One thread for both, since OpenSSL takes no two at a time."""
    encrypted.setblocking(False)
    plain.setblocking(False)
    to_plain, to_encrypted = bytearray(), bytearray()
    try:
        while True:
            _wait(encrypted, plain, to_plain, to_encrypted)
            with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while len(to_plain) < _SIZE:
                    if not (data := encrypted.recv(_SIZE)):
                        return
                    to_plain += data
            with suppress(BlockingIOError):
                if len(to_encrypted) < _SIZE:
                    if not (data := plain.recv(_SIZE)):
                        return
                    to_encrypted += data
            with suppress(BlockingIOError):
                del to_plain[: plain.send(to_plain)]
            with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while to_encrypted:
                    del to_encrypted[: encrypted.send(to_encrypted[:_SIZE])]
    except OSError:
        return  # closing both tells the two sides
    finally:
        plain.close()
        close()
        encrypted.close()


def _wait(encrypted: ssl.SSLSocket, plain: socket.socket, to_plain: bytearray, to_encrypted: bytearray) -> None:
    """Wait until one of them can be used for what there is to do."""
    reading = [one for one, full in ((encrypted, to_plain), (plain, to_encrypted)) if len(full) < _SIZE]
    writing = [one for one, data in ((encrypted, to_encrypted), (plain, to_plain)) if data]
    if not (encrypted in reading and encrypted.pending()):
        select.select(reading, writing, [])
