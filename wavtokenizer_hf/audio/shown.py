"""Text that came from outside, as it may be shown: names of files, and what errors quote of them."""

import html
import re
import unicodedata

# Control characters, separators of lines, and what turns the direction of writing.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")


def printable(text: str) -> str:
    """Text on one line, with escapes for what a terminal would act upon."""
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode()
        for char in text
    )


def folded(text: str) -> str:
    """`printable`, with each run of white space as one space: for messages, which may have lines."""
    return printable(" ".join(text.split()))


def in_code(text: str) -> str:
    """Text between backticks of Markdown, on one line, also in the cell of a table."""
    return _UNSEEN.sub(" ", text).replace("`", "'").replace("|", "\\|")


def markdown(text: str) -> str:
    """Text as Markdown that says just that, on one line, also in the cell of a table."""
    escaped = re.sub(r"([\\`*|~])", r"\\\1", html.escape(_UNSEEN.sub(" ", text), quote=False))
    return escaped.replace("](", "]\\(")
