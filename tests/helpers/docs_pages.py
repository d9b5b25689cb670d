"""The code that README and docs show: commands and Python."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code(page: Path) -> Iterator[str]:
    """Every line of shell code, continued lines joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(.*)\n((?s:.*?))^```$", text, re.M)
    fenced = [block for language, block in blocks if language in ("", "bash")]
    indented = re.findall(r"^ {4}(\S.*)$", text, re.M)
    yield from [line for block in fenced for line in block.splitlines()] + indented


def commands(page: Path) -> Iterator[str]:
    """Every line that begins with `vitgan`, or runs it by its path or with torchrun."""
    for line in code(page):
        match = re.match(r"\s*(?:.*(?:-m |/bin/))?(vitgan [a-z].*)", line)
        if match is not None and not re.search(r"…|\[--", line):  # neither cut short nor a synopsis
            yield match[1].removesuffix("' &")


def scripts(page: Path) -> Iterator[str]:
    """Every `python benchmarks/….py …`, of a line of code or of a caption."""
    text = page.read_text("utf-8")
    yield from (" ".join(found.split()) for found in re.findall(r"`(python benchmarks/[^`]+)`", text))
    yield from (line for line in code(page) if line.startswith("python benchmarks/"))


def python(page: Path) -> Iterator[str]:
    """Every block of Python."""
    yield from re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)


def files(page: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every block of Python that a page titles with the name of a file."""
    yield from re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```', page.read_text("utf-8"), re.M | re.S)


def extras(page: Path) -> Iterator[str]:
    """Every extra of the package that a page says to install."""
    yield from re.findall(r"vitgan\[(\w+)\]", page.read_text("utf-8"))
