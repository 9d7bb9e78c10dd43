import json
from pathlib import Path

import pytest

from alprune.errors import DataError
from alprune.labelling import read_answers
from alprune.labelling.read_answers import spellings


def said(given):
    return [(entry.path, entry.label, entry.skipped) for entry in given]


def read(tmp_path, content, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return said(read_answers(path))


PLAIN = [("a.png", "cat", False), ("b.png", "", False)]


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.png,cat\nb.png,\n",
        "path,label\r\na.png,cat\r\nb.png,\r\n",
        "path;label\r\na.png;cat\r\nb.png;\r\n",
        "path\tlabel\na.png\tcat\nb.png\t\n",
        "\ufeffpath,label\na.png,cat\nb.png,\n",
        "label,path\ncat,a.png\n,b.png\n",
        ' Path , LABEL\n\n"a.png", cat \nb.png\n,\n',
        "path,label\ra.png,cat\rb.png,\r",
        "path,label\na.png,cat\nb.png,\n".encode("utf-16"),
        "path,label,predicted\na.png,cat,dog\nb.png,,dog\n",
    ],
)
def test_a_table_reads_the_same_however_a_spreadsheet_saved_it(tmp_path, content):
    assert read(tmp_path, content) == PLAIN


def test_letters_of_a_western_windows_code_page_are_read(tmp_path):
    content = "path;label\nbär.png;Käse\n".encode("cp1252")
    assert read(tmp_path, content) == [("bär.png", "Käse", False)]


def task(path, *labels, **more):
    result = [
        {"type": "choices", "from_name": "label", "to_name": "image",
         "value": {"choices": [label]}} for label in labels
    ]  # fmt: skip
    return {
        "id": 7,
        "data": {"image": f"/data/local-files/?d={path}", "path": path},
        "annotations": [{"result": result, "was_cancelled": False} | more],
    }


def test_label_studios_json_is_read(tmp_path):
    tasks = [task("a.png", "cat"), task("b.png"), task("c.png", was_cancelled=True)]
    tasks.append({"id": 9, "data": {"path": "d.png"}, "annotations": []})
    assert read(tmp_path, json.dumps(tasks), "export.json") == [
        ("a.png", "cat", False),
        ("b.png", "", False),
        ("c.png", "", True),
        ("d.png", "", False),
    ]


def test_label_studios_short_forms_are_read(tmp_path):
    short = [
        {"image": "/data/local-files/?d=x", "path": "a.png", "id": 1, "label": "cat"},
        {"path": "b.png", "choice": ""},
    ]
    assert read(tmp_path, json.dumps(short), "min.json") == PLAIN
    table = (
        "annotation_id,annotator,id,image,label,path\n"
        "1,1,1,/data/local-files/?d=x,cat,a.png\n"
        '2,1,2,/data/local-files/?d=y,"{""choices"": [""cat""]}",b.png\n'
    )
    assert read(tmp_path, table) == [("a.png", "cat", False), ("b.png", "cat", False)]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.csv", "it is empty"),
        ("file names\nx\n", "a.csv", "names no column 'path'"),
        ("path,predicted\nx,y\n", "a.csv", "names no column 'label'"),
        ("path,label\n,cat\n", "a.csv", "line 2 names no image"),
        (b"path,label\n\0\n", "a.csv", "null characters"),
        ("[1, 2]", "a.json", "no list of tasks"),
        ("[{", "a.json", "no readable CSV or JSON"),
        pytest.param("[" * 100_000, "a.json", "no readable CSV or JSON", id="nested"),
        (json.dumps([task("a.png", "cat", "dog")]), "a.json", "2 labels for one image"),
        (json.dumps([{"path": "a.png", "label": 3}]), "a.json", "must be text, got 3"),
        (json.dumps([{"path": 5, "label": "x"}]), "a.json", "names no image"),
        (json.dumps([{"data": {"path": "x"}, "annotations": 3}]), "a.json", "are no list"),
        (json.dumps([{"data": {"path": "x"}, "annotations": [3]}]), "a.json", "is no object"),
        (
            json.dumps([task("a.png", "cat") | {"annotations": [{"result": 3}]}]),
            "a.json",
            "no list",
        ),
        (
            json.dumps([task("a.png", "cat")]).replace('"choices", "from', '"rectangle", "from'),
            "a.json",
            "holds 'rectangle'; expected choices",
        ),
    ],
)
def test_what_is_no_table_of_labels_is_refused_with_its_place(tmp_path, content, name, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read labels from .*none.csv"):
        read_answers(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "text",
    [
        "unlabelled/a b.png",
        "unlabelled\\a b.png",
        "./unlabelled/a b.png",
        "/photos/unlabelled/a b.png",
        "/data/local-files/?d=unlabelled/a%20b.png",
        "/data/local-files/?d=/photos/unlabelled/a%20b.png",
    ],
)
def test_a_path_is_known_however_it_is_written(text):
    assert "unlabelled/a b.png" in list(spellings(text, Path("/photos")))


def test_a_path_that_a_spreadsheet_would_compute_is_known_with_its_apostrophe():
    assert "=1+1.png" in list(spellings("'=1+1.png", Path("/photos")))
