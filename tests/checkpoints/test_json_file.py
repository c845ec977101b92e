"""JSON of strangers: what is read, and one sentence with file and key for everything else."""

import json

import pytest

from vit_jax.checkpoints.json_file import JsonObject, parse_json, read_json, shown
from vit_jax.errors import UserError

VALUES = {
    "depth": 12, "epsilon": 1e-6, "whole": 3, "flag": True, "name": "vit", "mean": [0.5, 1, 0], "sizes": [3, 4],
    "size": 224, "labels": ["a", "b"], "vision": {"depth": 2, "inner": {"x": "y"}}, "id2label": {"0": "a"}, "null": None,
}  # fmt: skip


def test_values_of_the_right_type():
    file = JsonObject(VALUES)
    assert (file.integer("depth"), file.number("epsilon"), file.number("whole")) == (12, 1e-6, 3.0)
    assert (file.boolean("flag"), file.text("name"), file.texts("labels")) == (True, "vit", ["a", "b"])
    assert file.numbers("mean", 3) == [0.5, 1, 0] and file.integers("sizes", 2) == [3, 4]
    assert file.sides("size") == [224, 224] and file.sides("sizes") == [3, 4]
    assert file.object("vision").integer("depth") == 2 and file.names("id2label") == {"0": "a"}
    file.must_agree("depth", 12)
    file.must_agree("null", 12)


def test_missing_and_null_give_the_default():
    file = JsonObject(VALUES)
    for key in ("null", "nowhere"):
        assert file.integer(key, 5) == 5 and file.text(key) is None and file.boolean(key, True) is True
        assert (
            file.object(key) == {} and file.names(key) == {} and file.numbers(key) is None and file.sides(key) is None
        )


def test_a_mapping_of_plain_values_that_keeps_its_file():
    file = JsonObject(VALUES, "w/config.json")
    assert dict(file) == VALUES and "depth" in file and not JsonObject()
    assert (file | {"depth": "x"}).where == ({"depth": "x"} | file).where == "w/config.json"
    assert ({"depth": 1, "more": 2} | file)["depth"] == 12 and (file | {"depth": 1})["depth"] == 1


@pytest.mark.parametrize(
    ("method", "key", "value", "options", "message"),
    [
        ("integer", "k", "12", {}, "'k' is '12', not a whole number"),
        ("integer", "k", True, {}, "is True, not a whole number"),
        ("integer", "k", 2.0, {}, "is 2.0, not a whole number"),
        ("integer", "k", 10**9, {"at_least": 1, "at_most": 400}, "is 1000000000, not a whole number from 1 to 400"),
        ("integer", "k", 10**4000, {}, "is a number of many digits"),
        ("integer", "k", -1, {}, "is -1"),
        ("number", "k", float("nan"), {}, "is nan, not a finite number"),
        ("number", "k", float("inf"), {}, "is inf, not a finite number"),
        ("number", "k", 10**400, {}, "not a finite number"),
        ("number", "k", 0, {"above": 0}, "is 0, not a finite number above 0"),
        ("number", "k", -1, {"at_least": 0}, "of at least 0"),
        ("boolean", "k", 1, {}, "is 1, not true or false"),
        ("text", "k", ["gelu"], {}, r"is \['gelu'\], not a text"),
        ("text", "k", [[[]]], {}, "is a list of 1, not a text"),
        ("texts", "k", ["a", 1], {}, "not a list of texts"),
        ("texts", "k", "abc", {}, "is 'abc', not a list of texts"),
        ("numbers", "k", [0.5, None, 0.5], {"count": 3}, "not a list of 3 finite numbers"),
        ("numbers", "k", [0.5], {"count": 3}, r"is \[0.5\], not a list of 3"),
        ("integers", "k", [3, 0], {"at_least": 1}, "whole numbers from 1"),
        ("sides", "k", [224], {}, r"is \[224\], not a whole number from 1 to 32767 or a list of two"),
        ("sides", "k", 0, {}, "is 0"),
        ("object", "k", [], {}, "not an object"),
        ("names", "k", {"0": 1}, {}, "is an object, not an object of texts"),
        ("must_agree", "k", 11, {"found": 12}, "'k' is 11, but the tensors say 12"),
    ],
)
def test_values_of_a_wrong_type_or_size(method, key, value, options, message):
    for values, name in (({key: value}, "'k'"), ({"in": {key: value}}, r"'in\.k'")):
        file = JsonObject(values, "some/config.json")
        inner = file.object("in") if "in" in values else file
        with pytest.raises(UserError, match=message.replace("'k'", name)) as caught:
            getattr(inner, method)(key, **options)
        assert str(caught.value).startswith("some/config.json: ") and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' * 50_000, "is not JSON"),
        (b'{"a": %s}' % (b"9" * 5000), "is not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice"),
        (b'{"a": 1, "%s": 2, "%s": 3}' % (b"b" * 5000, b"b" * 5000), r"has the key 'bbb.*\.\.\. twice"),
        (b"", "is not JSON"),
    ],
)
def test_files_that_are_no_object(data, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=f"config.json {message}|config.json {message.replace('has', 'is not JSON: it has')}"
    ) as caught:
        read_json(path)
    assert len(str(caught.value)) < 400


def test_a_mark_in_front_and_what_is_too_long(tmp_path):
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(VALUES).encode(), "x") == VALUES
    with (tmp_path / "long.json").open("wb") as file:
        file.truncate(1 << 30)  # a hole: nothing is written
    with pytest.raises(UserError, match="long.json has 1073741824 bytes"):
        read_json(tmp_path / "long.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="folder.json could not be read"):
        read_json(tmp_path / "folder.json")


def test_values_are_shown_short_and_without_control_characters():
    assert shown("\x1b[31m\n") == r"'\x1b[31m\n'"
    for value in ("x" * 10**6, [["y" * 10**6]], ["z" * 99] * 3, {"a": 1}, -(10**4000), 1e308):
        assert len(shown(value)) < 100
