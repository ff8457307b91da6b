"""Judge maps where the reason for an answer is known: cases, arms, scores, summary."""

from sparsight.benchmarks.maps.arms import ARMS, Arm, ends_in_classes, parse_arm, trace_arm
from sparsight.benchmarks.maps.cases import Case, photo_cases, planted_cases, scene_cases
from sparsight.benchmarks.maps.judge import Judged, judge_maps
from sparsight.benchmarks.maps.report import markdown, summaries, write_report
from sparsight.benchmarks.maps.row import Row, Score
from sparsight.benchmarks.maps.run import measure_maps, read_rows
from sparsight.benchmarks.maps.score import INSERTION, LOCALISATION, score_by
from sparsight.benchmarks.maps.side_by_side import SideBySide, tune_and_compare
from sparsight.benchmarks.maps.solutions import GRID, Solutions
from sparsight.benchmarks.maps.summary import Estimate, Summary, summarise
from sparsight.benchmarks.maps.tuning import Sensitivity, Tuned, tune_ratios, wrong_ratios

__all__ = [
    "ARMS",
    "GRID",
    "INSERTION",
    "LOCALISATION",
    "Arm",
    "Case",
    "Estimate",
    "Judged",
    "Row",
    "Score",
    "Sensitivity",
    "SideBySide",
    "Solutions",
    "Summary",
    "Tuned",
    "ends_in_classes",
    "judge_maps",
    "markdown",
    "measure_maps",
    "parse_arm",
    "photo_cases",
    "planted_cases",
    "read_rows",
    "scene_cases",
    "score_by",
    "summaries",
    "summarise",
    "trace_arm",
    "tune_and_compare",
    "tune_ratios",
    "write_report",
    "wrong_ratios",
]
