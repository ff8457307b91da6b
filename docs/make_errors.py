"""Write the index of error messages, ``docs/errors.md``, from the ``raise`` statements in src.

    python docs/make_errors.py           # write the page
    python docs/make_errors.py --check   # say what the page lacks

Messages carry their remedy, most of them. For those that do not, REMEDIES in
``docs/remedies.json`` says what to do, by the message.
"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "sparsight"
PAGE = ROOT / "docs" / "errors.md"
REMEDIES = ROOT / "docs" / "remedies.json"
BEGIN, END = "<!-- index: begin -->", "<!-- index: end -->"
KINDS = ("InputError", "NetworkError", "UnsupportedError", "NumericalError")


@dataclass(frozen=True, order=True)
class Message:
    """One error: its text with ``…`` for what is filled in, and its class."""

    text: str
    kind: str


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [_text(v) if isinstance(v, ast.Constant) else "…" for v in node.values]
        return "".join(part or "" for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None and right is None else f"{left or '…'}{right or '…'}"
    return None


def messages() -> list[Message]:
    """Find every message that a ``raise`` of one of our errors carries."""
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            called = node.exc.func
            kind = called.id if isinstance(called, ast.Name) else ""
            text = _text(node.exc.args[0]) if kind in KINDS and node.exc.args else None
            if text is not None and text.strip("…: "):
                found.add(Message(text, kind))
    return sorted(found, key=lambda m: (KINDS.index(m.kind), m.text.strip("…' ").lower()))


def index(found: list[Message], remedies: dict[str, str]) -> str:
    """Render the index as Markdown."""
    lines: list[str] = []
    for kind in KINDS:
        lines += [f"## {kind}", ""]
        for message in (m for m in found if m.kind == kind):
            remedy = remedies.get(message.text)
            lines.append(f"- `{message.text}`" + (f"  \n  {remedy}" if remedy else ""))
        lines.append("")
    return "\n".join(lines)


def problems(found: list[Message], remedies: dict[str, str]) -> list[str]:
    """Messages without any remedy, and remedies without a message."""
    texts = {message.text for message in found}
    bare = [
        f"no remedy: {text}"
        for text in sorted(texts - set(remedies))
        if not any(mark in text for mark in (": ", "; "))
    ]
    return bare + [f"no such message: {text}" for text in sorted(set(remedies) - texts)]


def page(found: list[Message], remedies: dict[str, str]) -> str:
    """Put the index between the page's markers."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{index(found, remedies)}{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write or check the page."""
    found = messages()
    remedies = json.loads(REMEDIES.read_text(encoding="utf-8"))
    for problem in problems(found, remedies):
        print(problem)
    if "--check" in sys.argv[1:]:
        return int(bool(problems(found, remedies)) or page(found, remedies) != PAGE.read_text())
    PAGE.write_text(page(found, remedies), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
