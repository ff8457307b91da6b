"""The picture of a chain: units as squares, layers as columns, kernels as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from sparsight.reports.chain import ChainReport, Drawn, Line
from sparsight.reports.pictures import image_uri
from sparsight.reports.text import clean, plain_number

__all__ = ["chain_picture", "chain_svg", "picture_context"]

_NODE, _ACROSS, _DOWN = 54, 104, 70
_TOP, _SIDE = 64, 40
_INCOMING = 3  # edges drawn into each node, for each group
_CROP = 96  # pixels of an example
_LONG = 18  # letters of a title
_HIDDEN = ' hidden="hidden" display="none"'
_STYLE = """<style>
text { font: 11px sans-serif; fill: #1c1e21; text-anchor: middle; }
.column { fill: #5b6068; font-size: 10.5px; }
.floor { fill: #ffffff; } .edge { fill: none; opacity: .55; }
.edge.plus { stroke: #0d6a6c; } .edge.minus { stroke: #9d2419; }
.node image { clip-path: inset(0 round 7px); }
.node rect { fill: #f1efe8; } .node .rim { fill: none; stroke: #e3e0d6; stroke-width: 1.5; }
.node.answer .rim { fill: #f1efe8; stroke: #0d6a6c; } .node.answer .number { font-weight: 600; }
</style>"""


def _places(report: ChainReport) -> tuple[list[tuple[float, float]], float, float]:
    """Middle of every node, then of every group at the right; width and height."""
    rows: dict[int, int] = {}
    for node in report.nodes:
        rows[node.layer] = rows.get(node.layer, 0) + 1
    most = max([*rows.values(), len(report.groups)])
    height = _TOP + most * _DOWN + 16
    taken: dict[int, int] = {}
    places = []

    def middle(column: int, row: int, count: int) -> tuple[float, float]:
        top = _TOP + (most - count) * _DOWN / 2
        return _SIDE + _ACROSS * (column + 0.5), top + _DOWN * (row + 0.5)

    for node in report.nodes:
        row = taken.get(node.layer, 0)
        taken[node.layer] = row + 1
        places.append(middle(node.layer, row, rows[node.layer]))
    for number in range(len(report.groups)):
        places.append(middle(len(report.columns), number, len(report.groups)))
    return places, 2 * _SIDE + _ACROSS * (len(report.columns) + 1.5), height


def _answers(report: ChainReport) -> list[Line]:
    """Lines to what is answered, by what units contribute to it directly."""
    found = []
    for number, node in enumerate(report.nodes):
        for group, direct in enumerate(node.direct):
            weights = [0.0] * len(report.groups)
            weights[group] = direct
            found.append(Line(number, len(report.nodes) + group, weights))
    return found


def _strongest(lines: Sequence[Line], group: int) -> list[Line]:
    """Of the lines into each node those with most weight in a group."""
    into: dict[int, list[Line]] = {}
    for line in lines:
        if line.weights[group]:
            into.setdefault(line.target, []).append(line)
    return [
        line
        for own in into.values()
        for line in sorted(own, key=lambda one: -abs(one.weights[group]))[:_INCOMING]
    ]


def chain_picture(report: ChainReport) -> Markup:
    """Draw the chain as SVG: layers from left to right, what is answered at the end.

    Examples
    --------
    >>> nodes = [Drawn(0, "conv", 3, [0.5])]
    >>> layers = [("conv", 1, 9)]
    >>> report = ChainReport(["cat"], "n", 1, 9, 0, 0, layers, ["cat"], ["conv"], nodes, [])
    >>> str(chain_picture(report)).count('class="node')
    2
    """
    places, width, height = _places(report)
    parts = [
        '<svg id="chain" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" tabindex="0" '
        f'aria-label="{escape(clean(_sentence(report)))}">'
        '<rect class="floor" width="100%" height="100%"/>'
    ]
    for number, title in enumerate(report.columns):
        x = _SIDE + _ACROSS * (number + 0.5)
        shown = title if len(title) < _LONG else "…" + title[2 - _LONG :]
        parts.append(
            f'<text class="column" x="{x:.0f}" y="{34 - 14 * (number % 2)}">'
            f"<title>{escape(clean(title))}</title>{escape(clean(shown))}</text>"
        )
    lines = [*report.edges, *_answers(report)]
    for group in range(len(report.groups)):
        chosen = _strongest(lines, group)
        parts.append(f'<g class="edges" data-group="{group}"{_HIDDEN if group else ""}>')
        parts += _draw_lines(report, chosen, group, places)
        parts.append("</g>")
    for number, node in enumerate(report.nodes):
        parts.append(_draw_node(report, number, node, places[number]))
    for number, name in enumerate(report.groups, len(report.nodes)):
        parts.append(_draw_answer(number, name, places[number]))
    parts.append("</svg>")
    return Markup("".join(parts))


def chain_svg(report: ChainReport) -> str:
    """Draw a chain as a file of its own: what :func:`chain_picture` draws, with colours and size.

    Lines are those of the first group.
    """
    _, width, height = _places(report)
    head, _, rest = str(chain_picture(report)).partition(">")
    size = f'{head} width="{width:.0f}" height="{height:.0f}">'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{size}{_STYLE}{rest}\n'


def _draw_lines(
    report: ChainReport, lines: Sequence[Line], group: int, places: Sequence[tuple[float, float]]
) -> Iterator[str]:
    """Draw lines; layers differ by orders of magnitude, so widths are shares of a layer's most."""

    def layer(line: Line) -> int:
        return report.nodes[line.target].layer if line.target < len(report.nodes) else -1

    most: dict[int, float] = {}
    for line in lines:
        most[layer(line)] = max(most.get(layer(line), 0.0), abs(line.weights[group]))
    for line in lines:
        value = line.weights[group]
        (x, y), (to_x, to_y) = places[line.source], places[line.target]
        x, to_x = x + _NODE / 2, to_x - _NODE / 2
        bend = max(30.0, (to_x - x) / 2)
        yield (
            f'<path class="edge {"minus" if value < 0 else "plus"}" data-from="{line.source}" '
            f'data-to="{line.target}" '
            f'stroke-width="{0.6 + 3.4 * abs(value) / most[layer(line)]:.2f}" '
            f'd="M{x:.0f} {y:.0f}C{x + bend:.0f} {y:.0f} {to_x - bend:.0f} {to_y:.0f} '
            f'{to_x:.0f} {to_y:.0f}"/>'
        )


def _draw_node(report: ChainReport, number: int, node: Drawn, place: tuple[float, float]) -> str:
    x, y = place
    corner = f'x="{x - _NODE / 2:.0f}" y="{y - _NODE / 2:.0f}" width="{_NODE}" height="{_NODE}"'
    told = escape(clean(f"{node.title}, unit {node.number}"))
    weights = "; ".join(
        f"{group} {plain_number(weight)}"
        for group, weight in zip(report.groups, node.weights, strict=True)
    )
    if node.crops:
        picture = image_uri(node.crops[0], _CROP, photo=True)
        inside = f'<image {corner} preserveAspectRatio="xMidYMid slice" href="{picture}"/>'
    else:
        inside = f'<text class="number" x="{x:.0f}" y="{y + 4:.0f}">{node.number}</text>'
    return (
        f'<g class="node" data-node="{number}" data-told="{told}" '
        f'data-weights="{escape(clean(weights))}" tabindex="0" role="button" aria-label="{told}">'
        f'<rect {corner} rx="7"/>{inside}<rect class="rim" {corner} rx="7"/></g>'
    )


def _draw_answer(number: int, name: str, place: tuple[float, float]) -> str:
    x, y = place
    told = escape(clean(name))
    return (
        f'<g class="node answer" data-node="{number}" data-told="{told}" data-weights="" '
        f'tabindex="0" role="button" aria-label="{told}"><rect class="rim" '
        f'x="{x - _NODE / 2:.0f}" y="{y - _NODE / 3:.0f}" width="{_NODE * 2}" '
        f'height="{_NODE / 1.5:.0f}" rx="7"/>'
        f'<text class="number" x="{x + _NODE / 2:.0f}" y="{y + 4:.0f}">{told}</text></g>'
    )


def _sentence(report: ChainReport) -> str:
    return (
        f"{report.kept} of {report.units} units tell {' from '.join(report.classes)}; drawn are "
        f"{len(report.nodes)} of them in {len(report.columns)} layers"
    )


def picture_context(report: ChainReport) -> dict[str, Any]:
    """Work out what the template of the picture prints."""
    return {
        "report": report,
        "picture": chain_picture(report),
        "crops": {
            number: [image_uri(crop, _CROP, photo=True) for crop in node.crops[1:]]
            for number, node in enumerate(report.nodes)
        },
    }
