"""The page's server: one HTML file, images by number, and a handful of requests in JSON."""

import base64
import hashlib
import hmac
import re
from collections.abc import Set
from importlib.resources import files
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from alprune.errors import AlpruneError, StoreError
from alprune.labelling.web.connections import REQUEST_BYTES
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue


def make_app(queue: LabelQueue, previews: Previews, token: str, hosts: Set[str]) -> Flask:
    """Make the application.

    Every address begins with the token, so that no other page, user or program that guesses the
    port can read or write here. A Host header other than the ones given is refused, too: by it a
    page whose name was made to lead to this machine (DNS rebinding) gives itself away.

    Args:
        queue: Hands out images and takes answers.
        previews: Makes an image's bytes from a path that the queue knows.
        token: Random, of the URL.
        hosts: Allowed values of the Host header, as "127.0.0.1:8000".
    """
    app = Flask("alprune", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BYTES
    page = files("alprune.labelling.web").joinpath("page.html").read_text("utf-8")
    policy = content_policy(page)

    @app.before_request
    def guard() -> None:
        given = (request.view_args or {}).get("token", "")
        if request.host not in hosts or not hmac.compare_digest(given.encode(), token.encode()):
            abort(403)
        origin = request.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in hosts:
            abort(403)

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/<token>/")
    def show(token: str) -> Response:
        return Response(page, mimetype="text/html")

    @app.get("/<token>/state")
    def state(token: str) -> Response:
        return jsonify(queue.state())

    @app.get("/<token>/image/<int:number>")
    def image(token: str, number: int) -> Response:
        query = queue.query(number)
        if query is None:
            abort(404)
        content, kind = previews(query.path)
        return Response(content, mimetype=kind)

    @app.post("/<token>/answer")
    def answer(token: str) -> Response:
        sent = _sent(number=int, label=(str, type(None)))
        queue.answer(sent["number"], sent["label"])
        return jsonify(queue.state())

    @app.post("/<token>/undo")
    def undo(token: str) -> Response:
        _sent()
        queue.undo()
        return jsonify(queue.state())

    @app.post("/<token>/class")
    def add_class(token: str) -> Response:
        queue.add_class(_sent(name=str)["name"])
        return jsonify(queue.state())

    @app.errorhandler(AlpruneError)
    def mendable(error: AlpruneError) -> tuple[Response, int]:
        return jsonify({"error": str(error)}), 507 if isinstance(error, StoreError) else 400

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        code = error.code or 500
        return jsonify({"error": f"{code} {error.name}"}), code

    return app


def content_policy(page: str) -> str:
    """Return a Content-Security-Policy that allows the page's own script and style, by hash."""

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _sent(**kinds: Any) -> dict[str, Any]:
    """Return the fields of a request's JSON; one that is not as expected is refused."""
    try:
        sent = request.get_json()  # no other content type: a foreign form cannot send this one
    except RecursionError:
        abort(400)
    if not isinstance(sent, dict) or sent.keys() != kinds.keys():
        abort(400)
    for name, kind in kinds.items():
        if not isinstance(sent[name], kind) or isinstance(sent[name], bool):
            abort(400)
    return sent


__all__ = ["content_policy", "make_app"]
