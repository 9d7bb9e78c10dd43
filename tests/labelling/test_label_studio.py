"""The backend for Label Studio, by messages that Label Studio 1.23.2 has sent, and its exports."""

import json
import os
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import photos
import pytest

from alprune.errors import ConfigError, DataError, StoreError
from alprune.labelling import open_asking
from alprune.labelling.classes import rename_class
from alprune.labelling.insight import Insight
from alprune.labelling.journal import Query
from alprune.labelling.question_files import INTERFACE, interface
from alprune.labelling.web import Server
from alprune.labelling.web.label_studio import LabelStudio, read_control
from alprune.labelling.web.label_studio_app import make_backend, token_of, write_tasks
from alprune.labelling.web.leases import Client
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.previews import Previews
from alprune.labelling.web.queue import LabelQueue

SENT = Path(__file__).parent / "fixtures" / "label_studio"
TOKEN = "a" * 24


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos")
    with open_asking(tmp_path / "run", classes=photos.NAMES, **photos.options(root)) as asking:
        asking.ask()
        yield asking


@pytest.fixture
def overview(asking):
    return Overview(asking, LabelQueue(asking))


@pytest.fixture
def backend(asking, overview):
    return LabelStudio(asking, overview._queue, overview, "http://127.0.0.1:9090/TOKEN/image?path=")


@pytest.fixture
def client(asking, backend):
    return make_backend(backend, Previews(asking.pictures), TOKEN).test_client()


def sent(name):
    return json.loads((SENT / f"{name}.json").read_text())


def task(path):
    return {"id": 1, "data": {"path": path}}


@pytest.mark.parametrize("name", ["export.json", "export-min.json", "export.csv"])
def test_the_exports_of_label_studio_are_told(asking, name):
    told = asking.tell(SENT / name, unasked=True)
    assert asking.labels == {"unlabelled/p0-000.png": "dark", "unlabelled/p1-001.png": "light"}
    assert told.skipped == (name == "export.json")  # the others leave skipped tasks out


def test_an_annotation_is_an_answer_and_its_correction_and_its_end_are_heard(client, asking):
    made, changed = sent("created"), sent("updated")
    path = made["task"]["data"]["path"]
    assert client.post(f"/{TOKEN}/webhook", json=made).json == {"taken": True}
    assert asking.labels == {path: "striped"}
    changed["task"], changed["annotation"]["id"] = made["task"], made["annotation"]["id"]
    changed["annotation"]["result"][0]["value"]["choices"] = ["light"]
    client.post(f"/{TOKEN}/webhook", json=changed)
    assert asking.labels == {path: "light"}
    gone = sent("deleted") | {"annotations": [{"id": made["annotation"]["id"]}]}
    assert client.post(f"/{TOKEN}/webhook", json=gone).status_code == 201
    assert asking.labels == {}


def test_an_annotation_from_before_a_restart_can_be_taken_back(client, asking, overview):
    made = sent("created")
    client.post(f"/{TOKEN}/webhook", json=made)
    again = LabelStudio(asking, overview._queue, overview)
    again.hear({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": made["annotation"]["id"]}]})
    assert asking.labels == {}


def annotated(key, by, label, action="created", **fields):
    message = sent(action)
    message["task"] = sent("created")["task"]
    message["annotation"] |= {"id": key, "completed_by": by, "updated_by": by} | fields
    message["annotation"]["result"][0]["value"]["choices"] = [label]
    return message


def deleted(*keys):
    return {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": key} for key in keys]}


def holds(asking):
    [answer] = asking.journal.answers.values()
    return answer.label, answer.user


def test_a_deleted_annotation_takes_no_other_persons_label_away(backend, asking):
    backend.hear(annotated(1, 7, "dark"))
    backend.hear(annotated(2, 8, "light"))
    backend.hear(deleted(2))
    assert holds(asking) == ("dark", "7") and asking.journal.opinions.agreement() is None
    backend.hear(annotated(3, 8, "light"))
    backend.hear(deleted(1))
    assert holds(asking) == ("light", "8")
    backend.hear(annotated(4, 8, "light"))  # once more
    backend.hear(deleted(3))
    assert holds(asking) == ("light", "8")
    [answer] = asking.journal.answers.values()
    number = backend._queue.number(Query(answer.path, answer.content, ""))
    backend._queue.answer({number: "striped"}, Client("s", "carl"), review=True)
    again = LabelStudio(asking, backend._queue, backend._overview)
    again.hear(deleted(4))
    assert holds(asking) == ("striped", "carl")
    assert asking.journal.opinions.of[answer.content] == {}


@pytest.mark.parametrize("keys", [(1, 2), (2, 1)])
def test_annotations_of_two_people_that_are_deleted_at_once_leave_no_label(backend, asking, keys):
    backend.hear(annotated(1, 7, "dark"))
    backend.hear(annotated(2, 8, "light"))
    backend.hear(deleted(*keys, *keys))
    assert not asking.journal.answers and not any(asking.journal.opinions.of.values())


def test_of_two_annotations_of_a_person_the_one_that_is_left_holds(backend, asking):
    for key, label in enumerate(("dark", "light", "striped"), start=1):
        backend.hear(annotated(key, 7, label))
    rename_class(asking, "light", "bright")
    again = LabelStudio(asking, backend._queue, backend._overview)
    again.hear(deleted(1))
    assert holds(asking) == ("striped", "7")
    again.hear(deleted(3))
    assert holds(asking) == ("bright", "7")
    backend.hear(annotated(4, 8, "dark"))
    backend.hear(annotated(5, 8, "striped"))
    backend.hear(deleted(5))
    assert holds(asking) == ("bright", "7")
    [answer] = asking.journal.answers.values()
    assert asking.journal.opinions.of[answer.content] == {"7": "bright", "8": "dark"}


def test_what_is_left_of_annotations_makes_no_class(backend, asking):
    rename_class(asking, "dark", "Dark")
    backend.hear(annotated(1, 7, "dark"))  # as Label Studio's interface still says
    backend.hear(annotated(2, 7, "light"))
    backend.hear(deleted(2))
    assert holds(asking) == ("Dark", "7") and "dark" not in asking.journal.offered


def test_a_deletion_that_cannot_be_written_is_known_when_it_is_sent_again(
    backend, asking, monkeypatch
):
    def full(*args, **options):
        raise StoreError("no space left")

    backend.hear(annotated(1, 7, "dark"))
    with monkeypatch.context() as patch:
        patch.setattr(asking.journal.folder, "event", full)
        with pytest.raises(StoreError):
            backend.hear(deleted(1))
    backend.hear(deleted(1))
    assert not asking.journal.answers


def test_an_annotation_of_an_image_that_came_with_a_class_has_no_effect_or_is_refused(
    backend, asking
):
    photos.fill(asking.root / "dark", "dark", [50])
    asking.prepare()
    told = annotated(1, 7, "light")
    told["task"] = task("dark/p0-050.png")
    with pytest.raises(DataError, match="came with the class .dark.*move the file"):
        backend.hear(told)
    told["annotation"]["result"][0]["value"]["choices"] = ["dark"]
    backend.hear(told)
    assert not asking.journal.answers


def test_an_annotation_is_of_the_image_that_is_at_its_path_today(backend, asking):
    made = annotated(1, 7, "light")
    path = made["task"]["data"]["path"]
    asking.journal.more([Query(path, asking.identify(path), "uncertain")])
    photos.picture("light", 99).save(asking.root / path)
    asking.prepare()
    backend.hear(made)
    [answer] = asking.journal.answers.values()
    assert (answer.path, answer.content) == (path, asking.identify(path))


def test_a_correction_of_ones_own_annotation_is_no_review(backend, asking):
    backend.hear(annotated(1, 7, "dark"))
    backend.hear(annotated(1, 7, "light", "updated"))
    assert holds(asking) == ("light", "7")
    backend.hear(annotated(2, 8, "dark"))
    backend.hear(annotated(2, 8, "light", "updated"))
    assert holds(asking) == ("light", "7")
    assert asking.journal.opinions.agreement().agreed == 1
    backend.hear(annotated(2, 8, "striped", "updated"))
    assert asking.journal.opinions.unsettled
    backend.hear(annotated(1, 7, "striped", "updated", updated_by=9))
    assert holds(asking)[0] == "striped" and not asking.journal.opinions.unsettled


def test_a_skipped_task_is_a_skip_and_a_new_choice_is_a_class(backend, asking):
    made = sent("created")
    made["annotation"] |= {"result": [], "was_cancelled": True}
    backend.hear(made)
    assert asking.journal.counts[None] == 1 and not asking.labels
    made = sent("created")
    made["annotation"]["result"][0]["value"]["choices"] = ["spotted"]
    backend.hear(made)
    assert asking.labels == {made["task"]["data"]["path"]: "spotted"}
    assert "spotted" in asking.journal.offered


def test_who_annotated_is_recorded(backend, asking):
    made = sent("created")
    made["annotation"]["completed_by"] = {"id": 3, "email": "anna@example.org"}
    backend.hear(made)
    [answer] = asking.journal.answers.values()
    assert answer.user == "anna@example.org"


def test_images_that_are_asked_about_have_the_lowest_scores_in_their_order(client, asking):
    asked = [query.path for query in asking.journal.open]
    others = [path for path in asking.every_path() if path not in asked]
    tasks = [task(path) for path in (*others, *reversed(asked))]
    answer = client.post(f"/{TOKEN}/predict", json={"tasks": tasks, "label_config": ""}).json
    assert len(answer["results"]) == len(tasks)
    scores = {t["data"]["path"]: r["score"] for t, r in zip(tasks, answer["results"], strict=True)}
    assert sorted(asked, key=scores.__getitem__) == asked
    assert max(scores[path] for path in asked) < 0.5 <= min(scores[path] for path in others)
    assert {result["model_version"] for result in answer["results"]} == {"alprune"}


def test_tasks_are_filled_in_with_guesses_the_less_sure_first(backend, overview, asking):
    others = [p for p in asking.every_path() if p not in {q.path for q in asking.journal.open}]
    sure = {others[0]: 0.9, others[1]: 0.4}
    guessed = [Query(p, asking.identify(p), "guess", "dark", s) for p, s in sure.items()]
    overview.update(Insight(guessed=guessed))
    first, second = backend.predict([task(path) for path in sure], interface(["dark", "light"]))
    [result] = first["result"]
    assert result == {"from_name": "label", "to_name": "image", "type": "choices",
                      "value": {"choices": ["dark"]}, "score": 0.9}  # fmt: skip
    assert 0.5 < second["score"] < first["score"] < 1
    [unknown, _] = backend.predict([task(path) for path in sure], interface(["cat", "light"]))
    assert unknown["result"] == []  # Label Studio would show a choice that it does not have


def test_no_guess_is_filled_in_for_a_drawn_image(backend, overview, asking):
    query = asking.journal.open[0]
    guess = replace(query, guess="dark", probability=0.9)
    overview.update(Insight(guessed=[guess]))
    assert backend.predict([task(query.path)], "")[0]["result"]
    asking.journal.more([replace(guess, why="random")])
    assert not backend.predict([task(query.path)], "")[0]["result"]


def test_a_labelled_image_gets_its_label_last(backend, asking):
    path = asking.journal.open[0].path
    asking.tell({path: "light"})
    [found] = backend.predict([task(path)], "")
    assert found["score"] == 1 and found["result"][0]["value"] == {"choices": ["light"]}


def test_images_are_found_however_a_task_names_them(backend, asking):
    path = asking.every_path()[0]
    name = path.rpartition("/")[2]
    for text in (
        f"/data/local-files/?d={path}",
        f"{backend.address}{path}",
        f"/data/upload/1/0123abcd-{name}",
        str(asking.root / path),
    ):
        made = sent("created")
        made["task"]["data"] = {"image": text}
        backend.hear(made)
        assert asking.labels == {path: "striped"}, text
        asking.journal.tell([], withdrawn=[asking.identify(path)])
    stranger = backend.predict([{"data": {"image": "somewhere/else.png"}}], "")
    assert stranger == [{"result": [], "score": 0.5, "model_version": "alprune"}]


def test_an_exact_path_is_found_without_a_search_of_all(backend, asking, monkeypatch):
    others = {*asking.every_path()} - {query.path for query in asking.journal.open}
    monkeypatch.setattr(type(asking), "every_path", None)
    found = backend.predict([task(path) for path in sorted(others)], "")
    assert len(found) == len(others)


def test_what_label_studio_asks_besides(client, asking):
    assert client.get(f"/{TOKEN}/health").json["status"] == "UP"
    first = client.post(f"/{TOKEN}/setup", json={"schema": interface(["a"])}).json["model_version"]
    assert client.get(f"/{TOKEN}/versions").json == {"versions": [first]}
    assert client.post(f"/{TOKEN}/train", json={}).status_code == 201
    assert client.post(f"/{TOKEN}/webhook", json={"action": "PROJECT_UPDATED"}).json == {
        "taken": False
    }
    for query in asking.journal.open:
        asking.tell({query.path: photos.truth(query.path)})
    asking.ask()
    assert client.post(f"/{TOKEN}/setup", json={}).json["model_version"] != first


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("<View><Image name='i' value='$i'/></View>", "0 controls"),
        ("<View><Choices name='a'/><Choices name='b'/></View>", "2 controls"),
        ("<View><Choices name='a' choice='multiple'/></View>", "0 controls"),
        ("<View>", "no XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><View/>", "document type"),
    ],
)
def test_an_interface_without_one_choice_is_refused(client, schema, said):
    answer = client.post(f"/{TOKEN}/setup", json={"schema": schema})
    assert answer.status_code == 400 and said in answer.json["error"]


def test_a_control_has_the_names_of_the_interface():
    control = read_control(
        "<View><!-- a note --><Choices name='kind' toName='photo'><Choice value='a'/>"
        "<Choice value='b' alias='c'/></Choices><Choices name='other' choice='multiple'/></View>"
    )
    assert control.name == "kind" and control.image == "photo"
    assert control.choices == {"a", "c"}
    with pytest.raises(ConfigError, match="2 controls"):
        read_control("<View><Choices name='x'/><Choices name='y'/></View>")


@pytest.mark.parametrize(
    "body", [[], {"tasks": 3}, {"tasks": [3]}, {"tasks": [{"data": 1}]}, {"tasks": ["x"]}]
)
def test_what_is_no_request_is_refused(client, body):
    assert client.post(f"/{TOKEN}/predict", json=body).status_code == 400
    for message in ({"action": "ANNOTATION_CREATED"}, {"action": "ANNOTATION_UPDATED", "task": []}):
        assert client.post(f"/{TOKEN}/webhook", json=message).status_code == 400


def test_without_the_token_nothing_is_said(client):
    for path in ("/", "/health", f"/{TOKEN[:-1]}b/health", "/x/image?path=unlabelled/p0-000.png"):
        assert client.get(path).status_code in (403, 404)


def test_the_token_stays_and_only_its_owner_reads_it(tmp_path):
    token = token_of(tmp_path)
    assert token_of(tmp_path) == token and len(token) == 24
    assert os.stat(tmp_path / "label-studio.token").st_mode & 0o077 == 0
    (tmp_path / "label-studio.token").write_text("short")
    assert len(token_of(tmp_path)) == 24


def test_tasks_name_every_image_that_has_no_label(asking, backend, client):
    path = asking.journal.open[0].path
    asking.tell({path: "light"})
    tasks = json.loads(write_tasks(asking.path, backend).read_text())
    assert {t["data"]["path"] for t in tasks} == {*asking.every_path()} - {path}
    address = tasks[0]["data"]["image"].replace("http://127.0.0.1:9090/TOKEN", f"/{TOKEN}")
    assert client.get(address).mimetype == "image/png"
    assert client.get(f"/{TOKEN}/image?path=../run/config.toml").status_code == 400


def test_images_that_came_with_a_class_are_no_tasks_before_they_were_looked_at(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    root = photos.make(tmp_path / "photos", each=2)
    for folder in ("dark", "test/dark", "test/light"):
        photos.fill(root / folder, "dark", [50])
    with open_asking(tmp_path / "run", classes=["light"], **photos.options(root)) as asking:
        queue = LabelQueue(asking)
        tasks = write_tasks(asking.path, LabelStudio(asking, queue, Overview(asking, queue)))
        paths = {task["data"]["path"] for task in json.loads(tasks.read_text())}
        assert len(paths) == 6 and all(path.startswith("unlabelled/") for path in paths)
        control = read_control((asking.path / INTERFACE).read_text())
        assert control.choices == {"light", "dark", "skip"}


def test_a_long_body_is_read_only_with_the_token(asking):
    server, ready = Server(asking, label_studio=0), threading.Event()
    thread = threading.Thread(
        target=server.run, args=(lambda url: ready.set(),), kwargs={"browse": False}
    )
    thread.start()
    try:
        assert ready.wait(200)
        tasks = json.dumps({"tasks": [task("x" * 1000)] * 300}).encode()
        assert len(tasks) > 2**18
        assert len(json.loads(post(f"{server.label_studio}/predict", tasks))["results"]) == 300
        with pytest.raises((urllib.error.URLError, ConnectionError)) as refused:
            post(server.label_studio[:-1] + "/predict", tasks)
        # Or closed while it is sent; 403 would come after the body was read.
        assert getattr(refused.value, "code", 400) == 400
        assert not isinstance(getattr(refused.value, "reason", None), TimeoutError)
    finally:
        server.close()
        thread.join(200)


def post(url, body):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=200) as answer:
        return answer.read()
