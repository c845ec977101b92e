"""Text that is shown to people: what strangers put into names does nothing to their terminal."""

import pytest

from vit_jax.commands.table import table
from vit_jax.errors import UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07cat\x1b[2J", r"\x1b]0;owned\x07cat\x1b[2J"),
        ("a\nvit_jax: all is well\r\t", r"a\nvit_jax: all is well\r\t"),
        ("\x9b31m\x7f\0", r"\x9b31m\x7f\x00"),
        ("gpj\u202egnp\u2066\u2028", r"gpj\u202egnp\u2066\u2028"),
        ("\udcff.png", r"\udcff.png"),
        ("Ünicode 动物 👩‍🚀 C:\\n", "Ünicode 动物 👩‍🚀 C:\\n"),
        (3, "3"),
    ],
)
def test_control_characters_become_escapes(text, shown):
    assert printable(text) == shown
    assert str(UserError(f"There is no {text} here")) == f"There is no {shown} here."
    assert table(["name", text], [[text, "1"]]).count("\n") == 2 and shown in table(["name"], [[text]])


def test_a_word_without_end_is_shortened():
    text = str(UserError(f"There is no key {'k' * 5000}", "Did you mean 'key'?"))
    assert len(text) < 400 and text.startswith("There is no key kkk") and text.endswith("kkk. Did you mean 'key'?")
    assert "p" * 250 in str(UserError("p" * 250))
