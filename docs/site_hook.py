"""Turn formulas into MathML when the site is built, so that pages need no script and no server."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
_ROLE = re.compile(r":(class|func|meth|data|mod|attr|math):<code>~?(.*?)</code>", re.DOTALL)


def _mathml(found: re.Match[str]) -> str:
    text = html.unescape(found[2]).strip()
    display = "block" if text.startswith("\\[") else "inline"
    return str(convert(text[2:-2], display=display))


def _role(found: re.Match[str]) -> str:
    if found[1] == "math":
        return str(convert(html.unescape(found[2])))
    return f"<code>{found[2]}</code>"


def on_page_content(content: str, **_: Any) -> str:
    """Replace the formulas of a page, and the roles in docstrings."""
    return _ROLE.sub(_role, _FORMULA.sub(_mathml, content))
