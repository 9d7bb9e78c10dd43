"""Requests of the page: what they answer, and what is refused."""

import io
import re
from dataclasses import replace

import numpy as np
import photos
import pytest
from PIL import Image

from alprune.data.image_cache.decode import identify
from alprune.errors import DataError
from alprune.labelling import Query, open_asking
from alprune.labelling.insight import Checked, Insight
from alprune.labelling.pictures import Pictures
from alprune.labelling.web.access import Access
from alprune.labelling.web.app import make_app
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue

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
def overview(asking, queue):
    return Overview(asking, queue)


@pytest.fixture
def access():
    access = Access()
    access.serve_at(8000)
    return access


@pytest.fixture
def app(asking, queue, overview, access):
    return make_app(queue, overview, Previews(asking.pictures), access)


@pytest.fixture
def client(app, access):
    client = app.test_client()
    assert post(client, "join", {"token": access.token, "name": ""}).json == {"joined": True}
    return client


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A client of one page for all requests that are to change nothing."""
    folder = tmp_path_factory.mktemp("still")
    options = photos.options(photos.make(folder / "photos"))
    with open_asking(folder / "run", classes=("dark", "light"), **options) as asking:
        queue, access = LabelQueue(asking), Access()
        queue.put(asking.ask())
        access.serve_at(8000)
        overview = Overview(asking, queue)
        client = make_app(queue, overview, Previews(asking.pictures), access).test_client()
        post(client, "join", {"token": access.token, "name": ""})
        before = get(client, "state").json
        yield client
        assert asking.labels == {} and get(client, "state").json == before


def one(number, label):
    return {"labels": [{"number": number, "label": label}]}


def get(client, path, host=HOST, **more):
    return client.get(f"/{path}", base_url=f"http://{HOST}", headers={"Host": host} | more)


def post(client, path, body, host=HOST, **more):
    headers = {"Host": host} | more
    return client.post(f"/{path}", base_url=f"http://{HOST}", json=body, headers=headers)


def test_the_page_loads_nothing_but_its_own_files(client):
    page = get(client, "")
    assert page.status_code == 200 and b"</html>" in page.data
    texts = [page.data.decode()]
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', texts[0]):
        texts.append(get(client, name).data.decode())
    for name in set(re.findall(r'from "\./([a-z]+\.js)"', "".join(texts))):
        answer = get(client, f"static/{name}")
        assert answer.mimetype == "text/javascript"
        texts.append(answer.data.decode())
    assert len(texts) == 8
    whole = "".join(texts).replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in whole and "https://" not in whole and "//cdn" not in whole
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'") and "unsafe" not in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cache-Control"] == "no-store"
    assert get(client, "static/app.py").status_code == 404


@pytest.mark.parametrize("path", ["state", "image/0", "thumb/0", "map", "review", "x", "static/"])
def test_without_the_cookie_nothing_is_answered(still, path):
    stranger = still.application.test_client()
    assert get(stranger, path).status_code == 403
    stranger.set_cookie("alprune-8000", "x")
    assert get(stranger, path).status_code == 403
    assert "started again" in get(stranger, path).json["error"]
    assert post(stranger, "answers", one(0, "dark")).status_code == 403


def test_a_browser_without_the_cookie_gets_a_page_that_says_what_to_do(still):
    page = get(still.application.test_client(), "")
    assert page.status_code == 200 and b"join.js" in page.data and b"main.js" not in page.data


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1:8001", "127.0.0.1", ""])
def test_another_hosts_name_is_refused(still, host):
    assert get(still, "state", host=host).status_code == 403
    assert post(still, "answers", one(0, "dark"), host=host).status_code == 403


def test_another_pages_requests_are_refused(client, asking):
    body = one(0, "dark")
    assert post(client, "answers", body, Origin="http://evil.example").status_code == 403
    assert post(client, "answers", body, Origin="null").status_code == 403
    form = client.post("/answers", base_url=f"http://{HOST}", data={"number": 0})
    assert form.status_code == 415 and asking.labels == {}
    assert post(client, "answers", body, Origin=f"http://{HOST}").status_code == 200


def test_answers_skips_and_undo_change_the_state(client, asking, queue):
    state = get(client, "state").json
    number = state["image"]["number"]
    after = post(client, "answers", one(number, "dark")).json
    assert after["labelled"] == 1 and after["image"]["number"] != number
    assert asking.labels == {queue.query(number).path: "dark"}
    after = post(client, "answers", one(after["image"]["number"], None)).json
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
        ("answers", one(99, "dark"), 400),
        ("answers", one(0, "cow"), 400),
        ("answers", {"labels": [{"number": 0}]}, 400),
        ("answers", {"labels": []}, 400),
        ("answers", {"labels": 5}, 400),
        ("answers", one("0", "dark"), 400),
        ("answers", one(True, "dark"), 400),
        ("answers", one(-1, "dark"), 400),
        ("answers", one(0, ["dark"]), 400),
        ("answers", one(0, "dark") | {"set_aside": ["x"]}, 400),
        ("answers", one(0, "dark") | {"more": 1}, 400),
        ("answers", [], 400),
        ("selected", {"numbers": [99]}, 400),
        ("rename", {"name": "cow", "to": "x"}, 400),
        ("rename", {"name": "dark"}, 400),
        ("remove", {"name": "cow"}, 400),
        ("key", {"name": "dark", "key": "s"}, 400),
        ("class", {"name": 5}, 400),
        ("class", {"name": "x" * 140_000}, 413),
        ("undo", {"x": 1}, 400),
        ("state", {}, 405),
        ("other", {}, 404),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_json(still, path, body, code):
    answer = post(still, path, body)
    assert answer.status_code == code and answer.json["error"]


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
    content, kind = Previews(Pictures(tmp_path))("large.jpg")
    assert kind == "image/jpeg" and Image.open(io.BytesIO(content)).size == (1600, 533)


def test_a_record_that_names_files_elsewhere_shows_nothing_of_them(tmp_path):
    outside = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    root = tmp_path / "photos"
    root.mkdir()
    (root / "link.png").symlink_to(outside)
    previews = Previews(Pictures(root))
    for path in ("../secret.png", str(outside), "link.png", "a/../../secret.png", "x\0.png"):
        with pytest.raises(DataError, match="is not in"):
            previews(path)
    assert Previews(Pictures(root, follow_links=True))("link.png")[1] == "image/png"


@pytest.mark.parametrize("gone", [True, False])
def test_an_image_that_cannot_be_read_is_an_error_and_no_crash(client, asking, queue, gone):
    path = asking.root / queue.query(0).path
    path.unlink() if gone else path.write_bytes(b"no image")
    answer = get(client, "image/0")
    assert answer.status_code == 400 and "cannot be read" in answer.json["error"]
    skipped = post(client, "answers", one(0, None)).json
    assert skipped["skipped"] == (not gone)  # nobody saw it: it may have been renamed
    assert skipped["image"]["number"] != 0


def test_an_image_that_was_moved_is_shown_once_the_folder_has_been_read_again(
    client, asking, queue
):
    post(client, "answers", one(0, "dark"))
    path = asking.root / queue.query(0).path
    path.rename(path.with_name("moved.png"))
    photos.picture("light", 99).save(path)
    assert get(client, "image/0").status_code == 400
    asking.prepare()
    shown = get(client, "image/0")
    assert shown.status_code == 200
    moved = np.asarray(Image.open(path.with_name("moved.png")))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.data))), moved)


def test_an_image_that_vanishes_while_it_is_shown_can_be_answered(client, asking, queue):
    shown = get(client, "image/0").data
    (asking.root / queue.query(0).path).unlink()
    assert get(client, "image/0").data == shown
    assert post(client, "answers", one(0, "dark")).json["labelled"] == 1


def test_json_that_is_nested_deep_is_refused(still):
    headers = {"Content-Type": "application/json"}
    for body in (b"[" * 60_000, b'{"a":' * 20_000, b'{"labels": ' + b"[" * 60_000):
        answer = still.post("/answers", base_url=f"http://{HOST}", data=body, headers=headers)
        assert answer.status_code == 400 and answer.is_json


@pytest.mark.parametrize("path", ["review", "grid", "image/0"])
def test_an_address_that_is_not_utf8_is_refused(still, path):
    raw = {"PATH_INFO": f"/{path}", "QUERY_STRING": "class=\xe7"}  # as a server hands bytes on
    answer = still.get("/", base_url=f"http://{HOST}", environ_overrides=raw)
    assert answer.status_code == 400 and "UTF-8" in answer.json["error"]


def test_a_thumbnail_is_small(tmp_path):
    Image.new("RGB", (900, 300)).save(tmp_path / "wide.png")
    content, _ = Previews(Pictures(tmp_path))("wide.png", small=True)
    assert Image.open(io.BytesIO(content)).size == (240, 80)


def test_another_image_at_the_path_of_a_question_is_not_shown(client, asking, queue):
    assert get(client, "thumb/0").status_code == 200
    query = queue.query(0)
    photos.picture("light", 99).save(asking.root / query.path)
    answer = get(client, "image/0")
    assert answer.status_code == 400 and "was changed since it was asked" in answer.json["error"]
    now = identify(asking.root / query.path).content.hex()
    later = queue.number(Query(query.path, now, "typical"))
    assert get(client, f"thumb/{later}").data != get(client, "thumb/0").data


def test_the_grid_shows_open_images_of_a_class_and_labels_them_at_once(client, queue, overview):
    guessed = [replace(queue.query(n), guess="dark", probability=1 - n / 10) for n in range(4)]
    overview.update(Insight(guessed=guessed))
    found = get(client, "grid?class=dark").json
    assert [image["number"] for image in found["images"]] == [0, 1, 2, 3]
    body = {"labels": [{"number": n, "label": "dark"} for n in (0, 2)], "set_aside": [1]}
    assert post(client, "answers", body).json["labelled"] == 2
    found = get(client, "grid?class=dark").json
    assert [image["number"] for image in found["images"]] == [3]  # 1 was taken for another class
    assert get(client, "grid?class=light").json["images"] == []
    assert get(client, "grid?class=cow").status_code == 400


def test_the_review_shows_the_most_suspect_labels_first(client, queue, overview):
    post(client, "answers", {"labels": [{"number": n, "label": "dark"} for n in range(4)]})

    def checked(number, quality, wrong):
        content = queue.query(number).content
        return {content: Checked(content, "light", 0.9, quality, wrong)}

    overview.update(Insight(checked=checked(1, 0.4, False) | checked(2, 0.1, True), complete=True))
    found = get(client, "review?order=suspect").json
    assert [image["number"] for image in found["images"]][:2] == [2, 1]
    assert (found["suspects"], found["total"], found["checked"]) == (1, 4, True)
    assert [i["number"] for i in get(client, "review?order=newest").json["images"]] == [3, 2, 1, 0]
    post(client, "answers", one(2, "light"))
    assert get(client, "review?order=suspect").json["suspects"] == 0
    assert get(client, "review?class=light").json["total"] == 1


def test_grid_and_review_know_a_renamed_class(client, queue, overview):
    post(client, "answers", one(1, "light"))
    guess = replace(queue.query(0), guess="dark", probability=0.9)
    content = queue.query(1).content
    checked = {content: Checked(content, "dark", 0.9, 0.1, True)}
    overview.update(Insight(guessed=[guess], checked=checked, complete=True))
    queue._queries[0] = guess
    post(client, "rename", {"name": "dark", "to": "black"})
    assert [image["number"] for image in get(client, "grid?class=black").json["images"]] == [0]
    assert get(client, "answered/0").json["guess"]["class"] == "black"
    [image] = get(client, "review").json["images"]
    assert image["predicted"] == "black" and image["suspect"]
    post(client, "rename", {"name": "black", "to": "light"})
    assert get(client, "review").json["suspects"] == 0


def test_the_review_shows_what_was_skipped(client):
    post(client, "answers", {"labels": [{"number": 0, "label": "dark"}]})
    post(client, "answers", {"labels": [{"number": 2, "label": None}]})
    found = get(client, "review?order=skipped&class=dark").json
    assert [(image["number"], image["label"]) for image in found["images"]] == [(2, None)]
    assert [image["number"] for image in get(client, "review?order=newest").json["images"]] == [0]
    given = {"labels": [{"number": 2, "label": "light"}], "review": True}
    assert post(client, "answers", given).status_code == 200
    assert get(client, "review?order=skipped").json["total"] == 0


def test_the_map_shows_classes_where_they_are_known(client, queue, overview):
    contents = [queue.query(n).content for n in range(3)]
    places = {c: (n / 2, 0.5) for n, c in enumerate(contents)}
    paths = {c: queue.query(n).path for n, c in enumerate(contents)}
    overview.update(Insight(places=places, paths=paths))
    post(client, "answers", one(1, "light"))
    points = get(client, "map").json["points"]
    assert [point["class"] for point in points] == [-1, 1, -1]
    assert [point["number"] for point in points] == [0, 1, 2]
    found = post(client, "selected", {"numbers": [0, 1]}).json
    assert [image["number"] for image in found["images"]] == [0]


def test_images_of_class_folders_have_their_class_on_the_map(client, asking, overview):
    photos.fill(asking.root / "light", "light", [50])
    asking.prepare()
    path = "light/p1-050.png"
    content = asking.identify(path)
    overview.update(Insight(places={content: (0.5, 0.5)}, paths={content: path}))
    [point] = get(client, "map").json["points"]
    assert point["class"] == 1
    found = post(client, "selected", {"numbers": [point["number"]]}).json
    assert found["images"] == []
