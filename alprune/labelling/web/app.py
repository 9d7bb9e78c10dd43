"""The page's server: its files, images by number, and requests in JSON."""

import hmac
from collections.abc import Set
from importlib.resources import files
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from alprune.errors import AlpruneError, StoreError
from alprune.labelling.web.connections import REQUEST_BYTES
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue

_MOST = 2_000  # images that one request may name
_FILES = {"page.css": "text/css", **dict.fromkeys(
    ("main.js", "common.js", "label.js", "grid.js", "review.js", "map.js"), "text/javascript"
)}  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def make_app(
    queue: LabelQueue, overview: Overview, previews: Previews, token: str, hosts: Set[str]
) -> Flask:
    """Make the application.

    Every address begins with the token, so that no other page, user or program that guesses the
    port can read or write here. A Host header other than the ones given is refused, too: by it a
    page whose name was made to lead to this machine (DNS rebinding) gives itself away.

    Args:
        queue: Hands out images and takes answers.
        overview: Answers for the grid, the review and the map.
        previews: Makes an image's bytes from a path that the queue knows.
        token: Random, of the URL.
        hosts: Allowed values of the Host header, as "127.0.0.1:8000".
    """
    app = Flask("alprune", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BYTES
    here = files("alprune.labelling.web")
    page = here.joinpath("page.html").read_text("utf-8")
    static = {name: here.joinpath("static", name).read_text("utf-8") for name in _FILES}

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
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/<token>/")
    def show(token: str) -> Response:
        return Response(page, mimetype="text/html")

    @app.get("/<token>/static/<name>")
    def file(token: str, name: str) -> Response:
        if name not in static:
            abort(404)
        return Response(static[name], mimetype=_FILES[name])

    @app.get("/<token>/state")
    def state(token: str) -> Response:
        return jsonify(queue.state())

    @app.get("/<token>/answered/<int:number>")
    def answered(token: str, number: int) -> Response:
        return jsonify(queue.described(number))

    @app.get("/<token>/<any(image, thumb):kind>/<int:number>")
    def image(token: str, kind: str, number: int) -> Response:
        query = queue.query(number)
        if query is None:
            abort(404)
        content, media = previews(query.path, small=kind == "thumb")
        return Response(content, mimetype=media)

    @app.get("/<token>/grid")
    def grid(token: str) -> Response:
        return jsonify(overview.grid(request.args.get("class", "")))

    @app.post("/<token>/selected")
    def selected(token: str) -> Response:
        return jsonify(overview.selected(_numbers(_sent(numbers=list)["numbers"])))

    @app.get("/<token>/review")
    def review(token: str) -> Response:
        start = request.args.get("from", 0, type=int)
        order = request.args.get("order", "suspect")
        return jsonify(overview.review(request.args.get("class", ""), order, max(0, start)))

    @app.get("/<token>/map")
    def show_map(token: str) -> Response:
        return jsonify(overview.map())

    @app.post("/<token>/answers")
    def answers(token: str) -> Response:
        sent = _sent(labels=list, set_aside=(list, type(None)))
        labels = _labels(sent["labels"])
        aside = _numbers(sent["set_aside"] or [])
        queue.answer(labels)
        if aside:
            queue.set_aside(aside)
            for name in {name for name in labels.values() if name is not None}:
                overview.passed(name, aside)
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

    @app.post("/<token>/rename")
    def rename(token: str) -> Response:
        queue.rename_class(**_sent(name=str, to=str))
        return jsonify(queue.state())

    @app.post("/<token>/remove")
    def remove(token: str) -> Response:
        queue.remove_class(_sent(name=str)["name"])
        return jsonify(queue.state())

    @app.post("/<token>/key")
    def key(token: str) -> Response:
        queue.assign_key(**_sent(name=str, key=str))
        return jsonify(queue.state())

    @app.errorhandler(AlpruneError)
    def mendable(error: AlpruneError) -> tuple[Response, int]:
        return jsonify({"error": str(error)}), 507 if isinstance(error, StoreError) else 400

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        code = error.code or 500
        return jsonify({"error": f"{code} {error.name}"}), code

    return app


def _sent(**kinds: Any) -> dict[str, Any]:
    """Return the fields of a request's JSON; one that is not as expected is refused."""
    try:
        sent = request.get_json()  # other content types are refused: a foreign form cannot send it
    except RecursionError:
        abort(400)
    if not isinstance(sent, dict) or not sent.keys() <= kinds.keys():
        abort(400)
    for name, kind in kinds.items():
        if not isinstance(sent.setdefault(name), kind) or isinstance(sent[name], bool):
            abort(400)
    return sent


def _numbers(sent: list[Any]) -> list[int]:
    if len(sent) > _MOST or not all(isinstance(n, int) and not isinstance(n, bool) for n in sent):
        abort(400)
    return sent


def _labels(sent: list[Any]) -> dict[int, str | None]:
    right = 0 < len(sent) <= _MOST and all(
        isinstance(entry, dict)
        and entry.keys() == {"number", "label"}
        and isinstance(entry["label"], str | None)
        for entry in sent
    )
    if not right:
        abort(400)
    numbers = _numbers([entry["number"] for entry in sent])
    return {number: entry["label"] for number, entry in zip(numbers, sent, strict=True)}


__all__ = ["make_app"]
