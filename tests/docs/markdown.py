"""What the tests read in a document: code blocks, table rows, links and headings, each with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

REPOSITORY = Path(__file__).parent.parent.parent
_PATTERNS = ("*.md", "docs/*.md", "model_cards/*.md", "benchmarks/*.md", "tests/**/*.md")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    code: str
    line: int


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its whole text, and the spans of code in it."""

    text: str
    code: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table below its head, with the heading that it stands under."""

    section: str
    cells: tuple[Cell, ...]
    line: int


def documents() -> list[Path]:
    """Every document of the project, relative to the repository."""
    return sorted(
        {path.relative_to(REPOSITORY) for pattern in _PATTERNS for path in REPOSITORY.glob(pattern) if path.is_file()}
    )


def read(document: Path) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def blocks_and_rows(text: str) -> Iterator[Block | Row]:
    """Blocks of code and rows of tables, in the order in which they stand."""
    section = ""
    cells: list[Cell] = []
    tokens = _parse(text)
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            section = _plain(tokens[index + 1])
        elif token.type == "fence":
            yield Block(token.info.strip(), token.content, _line(token))
        elif token.type == "tr_open":
            cells = []
        elif token.type == "td_open":
            inline = tokens[index + 1]
            cells.append(Cell(_plain(inline), tuple(child.content for child in _spans(inline))))
        elif token.type == "tr_close" and cells:
            yield Row(section, tuple(cells), _line(tokens[index - 2]))
            cells = []


def blocks(text: str) -> list[Block]:
    return [item for item in blocks_and_rows(text) if isinstance(item, Block)]


def rows(text: str) -> list[Row]:
    return [item for item in blocks_and_rows(text) if isinstance(item, Row)]


def links(text: str) -> list[str]:
    """Targets of links and images."""
    inline = [child for token in _parse(text) if token.type == "inline" for child in token.children or ()]
    targets = [
        child.attrGet("href") or child.attrGet("src") for child in inline if child.type in ("link_open", "image")
    ]
    return [str(target) for target in targets if target]


def anchors(text: str) -> set[str]:
    """What a link may name after `#`, as GitHub forms it from the headings."""
    tokens = _parse(text)
    headings = [_plain(tokens[index + 1]) for index, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _parse(text: str) -> list[Token]:
    front_matter = re.match(r"---\n.*?^---\n", text, re.DOTALL | re.MULTILINE)
    if front_matter:
        text = "\n" * front_matter[0].count("\n") + text[front_matter.end() :]
    return MarkdownIt("commonmark").enable("table").parse(text)


def _spans(inline: Token) -> list[Token]:
    return [child for child in inline.children or () if child.type == "code_inline"]


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0
