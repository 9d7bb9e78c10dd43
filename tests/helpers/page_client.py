"""A client of the labelling page without a browser."""

import http.cookiejar
import json
import urllib.request


class PageClient:
    """Joins by the address that `alprune label` prints, and keeps the cookie."""

    def __init__(self, url, name=""):
        self.base, _, token = url.partition("join#")
        jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        assert self.post("join", {"token": token, "name": name})["joined"]

    def get(self, path):
        return json.loads(self.read(path))

    def read(self, path, body=None):
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, body, headers)
        with self._opener.open(request, timeout=200) as answer:
            return answer.read()

    def post(self, path, body):
        return json.loads(self.read(path, json.dumps(body).encode()))
