"""What came from outside is shown as it is, and does nothing."""

import pytest
from markdown_it import MarkdownIt

from wavtokenizer_hf.audio.shown import folded, markdown, printable

NAMES = [
    "\x1b[31mred\x1b[2J.wav",
    "\x1b]0;title\x07.wav",
    "new\nline.wav",
    "return\rhere.wav",
    "\u202egnp.wav",
    "\u2028x.wav",
    "\x9b31m.wav",
    "\udcff.wav",
    "\x7f.wav",
]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_name_reaches_a_terminal_as_a_command(name):
    shown = printable(name)
    assert shown.isprintable()
    assert shown.encode("utf-8")
    assert shown != printable(name + "x")


@pytest.mark.parametrize("name", ["speech.wav", "é ü 漢字.wav", "no\u00a0break"])
def test_ordinary_names_are_shown_as_they_are(name):
    assert printable(name) == name


def test_a_message_of_many_lines_becomes_one():
    assert folded("first\n   second\t\x1b[0m") == "first second \\x1b[0m"


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a|b|c",
        "`code` **bold** [l](http://x) ~~gone~~",
        "x\ny",
        "\\`",
        "\\|",
        "![](http://x/y.png)",
        "&lt;",
        "- a",
        "0.5 [0.4, 0.6]",
    ],
)
def test_markdown_shows_a_text_in_a_cell_and_nothing_else(text):
    page = f"| head | other |\n| --- | --- |\n| {markdown(text)} | last |"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    children = cells[2].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == text.replace("\n", " ")
