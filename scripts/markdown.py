"""Tables in Markdown, and the part of a page that a program writes."""

import pathlib
from collections.abc import Iterable, Sequence

END = "<!-- Up to here. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown with this head and these rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_tables(page: pathlib.Path, begin: str, tables: str) -> None:
    """Replaces the text between the comments `begin` and `END` of a page, and keeps the rest."""
    before, rest = page.read_text().split(begin)
    _, after = rest.split(END)
    page.write_text(before + begin + "\n\n" + tables + "\n" + END + after)
