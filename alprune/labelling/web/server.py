"""Serve the page on the loopback until Ctrl-C."""

import contextlib
import logging
import secrets
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

from waitress import wasyncore

from alprune.errors import StoreError
from alprune.labelling import Asking
from alprune.labelling.web.app import make_app
from alprune.labelling.web.background_fit import BackgroundFit
from alprune.labelling.web.connections import HOST, listen
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue


class Server:
    """A page for one folder.

    Args:
        asking: The folder.
        port: To listen on; 0: a free one.

    Attributes:
        url: Of the page, with its token.
        queue: What the page asks about.

    Raises:
        StoreError: The port is taken.
    """

    def __init__(self, asking: Asking, port: int = 0) -> None:
        self._asking = asking
        self.queue = LabelQueue(asking)
        self._overview = Overview(asking, self.queue)
        self._background = BackgroundFit(asking, self.queue, self._overview)
        token = secrets.token_urlsafe(18)
        hosts: set[str] = set()
        self._map: dict[int, Any] = {}  # of the sockets that are open
        self._serving = False
        previews = Previews(asking.root, asking.config.follow_links)
        app = make_app(self.queue, self._overview, previews, token, hosts)
        logging.getLogger("waitress").setLevel(logging.ERROR)
        try:
            self._server = listen(app, port, self._map)
        except OSError as error:
            raise StoreError(
                f"cannot listen on {HOST}, port {port}: {error.strerror or error}. Choose another "
                "--port, or none for a free one."
            ) from error
        found = self._server.effective_port
        hosts.update({f"{HOST}:{found}", f"localhost:{found}"})
        self.url = f"http://{HOST}:{found}/{token}/"

    def run(self, ready: Callable[[str], None], browse: bool = True) -> None:
        """Serve until Ctrl-C or `close`.

        Args:
            ready: Told the page's address when it answers.
            browse: Open a browser there.
        """
        if (left := self._asking.left(hand_out=False)) is not None:
            self.queue.put(left)
        self._background.start()
        self._serving = True
        ready(self.url)
        if browse:
            # In a thread of its own: some browsers keep the caller waiting until they are closed.
            threading.Thread(target=_browse, args=(self.url,), daemon=True).start()
        try:
            self._server.run()  # returns after KeyboardInterrupt, or when the map is empty
        finally:
            self._serving = False
            wasyncore.close_all(self._map)
            self._server.task_dispatcher.shutdown(timeout=1)

    def close(self) -> None:
        """Stop serving and learning; any thread may call it."""
        if self._serving:  # sockets are closed by the thread that waits for them
            self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._map))
        self._background.stop()


def _browse(url: str) -> None:
    with contextlib.suppress(Exception):  # a machine without a browser
        webbrowser.open(url)


__all__ = ["Server"]
