"""Who may use the page: an address to join by, and the browsers that have joined."""

import hashlib
import hmac
import ipaddress
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from alprune.data.names import KnownNames, is_name
from alprune.errors import ConfigError

LOOPBACK = "127.0.0.1"
_SESSIONS = 1_000  # browsers that are remembered; the one that was away longest is forgotten


@dataclass(frozen=True)
class Session:
    """A browser that has joined.

    Attributes:
        key: Tells it from others; not secret.
        user: Name of the person; empty if it was not asked for.
    """

    key: str
    user: str = ""


class Access:
    """Decides which requests are served; several threads may use it.

    A browser joins with a token, and from then on shows a cookie. Other pages, users and programs
    of this machine or network know neither. A page whose name was made to lead to this machine
    (DNS rebinding) is given away by its Host header, one that sends requests here by its Origin.

    Args:
        host: Address that the server listens on.
        origins: Addresses of the page behind a proxy, such as "https://labels.example.org".
        user: Name of the person at this machine; empty: nobody is named.
        people: Returns the names of those who have answered; phones begin a name with a capital.

    Attributes:
        token: To join by, for everybody who is let in.
        shared: Whether others than the person at this machine can reach the page.

    Raises:
        ConfigError: An origin or the name is not usable.
    """

    def __init__(
        self,
        host: str = LOOPBACK,
        origins: Sequence[str] = (),
        user: str = "",
        people: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.token = secrets.token_urlsafe(18)
        self._once: str | None = None
        self._host, self._port = host, 0
        self._origins = {_origin(text) for text in origins}
        self._hosts = {urlsplit(origin).netloc for origin in self._origins}
        self.shared = bool(origins) or not is_loopback(host)
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # by hash of the cookie
        self._lock = threading.Lock()
        self._people, self._user = people, ""
        self._user = self._person(user, [*people()])

    def serve_at(self, port: int) -> None:
        """Note the port that the server listens on."""
        self._port = port
        names = {"localhost", self._host.lower()}
        names |= {LOOPBACK, "::1"} if is_loopback(self._host) else set()
        if self.shared:
            own = socket.gethostname().lower()
            names |= {own, own.partition(".")[0], own.partition(".")[0] + ".local"}
        self._hosts |= {f"{name}:{port}" for name in names}

    @property
    def cookie(self) -> str:
        """Name of the cookie; browsers share cookies among the ports of a machine."""
        return f"alprune-{self._port}"

    def once(self) -> str:
        """Return a new token that lets one browser join; an earlier one no longer does."""
        with self._lock:
            self._once = secrets.token_urlsafe(18)
            return self._once

    def knows_host(self, host: str) -> bool:
        """Return whether a Host header names this server.

        A name that an attacker owns can lead here, a number cannot: it is the address itself.
        """
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80  # browsers leave out :80
        except ValueError:
            return False
        if host.lower() in self._hosts or f"{name}:{port}" in self._hosts:
            return True
        return self.shared and port == self._port and _is_number(name)

    def knows_origin(self, origin: str | None, host: str) -> bool:
        """Return whether a request comes from the page itself, or from no page at all."""
        return origin is None or origin == f"http://{host}" or origin in self._origins

    def join(self, token: str, name: str = "") -> str | None:
        """Let a browser in.

        Args:
            token: As it was sent.
            name: Of the person; asked for where several may come.

        Returns:
            The value of its cookie; empty if the name is missing, None if the token is not right.

        Raises:
            ConfigError: The name is not usable.
        """
        people = [*self._people()] if self.shared else []  # waits for what is written
        with self._lock:
            own = self._once is not None and _same(token, self._once)
            if not own and not _same(token, self.token):
                return None
            # The person at this machine is named on the command line, others on the page.
            user = self._user if own or not self.shared else ""
            if self.shared and not user:
                user = self._person(name, people)
                if not user:
                    return ""
            if own:
                self._once = None
            value = secrets.token_urlsafe(24)
            self._sessions[_hash(value)] = Session(secrets.token_hex(8), user)
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
            return value

    def _person(self, name: str, people: list[str]) -> str:
        """Return a name as it was first spelt."""
        user, here = checked_user(name), (session.user for session in self._sessions.values())
        known = KnownNames(filter(None, (*people, self._user, *here)))
        return known.find(user) or user

    def session(self, value: str | None) -> Session | None:
        """Return the session of a cookie; None if it is not one of ours."""
        with self._lock:
            key = _hash(value or "")
            if key not in self._sessions:
                return None
            self._sessions.move_to_end(key)
            return self._sessions[key]


def checked_user(name: str) -> str:
    """Return a person's name without spaces around it; it may be empty.

    Raises:
        ConfigError: It is too long, or has control characters.
    """
    name = name.strip()
    if name and not is_name(name):
        raise ConfigError(
            f"{name[:100]!r} cannot name a person: use 1 to 100 printable characters."
        )
    return name


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """Return the address under which others reach a server that listens on `host`."""
    if host not in ("0.0.0.0", "::", ""):
        return host
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; finds the way out of this machine
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def url_of(host: str, port: int) -> str:
    """Return the address of a page; an IPv6 number gets brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"--origin {text!r} is not the address of a page. Give what people type into the "
            "browser, such as https://labels.example.org."
        )
    usual = {"http": ":80", "https": ":443"}[parts.scheme]  # which browsers leave out
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(usual)}"


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
