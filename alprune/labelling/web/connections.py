"""The HTTP server under the page, with bounds on what a client may take of it."""

import socket
import time
from typing import Any

# Of the well-kept servers waitress is pure Python, answers from threads (the queue has a lock) and
# ends cleanly; Flask is the smallest framework that comes with a test client.
import waitress
from waitress.channel import HTTPChannel

REQUEST_BYTES = 2**17  # of a body: some thousand answers
_HEADER_BYTES = 2**14
_THREADS = 4
_CONNECTIONS = 48  # open at a time; a browser keeps six
_REQUEST_S = 10.0  # in which a request has to arrive
_IDLE_S = 30.0  # after which a connection without a request is closed


class _Channel(HTTPChannel):
    """A connection that is closed if its request does not arrive, or if another needs its place."""

    _began_s: float | None = None

    def __init__(self, server: Any, *args: Any, **options: Any) -> None:
        others = [c for c in server.active_channels.values() if not (c.requests or c.will_close)]
        if len(server.active_channels) >= _CONNECTIONS and others:
            # Closed by the loop, as soon as it comes round to it.
            min(others, key=lambda channel: channel.last_activity).will_close = True
        super().__init__(server, *args, **options)

    def readable(self) -> bool:
        """Tell the loop whether to read on; it asks about every second."""
        if self.request is None:
            self._began_s = None
        elif self._began_s is None:
            self._began_s = time.monotonic()
        elif time.monotonic() - self._began_s > _REQUEST_S:
            self.will_close = True
        return bool(super().readable())


def listen(app: Any, host: str, port: int, sockets: dict[int, Any]) -> Any:
    """Return a server that listens on an address; `run()` serves.

    A body of more than `REQUEST_BYTES` is refused unread; a request that takes longer than
    10 seconds to arrive, or the connection that was quiet for longest where there are too many, is
    cut off.

    Args:
        app: WSGI application.
        host: A name or number of this machine; 0.0.0.0: all of them.
        port: 0: a free one.
        sockets: Gets the open ones, by number.

    Raises:
        OSError: The port is taken, or the address is not one of this machine.
    """
    [number, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
    server = waitress.create_server(
        app,
        map=sockets,
        host=number,  # a name of several addresses would make several servers
        port=port,
        threads=_THREADS,
        ident=None,
        connection_limit=2 * _CONNECTIONS + 8,  # never reached, or nobody would be let in
        max_request_body_size=REQUEST_BYTES + 1,  # which is refused itself
        max_request_header_size=_HEADER_BYTES,
        channel_timeout=_IDLE_S,
        cleanup_interval=5,
    )
    server.channel_class = _Channel
    return server


__all__ = ["REQUEST_BYTES", "listen"]
