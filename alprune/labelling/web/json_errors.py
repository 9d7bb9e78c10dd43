"""What a server answers where a request cannot be met."""

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from alprune.errors import AlpruneError, StoreError


def errors_as_json(app: Flask) -> None:
    """Let an application answer errors as JSON, `{"error": why}`; 507 where a disk is the cause."""

    @app.before_request
    def readable() -> tuple[Response, int] | None:
        try:
            request.query_string.decode()
        except UnicodeDecodeError:
            why = "what follows ? in the address is not UTF-8; write other letters as %C3%A9"
            return jsonify({"error": why}), 400
        return None

    @app.errorhandler(AlpruneError)
    def mendable(error: AlpruneError) -> tuple[Response, int]:
        return jsonify({"error": str(error)}), 507 if isinstance(error, StoreError) else 400

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        code = error.code or 500
        return jsonify({"error": f"{code} {error.name}"}), code
