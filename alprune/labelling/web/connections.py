"""The HTTP server under the page, with bounds on what a client may take of it."""

import socket
import time
from typing import Any

# Of the well-kept servers waitress is pure Python, answers from threads (the queue has a lock) and
# ends cleanly; Flask is the smallest framework that comes with a test client.
import waitress
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError

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


def _guarded(begin: str) -> type[_Channel]:
    """Return a channel that reads a long body only if the path begins as it should."""

    class Parser(HTTPRequestParser):
        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            long = self.chunked or self.content_length > REQUEST_BYTES
            if long and not self.path.startswith(begin):
                raise ParsingError("the address is not right")

    class Channel(_Channel):
        parser_class = Parser

    return Channel


def listen(
    app: Any,
    host: str,
    port: int,
    sockets: dict[int, Any],
    body_bytes: int = REQUEST_BYTES,
    begin: str = "",
) -> Any:
    """Return a server that listens on an address; `run()` serves.

    A body of more than `body_bytes` is refused unread; a request that takes longer than
    10 seconds to arrive, or the connection that was quiet for longest where there are too many, is
    cut off.

    Args:
        app: WSGI application.
        host: A name or number of this machine; 0.0.0.0: all of them.
        port: 0: a free one.
        sockets: Gets the open ones, by number.
        body_bytes: Of a body, at most.
        begin: Of the path: of other requests a body of `REQUEST_BYTES` is read at most.

    Raises:
        OSError: The port is taken, or the address is not one of this machine.
    """
    [family, *_, (number, *_)] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if port:  # waitress's own socket would share a port that is taken, on Windows
        socket.create_server((number, port), family=family).close()
    server = waitress.create_server(
        app,
        map=sockets,
        host=number,  # a name of several addresses would make several servers
        port=port,
        threads=_THREADS,
        ident=None,
        connection_limit=2 * _CONNECTIONS + 8,  # never reached, or nobody would be let in
        max_request_body_size=body_bytes + 1,  # which is refused itself
        max_request_header_size=_HEADER_BYTES,
        channel_timeout=_IDLE_S,
        cleanup_interval=5,
    )
    server.channel_class = _Channel if not begin else _guarded(begin)
    return server
