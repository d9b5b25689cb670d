"""For mkdocs: what the pages need to read the same there as in the repository.

Links that leave the docs, to the code and to figures, become the path as text. Formulas become MathML, which
browsers draw by themselves: no script, no network.
"""

import logging
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\((\.\.?/[^)\s]+)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.S)
_CODE = re.compile(r"<(code|pre)\b.*?</\1>", re.S)
_log = logging.getLogger("mkdocs.hooks")  # a warning ends a strict build


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page's text, its links out of the docs' folder replaced."""
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_uri).parent

    def told(match: re.Match[str]) -> str:
        target = (here / match[2].partition("#")[0]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        return f"{match[1]} (`{target.relative_to(docs.parent)}`)"

    return _LINK.sub(told, markdown)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """The page's HTML with MathML."""
    text = _FORMULA.sub(_mathml, html)
    if "$" in _CODE.sub("", text):
        _log.warning("%s: a formula is not understood", page.file.src_uri)
    if re.search(r"<p>(?:(?!</p>).)*\n- ", text, re.S):
        _log.warning("%s: a list needs an empty line before it", page.file.src_uri)
    return text


def _mathml(match: re.Match[str]) -> str:
    return convert(unescape(match[2]), display="block" if match[1] == "div" else "inline")
