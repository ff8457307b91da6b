"""What is computed of a sweep: measures of maps, overlaps of traces, estimates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import sparsight
from sparsight.errors import InputError
from sparsight.sweeps import measure, overlaps, sweep
from sparsight.sweeps.findings import Estimate, findings
from sparsight.sweeps.measures import likeness
from sparsight.traces.overlap import Overlap
from sweeps.test_sweep import pictures

heats = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-10, 10, width=32),
)  # fmt: skip


@given(heats)
def test_measures_are_what_they_say(values: np.ndarray) -> None:
    heat = torch.from_numpy(values)
    found = measure(heat)
    size = np.abs(values.astype(np.float64))
    total = size.sum()
    if total == 0:
        assert set(found.values()) == {None}
        return
    flat = size.ravel()
    gini = np.abs(flat[:, None] - flat[None]).sum() / (2 * len(flat) * total)
    assert found["gini"] == pytest.approx(gini, abs=1e-9)
    count = max(1, round(0.05 * len(flat)))
    assert found["top"] == pytest.approx(np.sort(flat)[-count:].sum() / total)
    rows = (np.arange(size.shape[0]) + 0.5) / size.shape[0]
    assert found["row"] == pytest.approx((size.sum(1) * rows).sum() / total)
    turned = measure(heat.T)
    assert turned["column"] == pytest.approx(found["row"])
    assert turned["gini"] == pytest.approx(found["gini"])
    doubled = measure(-2 * heat)
    assert doubled == pytest.approx(found)


def test_no_map_is_refused() -> None:
    for bad in (torch.zeros(3), torch.zeros(0, 4), torch.zeros(1, 2, 2)):
        with pytest.raises(InputError, match="a map of shape"):
            measure(bad)


def test_likeness_is_a_correlation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8, 9))
    found = likeness(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert likeness(torch.ones(4, 4), torch.from_numpy(a)[:4, :4]) is None


def test_overlaps_are_those_of_every_pair(tmp_path: Path) -> None:
    network = sparsight.load("embedded")
    found = sweep(
        network, pictures(4), tmp_path / "out", do="trace", augmentations=2, sparsity=0.7, shard=3
    )
    together = overlaps(found)
    traces = [found.trace(number) for number in range(4)]
    for i in range(4):
        for j in range(4):
            pairs = [
                Overlap.of(traces[i].tensors[name] != 0, traces[j].tensors[name] != 0)
                for name in traces[0].tensors
            ]
            whole = Overlap.together(pairs)
            assert float(together.jaccard[i, j]) == pytest.approx(whole.jaccard)
            assert float(together.chance[i, j]) == pytest.approx(whole.chance, abs=2e-3)
    within, across = together.within([0, 0, 1, 1])
    own = together.corrected
    assert within == pytest.approx(float(own[0, 1] + own[2, 3]) / 2)
    assert across == pytest.approx(float(own[:2, 2:].mean()))
    assert torch.equal(overlaps(found, [2, 0]).jaccard, together.jaccard[[2, 0]][:, [2, 0]])
    with pytest.raises(InputError, match="no two images of one group"):
        together.within([0, 1, 2, 3])


def fake(**columns: list) -> SimpleNamespace:
    count = len(next(iter(columns.values())))
    return SimpleNamespace(
        table=SimpleNamespace(to_pydict=lambda: {"problem": [None] * count, **columns})
    )


def test_findings_tell_what_goes_with_mistakes() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(200) < 0.3
    sparsity = 0.9 + 0.05 * rng.random(200) - 0.04 * wrong
    found = findings(
        fake(wrong=wrong.tolist(), changed=[False] * 200, sparsity=sparsity.tolist(),
             kl=rng.random(200).tolist(), confidence=rng.random(200).tolist())
    )  # fmt: skip
    right = found["right"]
    assert isinstance(right, Estimate)
    assert right.value == pytest.approx(1 - wrong.mean())
    assert right.low < right.value < right.high
    assert right.high - right.low == pytest.approx(4 * np.sqrt(0.3 * 0.7 / 200), rel=0.2)
    assert found["mistakes told by low sparsity"].low > 0.8
    assert found["mistakes told by large kl"].low < 0.5 < found["mistakes told by large kl"].high
    assert found["sparsity of wrong answers"].high < found["sparsity of right answers"].low
    assert found["changed"].value == 0
    assert found["changed"].high > 0
    told = found["mistakes told by low sparsity"]
    rng, drawn = np.random.default_rng(1), []
    for _ in range(300):
        chosen = rng.integers(0, 200, 200)
        drawn.append(Estimate.area(-sparsity[chosen], wrong[chosen]).value)
    assert told.high - told.low == pytest.approx(3.92 * np.std(drawn), rel=0.15)


def test_findings_without_labels_or_traces() -> None:
    found = findings(fake(wrong=[None, None], confidence=[0.5, 0.6]))
    assert found == {"images": 2, "unusable": 0}


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_an_area_counts_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([p[0] for p in pairs], float)
    marked = np.array([p[1] for p in pairs])
    assume(marked.any() and not marked.all())
    above, below = scores[marked][:, None], scores[~marked][None]
    assert Estimate.area(scores, marked).value == pytest.approx(
        ((above > below) + 0.5 * (above == below)).mean()
    )
