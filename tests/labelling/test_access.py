"""Who may use the page: by which tokens, names and addresses."""

import os
import stat

import pytest

from alprune.errors import ConfigError
from alprune.labelling.web.access import Access, is_loopback, url_of
from alprune.labelling.web.opener import write_opener


def serving(port=8000, **options):
    access = Access(**options)
    access.serve_at(port)
    return access


def test_a_token_lets_a_browser_in_and_its_cookie_keeps_it_in():
    access = serving()
    value = access.join(access.token)
    assert access.session(value).user == ""
    for other in (None, "", "x", access.token, value + "x", "\ud800"):
        assert access.session(other) is None
    for token in ("", "x", access.token[:-1], access.token + "x", "ä", "\ud800"):
        assert access.join(token) is None


def test_a_token_for_one_browser_works_once():
    access = serving()
    token = access.once()
    assert access.session(access.join(token)) is not None
    assert access.join(token) is None
    earlier, later = access.once(), access.once()
    assert access.join(earlier) is None and access.join(later)


def test_where_several_may_come_each_gives_a_name_and_the_owner_has_one():
    access = serving(host="0.0.0.0", user="anna")
    assert access.session(access.join(access.once())).user == "anna"
    assert access.join(access.token) == "" and access.join(access.token, "  ") == ""
    assert access.session(access.join(access.token, " ben ")).user == "ben"
    for name in ("x" * 101, "a\nb"):
        with pytest.raises(ConfigError, match="cannot name a person"):
            access.join(access.token, name)
    unnamed = serving(host="0.0.0.0")
    token = unnamed.once()
    assert unnamed.join(token) == ""  # not used up: the name comes next
    assert unnamed.session(unnamed.join(token, "eva")).user == "eva"
    alone = serving(user="anna")
    assert alone.session(alone.join(alone.token)).user == "anna"


def test_the_browser_that_was_away_longest_is_forgotten(monkeypatch):
    monkeypatch.setattr("alprune.labelling.web.access._SESSIONS", 2)
    access = serving()
    first, second = access.join(access.token), access.join(access.token)
    access.session(first)
    third = access.join(access.token)
    assert access.session(first) and access.session(third) and access.session(second) is None


@pytest.mark.parametrize(
    ("options", "port", "host", "known"),
    [
        ({}, 8000, "127.0.0.1:8000", True),
        ({}, 8000, "localhost:8000", True),
        ({}, 8000, "LOCALHOST:8000", True),
        ({}, 8000, "192.168.1.5:8000", False),
        ({}, 8000, "127.0.0.1:8001", False),
        ({"host": "127.0.0.5"}, 8000, "127.0.0.5:8000", True),
        ({"host": "NAS.example"}, 8000, "nas.example:8000", True),
        ({}, 8000, "127.0.0.1", False),
        ({}, 80, "127.0.0.1", True),
        ({}, 8000, "evil.example:8000", False),
        ({}, 8000, "", False),
        ({"host": "0.0.0.0"}, 8000, "192.168.1.5:8000", True),
        ({"host": "0.0.0.0"}, 8000, "[fe80::1]:8000", True),
        ({"host": "0.0.0.0"}, 80, "[fe80::1]", True),
        ({"host": "0.0.0.0"}, 8000, "localhost:8000", True),
        ({"host": "0.0.0.0"}, 8000, "192.168.1.5:9000", False),
        ({"host": "0.0.0.0"}, 8000, "192.168.1.5.evil.example:8000", False),
        ({"host": "0.0.0.0"}, 8000, "evil.example:8000", False),
        ({"origins": ["https://Labels.example.org:443"]}, 8000, "labels.example.org", True),
        ({"origins": ["https://labels.example.org"]}, 8000, "127.0.0.1:8000", True),
        ({"origins": ["https://labels.example.org"]}, 8000, "example.org", False),
    ],
)
def test_the_server_is_known_by_its_own_names_only(options, port, host, known):
    assert serving(port, **options).knows_host(host) == known


def test_requests_come_from_the_page_itself():
    access = serving(origins=["https://labels.example.org"])
    host = "127.0.0.1:8000"
    for origin in (None, f"http://{host}", "https://labels.example.org"):
        assert access.knows_origin(origin, host)
    for origin in ("null", "", f"https://{host}", "http://127.0.0.1:9999", "http://evil.example"):
        assert not access.knows_origin(origin, host)
    for text in ("labels.example.org", "ftp://x", "https://", "https://x/?a"):
        with pytest.raises(ConfigError, match="is not the address of a page"):
            Access(origins=[text])


def test_addresses_are_told_apart():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "anna.example")))
    assert url_of("fe80::1", 80) == "http://[fe80::1]:80/" and url_of("x", 1) == "http://x:1/"


@pytest.mark.skipif(os.name == "nt", reason="permissions are those of the folder")
def test_the_file_that_leads_a_browser_in_is_for_its_owner_only(tmp_path):
    path = tmp_path / "open-page.html"
    path.write_text("planted")
    path.chmod(0o666)
    write_opener(path, 'http://127.0.0.1:1/join#"<x>')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "join#&quot;&lt;x&gt;" in path.read_text() and "planted" not in path.read_text()


def test_a_person_is_one_however_the_name_is_spelt():
    access = serving(host="0.0.0.0", user="Anna", people=lambda: ["anna"])
    assert access.session(access.join(access.once())).user == "anna"
    for name, spelt in ((" ANNA", "anna"), ("ben", "ben"), ("Ben", "ben")):
        assert access.session(access.join(access.token, name)).user == spelt
