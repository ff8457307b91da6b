"""Commands of two words beside commands of one: ``trace diff`` beside ``trace``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["TwoWords"]


class TwoWords(TyperGroup):
    """A group in which a command's name may be two words.

    So ``trace`` keeps its own arguments and help, which it could not as a group of its own.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command by its first two words, or else by the first."""
        both = " ".join(args[:2])
        if len(args) > 1 and both in self.commands:
            args = [both, *args[2:]]
        return super().resolve_command(ctx, args)
