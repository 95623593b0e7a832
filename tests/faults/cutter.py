"""A TCP proxy that cuts connections in the middle of what a client sends."""

import socket
import threading
from contextlib import suppress


class Cutter(threading.Thread):
    """Forwards to a port of this machine; cuts a connection after so many bytes from the client, while cuts are left.

    Args:
        target: port to forward to.
        after: bytes from the client before the cut.
    """

    def __init__(self, target: int, after: int) -> None:
        super().__init__(name="cutter", daemon=True)
        self.cuts_left = 0
        self.cuts = 0
        self._target, self._after = target, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        """Serve until closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, watched in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._forward, args=(source, sink, watched), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        # Closing alone does not wake up the thread that waits for one.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()

    def _forward(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        sent = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                sent += len(data)
                if watched and self.cuts_left and sent > self._after:
                    self.cuts_left -= 1
                    self.cuts += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        # The other direction has its own thread, which closes its own end.
        source.close()
