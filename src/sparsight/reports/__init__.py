"""Case files: one self-contained page per image, its raw maps, and a manifest written last."""

from sparsight.reports.case import CaseFile, ClassRow, LayerRow, MapPair, ViewPair
from sparsight.reports.gallery import write_index
from sparsight.reports.page import render_page
from sparsight.reports.store import read_case, read_manifest, write_case
from sparsight.reports.terminal import print_summary, progress, summary
from sparsight.reports.wall import WallItem, write_wall

__all__ = [
    "CaseFile",
    "ClassRow",
    "LayerRow",
    "MapPair",
    "ViewPair",
    "WallItem",
    "print_summary",
    "progress",
    "read_case",
    "read_manifest",
    "render_page",
    "summary",
    "write_case",
    "write_index",
    "write_wall",
]
