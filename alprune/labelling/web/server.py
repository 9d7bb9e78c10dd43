"""Serve the page until Ctrl-C."""

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from waitress import wasyncore

from alprune.errors import StoreError
from alprune.labelling import Asking
from alprune.labelling.web.access import LOOPBACK, Access, reachable, url_of
from alprune.labelling.web.app import make_app
from alprune.labelling.web.background_fit import BackgroundFit
from alprune.labelling.web.connections import listen
from alprune.labelling.web.label_studio import LabelStudio
from alprune.labelling.web.label_studio_app import BODY_BYTES, make_backend, token_of, write_tasks
from alprune.labelling.web.opener import open_browser, remove_opener
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue


class Server:
    """A page for one folder.

    Args:
        asking: The folder.
        port: To listen on; 0: a free one.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        origins: Addresses of the page behind a proxy.
        user: Name of the person at this machine.
        label_studio: Port on which to answer Label Studio as well; None: do not.

    Attributes:
        label_studio: Address of the backend for Label Studio, with its token; empty without.
        url: To join by, with its token.
        shared: Whether others than the person at this machine can reach the page.
        queue: What the page asks about.

    Raises:
        ConfigError: An origin or the name is not usable.
        StoreError: The port is taken, or the address is not one of this machine.
    """

    def __init__(
        self,
        asking: Asking,
        port: int = 0,
        host: str = LOOPBACK,
        origins: Sequence[str] = (),
        user: str = "",
        label_studio: int | None = None,
    ) -> None:
        self._asking = asking
        self.queue = LabelQueue(asking, secrets.randbelow(2**40))
        self._overview = Overview(asking, self.queue)
        self._background = BackgroundFit(asking, self.queue, self._overview)
        self._access = Access(host, origins, user, asking.people)
        self.shared = self._access.shared
        self._map: dict[int, Any] = {}  # of the sockets that are open
        self._serving = False
        previews = Previews(asking.pictures)
        app = make_app(self.queue, self._overview, previews, self._access)
        logging.getLogger("waitress").setLevel(logging.ERROR)
        try:
            self._server = listen(app, host, port, self._map)
        except OSError as error:
            raise StoreError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose another "
                "--port, or none for a free one; --host is an address of this machine."
            ) from error
        found = int(self._server.effective_port)
        self._access.serve_at(found)
        at = url_of(reachable(host), found)
        self.url = (*origins, at)[0].rstrip("/") + f"/join#{self._access.token}"
        local = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
        self._here = url_of(local, found)
        self.label_studio = ""
        self._backend: LabelStudio | None = None
        if label_studio is not None:
            self._serve_label_studio(host, label_studio, previews)

    def _serve_label_studio(self, host: str, port: int, previews: Previews) -> None:
        token = token_of(self._asking.path)
        self._backend = LabelStudio(self._asking, self.queue, self._overview)
        app = make_backend(self._backend, previews, token)
        try:
            server = listen(app, host, port, self._map, BODY_BYTES, f"/{token}/")
        except OSError as error:
            raise StoreError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose another "
                "port, as in --label-studio 9091."
            ) from error
        self.label_studio = url_of(reachable(host), int(server.effective_port)) + token
        self._backend.address = f"{self.label_studio}/image?path="

    def run(self, ready: Callable[[str], None], browse: bool = True) -> None:
        """Serve until Ctrl-C or `close`.

        Args:
            ready: Called with the address to join by once it answers.
            browse: Open a browser there.
        """
        if (left := self._asking.left(hand_out=False)) is not None:
            self.queue.put(left)
        self._background.start()
        if self._backend is not None:
            write_tasks(self._asking.path, self._backend)
        self._serving = True
        ready(self.url)
        if browse:
            open_browser(self._asking.path, f"{self._here}join#{self._access.once()}")
        try:
            self._server.run()  # returns after KeyboardInterrupt, or when the map is empty
        finally:
            self._serving = False
            remove_opener(self._asking.path)
            wasyncore.close_all(self._map)
            self._server.task_dispatcher.shutdown(timeout=1)

    def close(self) -> None:
        """Stop serving and learning; any thread may call it."""
        if self._serving:  # sockets are closed by the thread that waits for them
            self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._map))
        self._background.stop()
