"""A server that is killed in the middle of things has lost no answer that it acknowledged."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import photos
import pytest
from click.testing import CliRunner
from page_client import PageClient

from alprune.cli import main
from alprune.labelling import open_asking

TESTS = Path(__file__).parents[1]

MAIN = "import sys; from alprune.cli import main; sys.exit(main())"


def wait_for_image(client):
    while (state := client.get("state"))["image"] is None:
        assert not state["message"], state
        time.sleep(0.2)
    return state["image"]["number"]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_every_acknowledged_answer_is_there_after_a_kill(tmp_path, monkeypatch, kill):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{TESTS / 'helpers'}:{TESTS.parent}")
    options = photos.options(photos.make(tmp_path / "photos"))
    open_asking(tmp_path / "run", classes=photos.NAMES, **options).close()
    command = [sys.executable, "-c", MAIN, "label", str(tmp_path / "run"), "--no-browser", "--json"]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
            try:
                client = PageClient(json.loads(server.stdout.readline())["url"])
                for _ in range(5):
                    number = wait_for_image(client)
                    client.post("answers", {"labels": [{"number": number, "label": "dark"}]})
                server.send_signal(kill)
                said = server.communicate(timeout=200)[1].decode()
            finally:
                server.kill()
        if kill is signal.SIGKILL:
            assert server.returncode == -kill
        else:
            assert server.returncode == 128 + kill and "Traceback" not in said
    with open_asking(tmp_path / "run") as asking:
        assert list(asking.labels.values()) == ["dark"] * 10
    rows = (tmp_path / "run" / "labels.csv").read_text("utf-8-sig").splitlines()
    assert len(rows) == 11


def test_a_second_sigterm_does_not_break_off_the_end(tmp_path, monkeypatch):
    """Supervisors send it to a process and to its group."""
    closed = []

    class Server:
        shared, label_studio = False, None

        def __init__(self, *asked):
            pass

        def run(self, ready, browse):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)

        def close(self):
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)

    options = photos.options(photos.make(tmp_path / "photos"))
    open_asking(tmp_path / "run", classes=photos.NAMES, **options).close()
    monkeypatch.setattr("alprune.labelling.web.Server", Server)
    done = CliRunner().invoke(main, ["label", str(tmp_path / "run")])
    assert (done.exit_code, closed) == (143, [True]), done.output
    assert "Ended. 0 labels" in done.stderr


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.slow
def test_what_two_people_answered_is_there_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{TESTS / 'helpers'}:{TESTS.parent}")
    options = photos.options(photos.make(tmp_path / "photos"))
    open_asking(tmp_path / "run", classes=photos.NAMES, **options).close()
    port, label = free_port(), iter(photos.NAMES * 9)
    given = {"anna": {}, "ben": {}}
    command = [sys.executable, "-c", MAIN, "label", str(tmp_path / "run"), "--no-browser"]
    command += ["--json", "--overlap", "100", "--origin", f"http://127.0.0.1:{port}"]
    for _ in range(2):
        with subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as server:
            try:
                url = json.loads(server.stdout.readline())["url"]
                people = {name: PageClient(url, name) for name in given}
                for _ in range(4):
                    for name, client in people.items():
                        number = wait_for_image(client)
                        path = client.get(f"answered/{number}")["path"]
                        said = given[name][path] = next(label)
                        labels = [{"number": number, "label": said}]
                        client.post("answers", {"labels": labels, "fresh": True})
                server.kill()
                server.communicate(timeout=200)
            finally:
                server.kill()
    with open_asking(tmp_path / "run") as asking:
        found = {"anna": {}, "ben": {}}
        for content, said in asking.journal.opinions.of.items():
            for name, answer in said.items():
                found[name][asking.journal.answers[content].path] = answer
        assert found == given and sum(map(len, given.values())) == 16
        assert asking.journal.opinions.agreement().images >= 4
