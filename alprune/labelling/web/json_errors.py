"""What a server answers where a request cannot be met."""

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from alprune.errors import AlpruneError, StoreError


def errors_as_json(app: Flask) -> None:
    """Let an application answer errors as JSON, `{"error": why}`; 507 where a disk is the cause."""

    @app.errorhandler(AlpruneError)
    def mendable(error: AlpruneError) -> tuple[Response, int]:
        return jsonify({"error": str(error)}), 507 if isinstance(error, StoreError) else 400

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        code = error.code or 500
        return jsonify({"error": f"{code} {error.name}"}), code


__all__ = ["errors_as_json"]
