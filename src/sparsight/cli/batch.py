"""Several images, one case each: what is there already, what is left to do, how it went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparsight.casefile import STEPS, Progress, explain
from sparsight.cli.options import command_line, read_sparsity
from sparsight.cli.places import case_names, check_output, digest, file_digest, is_done
from sparsight.cli.settings import ExplainSettings, named
from sparsight.datasets.folders import list_images
from sparsight.errors import SparsightError
from sparsight.networks import Network, open_image
from sparsight.reports import CaseFile, read_case, write_case

__all__ = ["Job", "describe", "find_images", "plan"]


@dataclass(frozen=True)
class Job:
    """One image and the folder of its case."""

    image: Path
    folder: Path
    digest: str
    done: bool

    @property
    def page(self) -> Path:
        """The page, as a path relative to where the user's own paths are."""
        return self.folder / "index.html"

    def case(self, settings: ExplainSettings, network: Network, progress: Progress) -> CaseFile:
        """Read the case if it is there, else make and write it.

        Raises
        ------
        SparsightError
            Whatever is wrong with this image, named.
        """
        if self.done:
            return read_case(self.folder)
        try:
            case = explain(
                network,
                open_image(self.image),
                target=settings.target,
                methods=settings.methods,
                sparsity=read_sparsity(settings.sparsity),
                augmentations=settings.augmentations,
                solver=settings.solver,
                pattern=settings.pattern,
                seed=settings.seed,
                damping=settings.damping,
                stem=settings.stem,
                chunk=settings.chunk,
                neurons=settings.neuron,
                steps=settings.steps or STEPS,
                statistics=settings.statistics,
                chain=settings.found_chain,
                image_name=self.image.name,
                progress=progress,
            )
        except SparsightError as error:
            raise named(self.image, error) from error
        options = asdict(settings)
        if self.folder.parent != Path("sparsight-out"):
            options["out"] = self.folder.parent
        case = replace(
            case,
            settings={**case.settings, "digest": self.digest},
            command=command_line("explain", self.image, options),
        )
        write_case(case, self.folder, overwrite=self.folder.exists())
        return case


def find_images(given: Sequence[Path]) -> tuple[list[Path], dict[str, SparsightError]]:
    """List the images in files and folders, and what is wrong with those that are none."""
    found: dict[Path, None] = {}
    failed: dict[str, SparsightError] = {}
    for path in given:
        try:
            found.update(dict.fromkeys(list_images(path)))
        except SparsightError as error:
            failed[str(path)] = error
    return list(found), failed


def plan(
    images: Sequence[Path], settings: ExplainSettings, out: Path, *, overwrite: bool
) -> list[Job]:
    """Give each image its folder and see which cases are there already.

    Raises
    ------
    InputError
        If a folder holds something that would be lost.
    """
    check_output(out)
    contents = settings.contents()
    jobs = []
    for image, name in zip(images, case_names(images), strict=True):
        wanted = digest({**contents, "image": file_digest(image)})
        folder = out / name
        jobs.append(Job(image, folder, wanted, is_done(folder, wanted, overwrite=overwrite)))
    return jobs


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def describe(job: Job, case: CaseFile) -> Mapping[str, Any]:
    """Say of a case what a script wants to know, in plain values."""
    return {
        "image": str(job.image),
        "page": str(job.page),
        "skipped": job.done,
        "network": case.network,
        "target": {"index": case.target_index, "label": case.target_label},
        "prediction": {
            "dense": asdict(case.dense_top),
            "traced": asdict(case.traced_top),
            "kept": case.agrees,
        },
        "kl": _number(case.kl),
        "sparsity": case.sparsity,
        "methods": [
            {
                "method": pair.method,
                "gap_of": pair.gap_of,
                "dense_gap": _number(pair.dense_gap),
                "traced_gap": _number(pair.traced_gap),
                "refused": pair.refused or None,
            }
            for pair in case.maps
        ],
        "neurons": [
            {
                "neuron": view.neuron,
                "title": view.title,
                "dense_score": view.dense_score,
                "traced_score": view.traced_score,
            }
            for view in case.views
        ],
        "blame": [] if case.blame is None else [asdict(unit) for unit in case.blame.units],
        "chain": None
        if case.chain is None
        else {"kept": case.chain.agrees, "kl": _number(case.chain.kl)},
        "warnings": list(case.warnings),
    }
