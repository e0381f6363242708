"""The ceiling of R3: bare sockets that move the same bytes down and up, with the same digests and the same fold."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from contextlib import ExitStack

import numpy as np

from benchmarks.common import CpuMeter
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params, allocate


class RawFederation:
    """One server and ``count`` client processes.

    Args:
        params: What is sent down, sent up unchanged, and averaged.
        count: Number of clients.
    """

    def __init__(self, params: Params, count: int) -> None:
        self.params = params
        self._stack = ExitStack()
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        self._clients = [
            subprocess.Popen([sys.executable, "-m", "benchmarks.raw_sockets", str(port), str(params.nbytes)])
            for _ in range(count)
        ]
        self._sockets = [self._stack.enter_context(listener.accept()[0]) for _ in range(count)]
        self._buffer = allocate(params.nbytes)
        self.cpu = CpuMeter(client.pid for client in self._clients)

    def round(self) -> Params:
        """Down to every client, up from every client, one after the other, digested and folded."""
        down = hashlib.sha256(self.params.buffer).digest()
        for connection in self._sockets:
            connection.sendall(down)
            connection.sendall(self.params.buffer)
        mean = WeightedMean(self.params.spec)
        for connection in self._sockets:
            receive_into(connection, self._buffer.data)
            if hashlib.sha256(self._buffer).digest() != down:
                raise RuntimeError("The raw federation corrupted its bytes.")
            mean.add(Params(self.params.spec, self._buffer), 1)
        return mean.result()

    def close(self) -> None:
        """Hang up and wait for the clients."""
        self._stack.close()
        for client in self._clients:
            client.wait()


def receive_into(connection: socket.socket, view: memoryview) -> bool:
    """Fill ``view``; whether the other side was still there."""
    done = 0
    while done < view.nbytes:
        count = connection.recv_into(view[done:])
        if count == 0:
            return False
        done += count
    return True


def client(port: int, nbytes: int) -> None:
    """Take the bytes, check them, send a copy back, until the server hangs up."""
    digest, buffer = bytearray(32), np.empty(nbytes, np.uint8)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while receive_into(connection, memoryview(digest)) and receive_into(connection, buffer.data):
            if hashlib.sha256(buffer).digest() != digest:
                raise RuntimeError("The raw federation corrupted its bytes.")
            hashlib.sha256(buffer).digest()  # a node digests what it sends, too
            connection.sendall(buffer.data)


if __name__ == "__main__":
    client(int(sys.argv[1]), int(sys.argv[2]))
