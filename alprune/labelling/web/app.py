"""The page's server: its files, images by number, and requests in JSON."""

from importlib.resources import files
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request

from alprune.labelling.web.access import Access
from alprune.labelling.web.connections import REQUEST_BYTES
from alprune.labelling.web.json_errors import errors_as_json
from alprune.labelling.web.leases import Client
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue

_MOST = 2_000  # images that one request may name
_FILES = {"page.css": "text/css", **dict.fromkeys(
    ("main.js", "common.js", "label.js", "grid.js", "review.js", "map.js", "join.js"),
    "text/javascript",
)}  # fmt: skip
_NONE = type(None)
_WINDOW_LETTERS = 40
_COOKIE_S = 30 * 86_400  # it is worth nothing once the server has ended
_ORIGIN_HINT = "If it is yours: start alprune label with --origin and the address in the browser."
_PUBLIC = ("join_page", "join", "file")  # what a browser gets that has not joined
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def make_app(queue: LabelQueue, overview: Overview, previews: Previews, access: Access) -> Flask:
    """Make the application.

    Args:
        queue: Hands out images and takes answers.
        overview: Answers for the grid, the review and the map.
        previews: Makes an image's bytes from a path that the queue knows.
        access: Decides which requests are served.
    """
    app = Flask("alprune", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BYTES
    here = files("alprune.labelling.web")
    page, joining = (here.joinpath(name).read_text("utf-8") for name in ("page.html", "join.html"))
    static = {name: here.joinpath("static", name).read_text("utf-8") for name in _FILES}

    @app.before_request
    def guard() -> Response | tuple[Response, int] | None:
        if not access.knows_host(request.host):
            return _refused(f"This server is not known as {request.host!r}. {_ORIGIN_HINT}")
        if not access.knows_origin(request.headers.get("Origin"), request.host):
            return _refused(f"The request comes from another page. {_ORIGIN_HINT}")
        g.session = access.session(request.cookies.get(access.cookie))
        if g.session is not None or request.endpoint in _PUBLIC:
            return None
        if request.path == "/" and request.method == "GET":
            return Response(joining, mimetype="text/html")
        return _refused(
            "This browser has not joined, or alprune label was started again. Open the address "
            "that it prints. Saved answers are safe."
        )

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/join")
    def join_page() -> Response:
        return Response(joining, mimetype="text/html")

    @app.post("/join")
    def join() -> Response | tuple[Response, int]:
        sent = _sent(token=str, name=str)
        value = access.join(sent["token"], sent["name"])
        if value is None:
            return _refused(
                "This address was used before, or is that of an earlier start. Open the one that "
                "alprune label prints in the terminal."
            )
        answer = jsonify({"joined": bool(value)})
        if value:
            secure = (request.headers.get("Origin") or "").startswith("https://")
            answer.set_cookie(
                access.cookie,
                value,
                max_age=_COOKIE_S,
                httponly=True,
                samesite="Strict",
                secure=secure,
            )
        return answer

    @app.get("/")
    def show() -> Response:
        return Response(page, mimetype="text/html")

    @app.get("/static/<name>")
    def file(name: str) -> Response:
        if name not in static:
            abort(404)
        return Response(static[name], mimetype=_FILES[name])

    @app.get("/state")
    def state() -> Response:
        return jsonify(queue.state(client()))

    @app.get("/answered/<int:number>")
    def answered(number: int) -> Response:
        return jsonify(queue.described(number, client()))

    @app.get("/<any(image, thumb):kind>/<int:number>")
    def image(kind: str, number: int) -> Response:
        query = queue.query(number)
        if query is None:
            abort(404)
        content, media = previews(query.path, query.content, small=kind == "thumb")
        return Response(content, mimetype=media)

    @app.get("/grid")
    def grid() -> Response:
        return jsonify(overview.grid(request.args.get("class", "")))

    @app.post("/selected")
    def selected() -> Response:
        return jsonify(overview.selected(_numbers(_sent(numbers=list)["numbers"])))

    @app.get("/review")
    def review() -> Response:
        start = request.args.get("from", 0, type=int)
        order = request.args.get("order", "suspect")
        return jsonify(overview.review(request.args.get("class", ""), order, max(0, start)))

    @app.get("/map")
    def show_map() -> Response:
        return jsonify(overview.map())

    @app.post("/answers")
    def answers() -> Response:
        sent = _sent(
            labels=list,
            set_aside=(list, _NONE),
            fresh=(bool, _NONE),
            review=(bool, _NONE),
            shown=(list, _NONE),
        )
        labels = _labels(sent["labels"])
        aside = _numbers(sent["set_aside"] or [])
        flags = {name: bool(sent[name]) for name in ("fresh", "review")}
        notice = queue.answer(labels, client(), **flags, shown=sent["shown"] or ())
        if aside:
            queue.set_aside(aside, client())
            for name in {name for name in labels.values() if name is not None}:
                overview.passed(name, aside)
        return jsonify(queue.state(client()) | {"notice": notice})

    @app.post("/leave")
    def leave() -> Response:
        _sent()
        queue.leave(client())
        return jsonify({})

    @app.post("/continue")
    def continue_() -> Response:
        _sent()
        queue.regardless = True
        return jsonify(queue.state(client()))

    @app.post("/undo")
    def undo() -> Response:
        _sent()
        queue.undo(client())
        return jsonify(queue.state(client()))

    @app.post("/class")
    def add_class() -> Response:
        queue.add_class(_sent(name=str)["name"], client())
        return jsonify(queue.state(client()))

    @app.post("/rename")
    def rename() -> Response:
        queue.rename_class(**_sent(name=str, to=str))
        return jsonify(queue.state(client()))

    @app.post("/remove")
    def remove() -> Response:
        queue.remove_class(_sent(name=str)["name"])
        return jsonify(queue.state(client()))

    @app.post("/key")
    def key() -> Response:
        queue.assign_key(**_sent(name=str, key=str))
        return jsonify(queue.state(client()))

    errors_as_json(app)
    return app


def client() -> Client:
    """Return who sends the request."""
    window = request.headers.get("X-Window", "")[:_WINDOW_LETTERS]
    return Client(g.session.key, g.session.user, f"{g.session.key} {window}")


def _refused(why: str) -> tuple[Response, int]:
    return jsonify({"error": why}), 403


def _sent(**kinds: Any) -> dict[str, Any]:
    """Return the fields of a request's JSON; one that is not as expected is refused."""
    try:
        sent = request.get_json()  # other content types are refused: a foreign form cannot send it
    except RecursionError:
        abort(400)
    if not isinstance(sent, dict) or not sent.keys() <= kinds.keys():
        abort(400)
    for name, kind in kinds.items():
        if not isinstance(sent.setdefault(name), kind):
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
