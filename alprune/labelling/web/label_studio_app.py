"""The HTTP side of the backend for Label Studio: health, setup, predict, webhook, versions."""

import contextlib
import hmac
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request

from alprune.data import atomic_io
from alprune.data.safe_io import read_whole
from alprune.errors import StoreError
from alprune.labelling.question_files import INTERFACE, interface
from alprune.labelling.web.json_errors import errors_as_json
from alprune.labelling.web.label_studio import LabelStudio, read_control
from alprune.labelling.web.previews import Previews

PORT = 9090  # where Label Studio expects backends
POOL_TASKS = "label-studio-all.json"
BODY_BYTES = 2**28  # it sends all tasks of a project at once
_TOKEN = "label-studio.token"
_TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{24}")


def token_of(folder: Path) -> str:
    """Return the token of a folder, the same at every start: Label Studio remembers the address.

    Raises:
        StoreError: It cannot be written.
    """
    path = folder / _TOKEN
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = read_whole(path, 100).decode().strip()
        if _TOKEN_FORM.fullmatch(known):
            return known
    token = secrets.token_urlsafe(18)
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    return token


def write_tasks(folder: Path, backend: LabelStudio) -> Path:
    """Write the tasks of all images without a label, to be imported, and the interface.

    Raises:
        StoreError: They cannot be written.
        DataError: The images cannot be listed.
    """
    path = folder / POOL_TASKS
    try:
        atomic_io.replace(path, json.dumps(backend.tasks(), ensure_ascii=False))
        atomic_io.replace(folder / INTERFACE, interface(backend.classes))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def make_backend(backend: LabelStudio, previews: Previews, token: str) -> Flask:
    """Make the application.

    Every address begins with the token. Label Studio's server calls it, and its page shows the
    images.

    Args:
        backend: Answers.
        previews: Makes an image's bytes from its path.
        token: Of the URL.
    """
    app = Flask("alprune for Label Studio", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES

    @app.before_request
    def guard() -> None:
        given = (request.view_args or {}).get("token", "")
        if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode()):
            abort(403)

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/<token>/")
    @app.get("/<token>/health")
    def health(token: str) -> Response:
        return jsonify({"status": "UP", "model_class": "alprune"})

    @app.post("/<token>/setup")
    def setup(token: str) -> Response:
        read_control(_text(_sent().get("schema")))
        return jsonify({"model_version": backend.version})

    @app.post("/<token>/predict")
    def predict(token: str) -> Response:
        sent = _sent()
        tasks = sent.get("tasks")
        if not isinstance(tasks, list):
            abort(400)
        results = backend.predict(tasks, _text(sent.get("label_config")))
        return jsonify({"results": results, "model_version": backend.version})

    @app.post("/<token>/webhook")
    def webhook(token: str) -> tuple[Response, int]:
        return jsonify({"taken": backend.hear(_sent())}), 201

    @app.post("/<token>/train")
    def train(token: str) -> tuple[Response, int]:
        return jsonify({}), 201  # the learner learns by itself

    @app.get("/<token>/versions")
    def versions(token: str) -> Response:
        return jsonify({"versions": [backend.version]})

    @app.get("/<token>/tasks.json")
    def tasks(token: str) -> Response:
        return jsonify(backend.tasks())

    @app.get("/<token>/image")
    def image(token: str) -> Response:
        content, media = previews(request.args.get("path", ""))
        response = Response(content, mimetype=media)
        response.headers["Access-Control-Allow-Origin"] = "*"  # the token is the permission
        return response

    errors_as_json(app)
    return app


def _sent() -> dict[str, Any]:
    try:
        sent = request.get_json()
    except RecursionError:
        abort(400)
    if not isinstance(sent, dict):
        abort(400)
    return sent


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
