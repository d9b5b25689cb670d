"""README and docs: their commands are of the command line, their links lead somewhere.

That they run: test_pages_run.py.
"""

import argparse
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs_pages import PAGES, ROOT, commands, extras, scripts
from vitgan import recipes
from vitgan.cli import _split, build_parser

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not part of this copy")

TEST = re.compile(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)?(?:::(test_\w+))?`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]
NAMED = ("--loss", "--discriminator", "--generator", "--augment")
SCRIPTS = sorted({line for page in PAGES for line in scripts(page)})


def settings_of(value: Any, where: str = "") -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"--{where}".replace("_", "-")
        return
    for key, part in value.items():
        if key != "type":
            yield from settings_of(part, f"{where}.{key}".lstrip("."))


def test_modules_that_the_docs_name_are_there() -> None:
    rooms = "|".join(path.parent.name for path in (ROOT / "src/vitgan").glob("*/__init__.py"))
    named = {
        name for page in PAGES for name in re.findall(rf"`((?:{rooms})(?:\.\w+)+)`", page.read_text("utf-8"))
    }
    assert len(named) > 20
    lost = []
    for name in sorted(named):
        try:
            pkgutil.resolve_name(f"vitgan.{name}")
        except (ImportError, AttributeError):
            lost.append(name)
    assert lost == []


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 40
    assert {"README.md", "CONTRIBUTING.md", "data.md", "explore.md", "scale.md"} <= {
        page for page, _ in COMMANDS
    }


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)]
)
def test_a_command_of_the_docs_is_one(page: str, line: str) -> None:
    del page
    words = shlex.split(line, comments=True)[1:]
    overrides: list[str] = []
    if words[0] == "train":
        words, overrides = _split(words)
    options = build_parser().parse_args(words, argparse.Namespace(overrides=overrides))
    if words[0] == "train" and options.recipe not in ("RECIPE", "NAME"):
        known = set(settings_of(recipes.get(options.recipe or "digits").to_dict()))
        flags = [word.split("=")[0] for word in overrides if word.startswith("--")]
        # By the name of a kind, or options of a part of one's own.
        chosen = ("--terms.", "--loss.name", *(f"{word}." for word in words if word in NAMED and options.use))
        assert [flag for flag in flags if flag not in known and not flag.startswith(chosen)] == []


@pytest.mark.parametrize("line", SCRIPTS)
def test_a_script_of_the_docs_is_there_and_knows_its_flags(line: str) -> None:
    words = shlex.split(line, comments=True)
    text = (ROOT / words[1]).read_text("utf-8")
    assert [word for word in words[2:] if word.startswith("--") and f'"{word}"' not in text] == []


def test_what_the_docs_say_to_install_is_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {extra for page in PAGES for extra in extras(page)}
    assert {"explore", "export", "hub", "video"} <= named <= set(project["optional-dependencies"])


def test_a_flag_that_a_sentence_names_is_one() -> None:
    known = set(flags_of(build_parser()))
    for name in recipes.names():
        known.update(settings_of(recipes.get(name).to_dict()))
    others = {"--max-restarts", "--node-rank", "--shutdown-timeout", "--requeue", "--kill-on-bad-exit"}
    others |= {"--only", "--quick"}  # of torchrun, SLURM and a script
    for page in PAGES:
        named = re.findall(r"`(--[a-z][^\s`=]*)[^`]*`", page.read_text("utf-8"))
        unknown = {flag for flag in named if not flag.startswith("--terms.")} - known - others
        assert unknown == set(), page.name


def test_a_test_that_a_page_names_is_there() -> None:
    """Its file stands before `::`, or is the file that the page named last."""
    named = 0
    for page in PAGES:
        file = ""
        for match in TEST.finditer(page.read_text("utf-8")):
            file = match[1] or file
            if match[1] or match[2]:
                named += 1
                text = (ROOT / "tests" / file).read_text("utf-8")
                assert not match[2] or f"def {match[2]}(" in text, f"{page.name}: {match[0]}"
    assert named > 40


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Of the parser and of its commands'."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from flags_of(command)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = []
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Those that a page's headings get: lower case, words joined by hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}
