"""The measurement of the solvers: its table is that of the committed results, its parts work."""

import json

import torch

import solvers
import tables
from sparsight.traces import SOLVERS


def test_the_table_shows_the_committed_results() -> None:
    found = json.loads(solvers.RESULT.read_text(encoding="utf-8"))
    text = solvers.PAGE.read_text(encoding="utf-8")
    shown = text.partition(tables.BEGIN)[2].partition(tables.END)[0].strip()
    assert shown == solvers.table(found["layers"])
    assert tuple(found["sparsities"]) == solvers.SPARSITIES
    for layers in found["layers"].values():
        assert set(layers[0]) == {*SOLVERS, *solvers.VARIANTS}


def test_variants_prune_as_many_weights_and_differ_from_what_is_shipped() -> None:
    layer = list(solvers.synthetic(1))[-1]
    arguments = (layer.weight, layer.moment, 0.9, 1, 0.01)
    shipped = SOLVERS["forward"](*arguments).weight
    for name, solve in solvers.VARIANTS.items():
        found = solve(*arguments).weight
        assert int((found == 0).sum()) == int((shipped == 0).sum()), name
        assert not torch.equal(found, shipped), name
    assert torch.equal(SOLVERS["forward"](*arguments).weight, shipped)


def test_layers_are_drawn_alike_in_every_run() -> None:
    first, again = next(solvers.synthetic(1)), next(solvers.synthetic(1))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.unseen, again.unseen)
