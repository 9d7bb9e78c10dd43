import json
from pathlib import Path

import pytest

from alprune.errors import DataError
from alprune.labelling import read_answers
from alprune.labelling.read_answers import spellings, uploaded_name


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
        ("[1, 2]", "a.json", "not a list of tasks"),
        ("[{", "a.json", "not readable as CSV or JSON"),
        pytest.param("[" * 100_000, "a.json", "not readable as CSV or JSON", id="nested"),
        (json.dumps([task("a.png", "cat", "dog")]), "a.json", "2 labels for one image"),
        (json.dumps([{"path": "a.png", "label": 3}]), "a.json", "must be text, got 3"),
        (json.dumps([{"path": 5, "label": "x"}]), "a.json", "names no image"),
        (json.dumps([{"data": {"path": "x"}, "annotations": 3}]), "a.json", "are not a list"),
        (json.dumps([{"data": {"path": "x"}, "annotations": [3]}]), "a.json", "is not an object"),
        (
            json.dumps([{"data": {"path": "x"}, "annotations": [{"result": [{"type": [1]}]}]}]),
            "a.json",
            "the type of a result is not text",
        ),
        (
            json.dumps([task("a.png", "cat") | {"annotations": [{"result": 3}]}]),
            "a.json",
            "not a list",
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
        "file:///photos/unlabelled/a%20b.png",
        "/data/local-files/?d=unlabelled/a%20b.png",
        "/data/local-files/?d=/photos/unlabelled/a%20b.png",
    ],
)
def test_a_path_is_known_however_it_is_written(text):
    assert "unlabelled/a b.png" in list(spellings(text, Path("/photos")))


def test_a_path_that_a_spreadsheet_would_compute_is_known_with_its_apostrophe():
    assert "=1+1.png" in list(spellings("'=1+1.png", Path("/photos")))


# --- what peers send back ---


def annotation(*results, **more):
    return {"result": list(results), "was_cancelled": False} | more


def choice(label, control="label", **more):
    value = {"choices": [label] if isinstance(label, str) else label}
    return {"type": "choices", "from_name": control, "to_name": "image", "value": value} | more


def comment(kind="textarea"):
    return {"type": kind, "from_name": "note", "value": {"text": ["blurred"]}}


SKIP = annotation(was_cancelled=True)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([SKIP, annotation(choice("cat"))], [("cat", False)]),
        ([annotation(choice("cat")), SKIP], [("cat", False)]),
        ([annotation(choice("cat")), annotation(choice("cat"))], [("cat", False)]),
        ([annotation(choice("cat")), annotation(choice("dog"))], [("cat", False), ("dog", False)]),
        (
            [annotation(choice("cat")), annotation(choice("dog"), ground_truth=True)],
            [("dog", False)],
        ),
        ([SKIP, SKIP], [("", True)]),
        ([annotation(), annotation(choice("cat"))], [("cat", False)]),
        ([annotation()], [("", False)]),
        ([annotation(choice("cat"), comment())], [("cat", False)]),
        ([annotation(comment("rating"), choice("cat"), comment("number"))], [("cat", False)]),
        ([annotation(comment())], [("", False)]),
        ([annotation({"type": "relation", "from_id": "a"}, choice("cat"))], [("cat", False)]),
        ([annotation(choice("cat"), {"type": "rectanglelabels", "value": {}})], [("cat", False)]),
        ([annotation(choice("cat", "animal"))], [("cat", False)]),
        ([annotation(choice("cat"), choice("good", "quality"))], [("cat", False)]),
    ],
)
def test_what_annotators_said_of_a_task_becomes_its_label(tmp_path, annotations, expected):
    tasks = [{"id": 1, "data": {"path": "a.png"}, "annotations": annotations}]
    found = read(tmp_path, json.dumps(tasks), "export.json")
    assert [(label, skipped) for _, label, skipped in found] == expected


def test_of_several_questions_the_one_that_is_named_counts(tmp_path):
    both = annotation(choice("cat", "animal"), choice("good", "quality"))
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": {"path": "a.png"}, "annotations": [both]}]))
    with pytest.raises(DataError, match="several questions: .'animal', 'quality'.*--label-column"):
        read_answers(path)
    assert said(read_answers(path, column="animal")) == [("a.png", "cat", False)]
    path.write_text(json.dumps([{"path": "a.png", "animal": "cat"}, {"path": "b.png"}]))
    with pytest.raises(DataError, match="no task has a field 'label'.*got .'animal', 'path'"):
        read_answers(path)
    assert said(read_answers(path, column="animal")) == PLAIN
    path.with_suffix(".csv").write_text("path,animal\na.png,cat\nb.png,\n")
    assert said(read_answers(path.with_suffix(".csv"), column="Animal")) == PLAIN


def test_a_table_of_ours_that_came_back_from_label_studio_has_its_labels_in_choice(tmp_path):
    table = "path,label,predicted,choice\na.png,,dog,cat\nb.png,,dog,\n"
    assert read(tmp_path, table) == PLAIN


def test_predictions_are_no_labels(tmp_path):
    table = "path,class,probability,label\na.png,dog,0.9,cat\nb.png,dog,0.9,\n"
    assert read(tmp_path, table) == PLAIN
    path = tmp_path / "all.csv"
    for row in ("path,class,entropy\na.png,dog,0.1\n", "class,confidence,file\ndog,0.9,a.png\n"):
        path.write_text(row)
        with pytest.raises(DataError, match="what the learner takes the images for.*no column"):
            read_answers(path)
        [given] = read_answers(path, column="class")
        assert (given.label, given.predicted) == ("dog", True)
    assert read(tmp_path, "path,class\na.png,cat\nb.png,\n") == PLAIN
    asked = "path,class,predicted,probability,entropy\na.png,cat,dog,0.9,0.1\nb.png,,dog,0.9,0.1\n"
    assert read(tmp_path, asked) == PLAIN  # queries.csv, whose guesses are called "predicted"


def test_a_table_of_ours_says_which_content_is_meant(tmp_path):
    path, content = tmp_path / "labels.csv", "0123456789abcdef" * 2
    path.write_text(f"path,label,content\na.png,cat,{content}\nb.png,,1.2E+31\n")
    assert [given.content for given in read_answers(path)] == [content, ""]


def test_an_upload_is_known_by_its_file_where_its_field_has_another_name(tmp_path):
    task = {"file_upload": "3f2a8b10-007.png", "data": {"photo": "/data/upload/1/3f2a8b10-007.png"}}
    task["annotations"] = [annotation(choice("cat"))]
    path, label, _ = read(tmp_path, json.dumps([task]), "export.json")[0]
    assert (uploaded_name(path), label) == ("007.png", "cat")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/upload/1/3f2a8b10-007.png", "007.png"),
        ("data/upload/12/0123abcd-a-b.png", "a-b.png"),
        ("http://localhost:8080/data/upload/1/3f2a8b10-a%20b.png", "a b.png"),
        ("/data/upload/1/007.png", None),
        ("unlabelled/3f2a8b10-007.png", None),
    ],
)
def test_the_name_before_an_upload_is_found(path, name):
    assert uploaded_name(path) == name


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/unlabelled/a%20b.png", "http://host:8080/unlabelled/a b.png?X-Amz-Date=1"],
)
def test_an_address_leads_to_its_path(text):
    assert any(path.endswith("unlabelled/a b.png") for path in spellings(text, Path("/photos")))


def test_spaces_at_the_ends_of_paths_are_kept(tmp_path):
    assert read(tmp_path, "path,label\n begin.png , cat \n") == [(" begin.png ", "cat", False)]


@pytest.mark.parametrize("text", ["file://[]", "http://[a/b.png", "https://]/local-files/?d=a.png"])
def test_an_address_that_is_none_is_a_name(text):
    assert text in list(spellings(text, Path("/photos")))
