"""The page stays reachable and small whatever others on this machine send to its port."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from flask import Flask, request
from waitress import wasyncore

from alprune.labelling.web import connections
from alprune.labelling.web.connections import REQUEST_BYTES, listen

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    app = Flask("test")

    @app.post("/length")
    def length() -> str:
        return str(len(request.get_data()))

    sockets: dict[int, object] = {}
    server = listen(app, HOST, 0, sockets)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server.effective_port
    server.trigger.pull_trigger(lambda: wasyncore.close_all(sockets))
    thread.join(10)
    server.task_dispatcher.shutdown(timeout=1)


def post(port: int, body: bytes, stated: int | None = None) -> bytes:
    with socket.create_connection((HOST, port), timeout=200) as client:
        head = f"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: {stated or len(body)}\r\n"
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # of a body that was not read
            while part := client.recv(4096):
                answer += part
        return answer


def test_a_port_that_is_taken_is_refused_whatever_waitress_would_do(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections.waitress, "create_server", None)
    with pytest.raises(OSError, match="in use"):
        listen(Flask("second"), HOST, int(port), {})


def test_a_body_within_the_bound_is_read(port: int) -> None:
    assert post(port, b"x" * REQUEST_BYTES).endswith(b"\r\n\r\n%d" % REQUEST_BYTES)


@pytest.mark.parametrize("stated", [REQUEST_BYTES + 1, 300 * 2**20, 2**62])
def test_a_larger_body_is_refused_before_it_is_read(port: int, stated: int) -> None:
    assert b" 413 " in post(port, b"", stated).split(b"\r\n")[0]


def test_a_body_of_unknown_length_is_bounded_too(port: int) -> None:
    with socket.create_connection((HOST, port), timeout=200) as client:
        client.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):  # closed while it still sends
            for _ in range(1000):
                client.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                time.sleep(0.001)


def test_a_long_header_is_refused(port: int) -> None:
    with socket.create_connection((HOST, port), timeout=200) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (REQUEST_BYTES + 8192) + b"\r\n\r\n")
        assert client.recv(4096).split(b" ")[1] == b"431"


def test_half_open_connections_do_not_keep_others_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REQUEST_S", 600.0)
    clients = [socket.create_connection((HOST, port), timeout=200) for _ in range(150)]
    try:
        for client in clients[:75]:
            client.sendall(b"POST /length HTTP/1.1\r\nHost:")
    except OSError:
        pass  # already closed in favour of later ones
    for _ in range(3):
        assert post(port, b"abc").endswith(b"3")
    for client in clients:
        client.close()


def test_a_request_that_trickles_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_REQUEST_S", 1.0)
    with socket.create_connection((HOST, port), timeout=200) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            while True:  # one byte at a time, never quiet for long
                client.sendall(b"x")
                time.sleep(0.05)
