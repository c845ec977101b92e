"""Config files: what is wrong in one is said with its line, and their arguments are typed text."""

import sys

import pytest

from vit_jax import UserError
from vit_jax.training.config import load_config, override, parse_arg, shipped_configs
from vit_jax.training.config_file import config_path, read_header

GOOD = "def get_config(arg=''):\n    return {'seed': 1}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no function get_config"),
        ("get_config = 3\n", "has no function get_config"),
        ("def get_config(arg=''):\n    pass\n", "get_config of .*c.py returns None. Let it return the config"),
        ("def get_config(arg=''):\n    return 3\n", "returns 3"),
        ("def get_config(:\n", r"c.py, line 1: SyntaxError: .* It says: def get_config\(:"),
        ("import nothing_of_this_name\n" + GOOD, "c.py, line 1: ModuleNotFoundError: .* import nothing_of_this_name"),
        ("def get_config(arg=''):\n    x = {}\n    return x['a']\n", r"c.py, line 3: KeyError: 'a'. It says: return x\['a'\]"),
        ("def get_config(arg=''):\n    return 1 / 0\n", "c.py, line 2: ZeroDivisionError"),
        ("def get_config(arg=''):\n    return {'a': {'b': [object()]}}\n", r"config.a.b\[0\] is <object"),
        ("from vit_jax.training.config import parse_arg\ndef get_config(arg=''):\n    return parse_arg(arg, 3)\n", "line 3: TypeError"),
        ("\0", "c.py.*: "),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_config_is_one_sentence(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / "c.py"))


def test_a_config_may_take_no_argument(tmp_path):
    (tmp_path / "c.py").write_text("import numpy as np\ndef get_config():\n    return {'seed': np.int64(1)}\n")
    assert load_config(str(tmp_path / "c.py")) == {"seed": 1}
    with pytest.raises(UserError, match="takes no arguments after the colon"):
        load_config(f"{tmp_path}/c.py:smoke")
    assert not (tmp_path / "__pycache__").exists() and "c" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [("notes.txt", "Name a file that ends in .py"), (".", "is a directory"), ("x" * 300, "There is no config file"),
     ("digit", "Did you mean 'digits'"), ("", "There is no config file"), ("a\0b", "There is no config file")],
)  # fmt: skip
def test_what_is_no_config_file(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text(GOOD)
    with pytest.raises(UserError, match=message):
        load_config(name)


def test_a_comma_in_a_value_stands_in_quotes():
    defaults = {"data": "", "res": 1, "smoke": False}
    for text in ('data="a,b=c/d",res=3', "res=3,data='a,b=c/d'"):
        assert parse_arg(text, **defaults).to_dict() == {"data": "a,b=c/d", "res": 3, "smoke": False}
    assert parse_arg("data=it's,smoke", **defaults).data == "it's"
    with pytest.raises(UserError, match="'b'. Put a value with a comma in it in quotes"):
        parse_arg("data=a,b", **defaults)
    with pytest.raises(UserError, match="Close the quotes"):
        parse_arg('data="a,b', **defaults)


@pytest.mark.parametrize(
    ("current", "text", "value"),
    [
        (["x/.*"], "encoder/.*", ["encoder/.*"]),
        (["x/.*"], "[encoder/.*, head/.*]", ["encoder/.*", "head/.*"]),
        (["x/.*"], "['encoder/.*','head/.*']", ["encoder/.*", "head/.*"]),
        (None, "[encoder/.*]", ["encoder/.*"]),
        (None, "encoder/.*", "encoder/.*"),
        ([48, 48], "32", [32]),
        (0.1, "1" + "0" * 400, None),
    ],
)
def test_lists_as_the_shell_passes_them(current, text, value):
    if value is None:
        with pytest.raises(UserError, match="must be a number"):
            override({"a": current}, {"a": text})
    else:
        assert override({"a": current}, {"a": text}) == {"a": value}


@pytest.mark.parametrize("name", shipped_configs())
def test_headers_of_the_shipped_configs(name):
    header, arguments = read_header(config_path(name))
    assert (header and "smoke" in arguments) or name == "bench_b16"
