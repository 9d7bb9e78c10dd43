"""Label Studio itself against its backend here: is its queue sorted, filled in, and heard?

Starts the Label Studio that is installed (`pip install label-studio` in an environment of its own:
it needs other versions of much), with SQLite in a temporary folder; makes a project of small
pictures, connects the backend of `alprune label --label-studio`, labels through Label Studio's API
in the order of its queue, and tells its exports (JSON, JSON-MIN, CSV) to a new folder.

    python -m venv ls && ls/bin/pip install label-studio
    python tests/stress/label_studio.py --program ls/bin/label-studio

Exits with 1 at the first thing that is not as it should be. --keep FOLDER keeps the exports and
what Label Studio sent. --url and --key use one that is running.

Label Studio calls a backend and sends webhooks to its own machine only if it was started with
ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, which this does.

Measured (Label Studio 1.23.2): 8 of 8 tasks came in the order of the learner, the last 2 filled in;
corrected, deleted and skipped annotations were heard; 35 of 35 labels of each export were accepted,
and the skipped task of JSON (JSON-MIN and CSV leave it out).
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import photos

from alprune.labelling import open_asking
from alprune.labelling.question_files import interface
from alprune.labelling.web import Server, label_studio

EACH = 12  # pictures of a class
START_S = 900  # it makes its database first, which takes minutes on a busy machine
WAIT_S = 600  # for anything else
FORMATS = {"JSON": "json", "JSON_MIN": "json", "CSV": "csv"}


class Client:
    """Calls Label Studio's API."""

    def __init__(self, url, key):
        self.url, self.key = url.rstrip("/"), key

    def __call__(self, method, path, body=None, raw=False):
        headers = {"Authorization": f"Token {self.key}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", sent, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read()[:1000]!r}") from error
        return content if raw else json.loads(content or b"null")

    def is_up(self):
        try:
            return self("GET", "version") is not None
        except (OSError, ValueError):
            return False


def started(program, folder, port, key):
    """Start Label Studio; return its process."""
    environment = os.environ | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_USERNAME": "somebody@example.org",
        "LABEL_STUDIO_PASSWORD": secrets.token_urlsafe(12),
        "LABEL_STUDIO_USER_TOKEN": key,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "ML_BLOCK_LOCAL_IP": "false",  # or it calls no backend on its own machine
        "SSRF_PROTECTION_ENABLED": "false",  # or it sends no webhook there
    }
    words = [program, "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            words, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def check(right, what):
    if not right:
        raise SystemExit(f"FAILED: {what}")
    print(f"  {what}", flush=True)


def recorded(folder):
    """Keep what Label Studio sends to the backend."""
    heard, predicted = label_studio.LabelStudio.hear, label_studio.LabelStudio.predict

    def hear(self, message):
        keep(folder, f"webhook-{message.get('action')}.json", json.dumps(message, indent=1))
        return heard(self, message)

    def predict(self, tasks, schema):
        keep(folder, "predict.json", json.dumps({"tasks": tasks[:2], "label_config": schema}))
        return predicted(self, tasks, schema)

    label_studio.LabelStudio.hear, label_studio.LabelStudio.predict = hear, predict


def keep(folder, name, content):
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def wait_for(what, said):
    end = time.monotonic() + WAIT_S
    while not (found := what()):
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: {said} did not happen in {WAIT_S} s")
        time.sleep(0.1)
    return found


def is_quiet(server):
    """Tell whether the learner has learnt from all answers, and rests."""
    before = server.queue.due or server.queue.working
    time.sleep(1)
    return not (before or server.queue.due or server.queue.working)


def annotation(name):
    return {
        "result": [
            {
                "from_name": "label",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [name]},
            }
        ]
    }


def retrieve(call, project):
    """Do what "Retrieve Predictions" in the data manager does with all tasks."""
    chosen = {"selectedItems": {"all": True, "excluded": []}, "ordering": []}
    call("POST", f"dm/actions?id=retrieve_tasks_predictions&project={project}", chosen)


def label_in_order(call, project, asking, count):
    """Label the next tasks; return how many were those that the learner wants next."""
    sorted_, guessed = 0, 0
    wanted = [query.path for query in asking.journal.open]
    for place in range(count):
        task = call("GET", f"projects/{project}/next")
        path = task["data"]["path"]
        sorted_ += path == wanted[place]
        guessed += any(prediction["result"] for prediction in task.get("predictions", []))
        call("POST", f"tasks/{task['id']}/annotations", annotation(photos.truth(path)))
        wait_for(lambda path=path: path in asking.labels, f"the answer about {path}")
    return sorted_, guessed


def session(call, folder, kept):
    root = photos.make(folder / "photos", each=EACH)
    options = photos.options(root, query_size=6)
    with open_asking(folder / "run", classes=photos.NAMES, **options) as asking:
        server, ready = Server(asking, label_studio=0), threading.Event()
        thread = threading.Thread(
            target=server.run, args=(lambda url: ready.set(),), kwargs={"browse": False}
        )
        thread.start()
        try:
            assert ready.wait(WAIT_S)
            wait_for(lambda: asking.journal.open, "the first round")
            return labelled(call, folder, kept, asking, server)
        finally:
            server.close()
            thread.join(WAIT_S)


def labelled(call, folder, kept, asking, server):
    config = (folder / "run" / "label-studio.xml").read_text()
    check(config == interface(photos.NAMES), "label-studio.xml names the classes")
    project = call("POST", "projects", {
        "title": "pictures", "label_config": config, "sampling": "Uncertainty sampling",
        "show_collab_predictions": True,
    })["id"]  # fmt: skip
    tasks = json.loads((folder / "run" / "label-studio-all.json").read_text())
    call("POST", f"projects/{project}/import", tasks)
    backend = call(
        "POST", "ml", {"project": project, "url": server.label_studio, "title": "alprune"}
    )
    check(backend["state"] == "CO", f"the backend is connected ({backend['state']})")
    with urllib.request.urlopen(tasks[0]["data"]["image"]) as image:
        check(image.headers["Content-Type"] == "image/png", "the tasks' images are served")
    call("PATCH", f"projects/{project}", {"model_version": "alprune"})
    retrieve(call, project)
    first, _ = label_in_order(call, project, asking, 6)
    check(first == 6, f"{first} of 6 tasks came in the order of the learner")
    wait_for(lambda: is_quiet(server), "the end of learning")
    check(asking.journal.round > 1, f"the learner has learnt: round {asking.journal.round}")
    retrieve(call, project)
    second, guessed = label_in_order(call, project, asking, 2)
    check(second == 2, f"{second} of 2 tasks of the next round came in its order")
    check(guessed == 2, f"{guessed} of 2 tasks were filled in with guesses")
    correct(call, project, asking)
    for task in call("GET", f"tasks?project={project}&page_size=100")["tasks"]:
        if not (task["is_labeled"] or task["cancelled_annotations"]):
            name = photos.truth(task["data"]["path"])
            call("POST", f"tasks/{task['id']}/annotations", annotation(name))
    total = 3 * EACH - 1  # one was skipped
    wait_for(lambda: len(asking.labels) == total, f"{total} answers ({len(asking.labels)})")
    check(
        asking.labels == {p: photos.truth(p) for p in asking.labels}, f"{total} answers are right"
    )
    told_back(call, project, folder, kept, total)


def correct(call, project, asking):
    """Change an answer, take it back, skip a task."""
    task = call("GET", f"projects/{project}/next")
    path, at = task["data"]["path"], f"tasks/{task['id']}/annotations"
    wrong = next(name for name in photos.NAMES if name != photos.truth(path))
    made = call("POST", at, annotation(wrong))
    wait_for(lambda: asking.labels.get(path) == wrong, "the answer")
    call("PATCH", f"annotations/{made['id']}", annotation(photos.truth(path)))
    wait_for(lambda: asking.labels.get(path) == photos.truth(path), "the correction")
    call("DELETE", f"annotations/{made['id']}", raw=True)
    wait_for(lambda: path not in asking.labels, "the withdrawal")
    call("POST", at + "?was_cancelled=true", {"result": []})
    wait_for(lambda: None in asking.journal.counts and asking.journal.counts[None], "the skip")
    check(True, "a corrected, a deleted and a skipped annotation are heard")


def told_back(call, project, folder, kept, total):
    for kind, ending in FORMATS.items():
        exported = call(
            "GET", f"projects/{project}/export?exportType={kind}&download_all_tasks=true", raw=True
        )
        file = folder / f"{kind}.{ending}"
        file.write_bytes(exported)
        keep(kept, file.name, exported)
        options = photos.options(folder / "photos")
        with open_asking(folder / f"told-{kind}", **options) as asking:
            told = asking.tell(file, new_classes=True, unasked=True)
            right = asking.labels == {p: photos.truth(p) for p in asking.labels}
        found = sum(told.labels.values())
        said = f"{kind}: {found} of {total} labels told, {told.skipped} skipped"
        check(right and found == total, said)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--program", default="label-studio")
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("--url", help="of one that is running; with --key, its access token")
    parser.add_argument("--key", default=secrets.token_hex(20))
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alprune-") as name:
        folder, process = Path(name), None
        os.environ["ALPRUNE_CACHE"] = str(folder / "cache")
        if chosen.url is None:
            (folder / "studio").mkdir()
            process = started(chosen.program, folder / "studio", chosen.port, chosen.key)
        try:
            call = Client(chosen.url or f"http://127.0.0.1:{chosen.port}", chosen.key)
            begin = time.monotonic()
            while not call.is_up():
                if time.monotonic() - begin > START_S or (process and process.poll() is not None):
                    sys.exit("FAILED: Label Studio did not start: "
                             + (folder / "studio" / "log.txt").read_text()[-2000:])  # fmt: skip
                time.sleep(1)
            print(f"Label Studio {call('GET', 'version')['label-studio-os-package']['version']}")
            recorded(chosen.keep)
            session(call, folder, chosen.keep)
        finally:
            if process is not None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(WAIT_S)


if __name__ == "__main__":
    main()
