import io

import numpy as np
import photos
import pytest
from PIL import Image

from alprune.labelling import open_asking
from alprune.labelling.web.app import content_policy, make_app
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue

TOKEN = "a-token"
HOST = "127.0.0.1:8000"


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    options = photos.options(root)
    with open_asking(tmp_path / "run", classes=("dark", "light"), **options) as asking:
        yield asking


@pytest.fixture
def queue(asking):
    queue = LabelQueue(asking)
    queue.put(asking.ask())
    return queue


@pytest.fixture
def client(asking, queue):
    app = make_app(queue, Previews(asking.root), TOKEN, {HOST})
    return app.test_client()


def get(client, path, token=TOKEN, host=HOST, **more):
    return client.get(f"/{token}/{path}", headers={"Host": host} | more)


def post(client, path, body, token=TOKEN, host=HOST, **more):
    return client.post(f"/{token}/{path}", json=body, headers={"Host": host} | more)


def test_the_page_is_one_file_that_may_run_only_itself(client):
    page = get(client, "")
    assert page.status_code == 200 and b"</html>" in page.data
    text = page.data.decode()
    assert "http://" not in text and "https://" not in text and "//cdn" not in text
    policy = page.headers["Content-Security-Policy"]
    assert policy == content_policy(text) and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and policy.count("sha256-") == 2
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["", "state", "image/0"])
def test_without_the_token_nothing_is_answered(client, path):
    assert get(client, path).status_code == 200
    for token in ("", "x", TOKEN + "x", TOKEN[:-1], "ä"):
        assert get(client, path, token=token).status_code == 403
    for path in ("/", "/state", "/favicon.ico", f"/{TOKEN}x/", "/static/x"):
        assert client.get(path, headers={"Host": HOST}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1:8001", "127.0.0.1", ""])
def test_another_hosts_name_is_refused(client, host):
    assert get(client, "state", host=host).status_code == 403
    assert post(client, "answer", {"number": 0, "label": "dark"}, host=host).status_code == 403


def test_another_pages_requests_are_refused(client, asking):
    body = {"number": 0, "label": "dark"}
    assert post(client, "answer", body, Origin="http://evil.example").status_code == 403
    assert post(client, "answer", body, Origin="null").status_code == 403
    form = client.post(f"/{TOKEN}/answer", data=body, headers={"Host": HOST})
    assert form.status_code == 415 and asking.labels == {}
    assert post(client, "answer", body, Origin=f"http://{HOST}").status_code == 200


def test_answers_skips_and_undo_change_the_state(client, asking, queue):
    state = get(client, "state").json
    number = state["image"]["number"]
    after = post(client, "answer", {"number": number, "label": "dark"}).json
    assert after["labelled"] == 1 and after["image"]["number"] != number
    assert asking.labels == {queue.query(number).path: "dark"}
    after = post(client, "answer", {"number": after["image"]["number"], "label": None}).json
    assert after["skipped"] == 1
    post(client, "undo", {})
    after = post(client, "undo", {}).json
    assert after["image"]["number"] == number and asking.labels == {}


def test_classes_can_be_added(client):
    after = post(client, "class", {"name": "<b>striped</b>"}).json
    assert [entry["name"] for entry in after["classes"]] == ["dark", "light", "<b>striped</b>"]
    assert post(client, "class", {"name": ""}).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("answer", {"number": 99, "label": "dark"}, 400),
        ("answer", {"number": 0, "label": "cow"}, 400),
        ("answer", {"number": 0}, 400),
        ("answer", {"number": "0", "label": "dark"}, 400),
        ("answer", {"number": True, "label": "dark"}, 400),
        ("answer", {"number": -1, "label": "dark"}, 400),
        ("answer", [], 400),
        ("class", {"name": 5}, 400),
        ("class", {"name": "x" * 20_000}, 413),
        ("undo", {"x": 1}, 400),
        ("state", {}, 403),
        ("other", {}, 403),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_json(client, asking, path, body, code):
    answer = post(client, path, body)
    assert answer.status_code == code and answer.json["error"]
    assert asking.labels == {}


def test_json_that_is_nested_deep_is_refused(client):
    headers = {"Host": HOST, "Content-Type": "application/json"}
    for body in (b"[" * 8000, b'{"a":' * 3000, b'{"number": 0, "label": ' + b"[" * 8000):
        answer = client.post(f"/{TOKEN}/answer", data=body, headers=headers)
        assert answer.status_code == 400 and answer.is_json


def test_images_are_decoded_and_sent_by_number(client, queue):
    answer = get(client, "image/0")
    assert answer.mimetype == "image/png"
    path = queue.query(0).path
    expected = photos.picture(photos.truth(path), int(path[-7:-4]))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.data))), np.asarray(expected))
    assert get(client, "image/99").status_code == 404
    for path in ("image/../state", "image/%2e%2e/%2e%2e/etc/passwd", "image/-1", "image/x"):
        assert get(client, path).status_code in (403, 404)


def test_a_large_image_is_made_smaller_and_keeps_its_proportions(tmp_path):
    Image.new("CMYK", (3000, 1000)).save(tmp_path / "large.jpg")
    content, kind = Previews(tmp_path)("large.jpg")
    assert kind == "image/jpeg" and Image.open(io.BytesIO(content)).size == (1600, 533)


def test_a_record_that_names_files_elsewhere_shows_nothing_of_them(tmp_path):
    outside = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    root = tmp_path / "photos"
    root.mkdir()
    (root / "link.png").symlink_to(outside)
    previews = Previews(root)
    for path in ("../secret.png", str(outside), "link.png", "a/../../secret.png", "x\0.png"):
        with pytest.raises(Exception, match="does not lie in"):
            previews(path)
    assert Previews(root, follow_links=True)("link.png")[1] == "image/png"


def test_an_image_that_cannot_be_read_is_an_error_and_no_crash(client, asking, queue):
    (asking.root / queue.query(0).path).write_bytes(b"no image")
    answer = get(client, "image/0")
    assert answer.status_code == 400 and "cannot be read" in answer.json["error"]
