"""Untrusted text on a terminal."""

from crypto.text import escaped, printable

HOSTILE = "a\x1b[2J\nb\u202eé"


def test_what_a_terminal_acts_on_is_replaced():
    assert printable(HOSTILE) == "a\ufffd[2J\ufffdb\ufffdé"
    assert printable(HOSTILE, " ") == "a [2J b é"
    assert printable("plain — text") == "plain — text"


def test_what_a_terminal_acts_on_is_escaped():
    assert escaped(HOSTILE) == "a\\x1b[2J\\nb\\u202e\\xe9"
    assert escaped("plain — text") == "plain — text"
