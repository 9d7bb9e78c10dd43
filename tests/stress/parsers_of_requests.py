"""What fuzz.py feeds of what others send or hand over whole: HTTP requests, plans to rebuild by."""

import random
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from flask.testing import FlaskClient
from mutations import inside_json
from torch import nn

from alprune import Plan, build, rebuild
from alprune.labelling.web.access import Access
from alprune.labelling.web.app import make_app

BASE = "http://127.0.0.1:8000"
HTTP = [b"\n", b"\r\n", b"..", b"%2e%2e%2f", b"%00", b"/image/", b"/answer", b"?", b"-1", b"\xff"]
_TOKEN = re.compile("[A-Za-z-]+").fullmatch
DEEP = [b"[" * 8000, b'{"label": ' * 1500, b"[[[[[[[[" * 900 + b"]" * 7200]


def parts(words: list[bytes]) -> dict[str, tuple[Any, ...]]:
    """Return the arguments of each parser's Target by its name; `words` are JSON's."""
    channels = Plan("channels", (1, 28, 28), {"fc1": (0, 2)}, {"fc1": 300})
    widths = Plan.of_widths((3, 8, 8), {"0": (3, 2), "1": (2, 2), "2": (2, 3)})
    plans = [plan.to_json().encode() for plan in (channels, widths)]
    requests = [
        b'POST\nanswers\n{"labels": [{"number": 0, "label": "cat"}], "set_aside": [1]}',
        b'POST\nselected\n{"numbers": [0, 1]}',
        b'POST\nrename\n{"name": "bird", "to": "robin"}',
        b'POST\nkey\n{"name": "bird", "key": "b"}',
        b'POST\nanswers\n{"labels": [{"number": 0, "label": null}], "fresh": true, "review": null}',
        b"POST\nleave\n{}",
        b"POST\nundo\n{}",
        b'POST\njoin\n{"token": "x", "name": "anna"}',
        b"GET\nreview?from=1&order=suspect&class=cat\n",
        b"GET\nimage/0\n",
        b"GET\nstate\n",
        b"POST\tContent-Type: application/json; charset=x\tContent-Length: -1\nanswers\n{}",
        b"GET\tHost: 127.0.0.1:8000\tCookie: alprune=x; alprune=y\tOrigin: null\nstate\n",
        b"GET\tRange: bytes=5-2\tIf-None-Match: W/x\tTransfer-Encoding: chunked\nimage/0\n",
    ]
    return {
        "rebuilt plan": (plans, [*words, b"4700", b"2147483647", b"65536"], _rebuilt, inside_json),
        "request": (requests, [*words, *HTTP, *DEEP], _requested, _inside_request),
    }


def _rebuilt(path: Path) -> object:
    plan = Plan.from_json(path.read_text(encoding="latin-1"))
    if plan.kind == "widths":
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        return rebuild(nn.Sequential(*layers), plan)
    return rebuild(build("lenet-300-100", 10), plan, None if plan.kind == "channels" else {})


def _inside_request(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Change the JSON and leave method and address as they are."""
    *head, body = content.split(b"\n", 2)
    return b"\n".join([*head, inside_json(body, words, rng)]) if len(head) == 2 else content


def _requested(path: Path) -> object:
    """Send a request; the page may refuse it, in JSON, but not fail.

    Its first line is the method and any headers, tabs between them.
    """
    first, _, rest = path.read_bytes().decode("latin-1").partition("\n")
    address, _, body = rest.partition("\n")
    method, *given = first.replace("\r", "").split("\t")
    pairs = (line.partition(":")[::2] for line in given)
    headers = {name.strip(): value.strip() for name, value in pairs if _TOKEN(name.strip())}
    place, _, query = f"/{address}".partition("?")  # of any form, as a server hands it on
    answer = _client().open(
        base_url=BASE,
        environ_overrides={"PATH_INFO": unquote(place, "latin-1"), "QUERY_STRING": query},
        method="POST" if method == "POST" else "GET",
        data=body.encode("latin-1"),
        headers={"Content-Type": "application/json"} | headers,
    )
    if answer.status_code >= 500:
        raise RuntimeError(f"{answer.status_code}: {answer.text[-300:]}")
    return answer.status_code


class _Anything(SimpleNamespace):
    """Stands for the queue and the overview: takes every call and knows no image."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None if name == "query" else {}


@cache
def _client() -> FlaskClient:
    access = Access()
    access.serve_at(8000)
    app = make_app(_Anything(), _Anything(), lambda path: (b"", "image/png"), access)  # type: ignore[arg-type]
    app.config["PROPAGATE_EXCEPTIONS"] = False
    client = app.test_client()
    client.post("/join", base_url=BASE, json={"token": access.token, "name": ""})
    return client
