"""Layer-wise relevance propagation that conserves on every architecture."""

from __future__ import annotations

from typing import ClassVar, Literal

from sparsight.attribution.conservation import Composite, RelevanceInterpreter
from sparsight.attribution.registry import Explained, Method, register
from sparsight.attribution.relevance import Rule
from sparsight.attribution.result import Reduction, relative_gap
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError, UnsupportedError

__all__ = ["LayerwiseRelevance"]

_LITTLE_LEFT = 0.95
RuleName = Literal["epsilon", "zplus", "gamma", "flat"]


@register
class LayerwiseRelevance(Method):
    r"""Relevance :math:`R` with :math:`\sum_i R_i + R_{bias} = f_t(x)`, layer by layer.

    Default composite: epsilon in dense layers, :math:`\alpha_1\beta_0` in convolutions and
    per-token linear layers, flat in the layers that see the image. Biases, class tokens and
    position embeddings take their own share; it is named in the notes, and counted: the gap is
    :math:`|\sum R + R_{bias} - f_t| / |f_t|`. Rules and surrogates are derived in
    :mod:`~sparsight.attribution.relevance` and :mod:`~sparsight.attribution.conservation`.

    References
    ----------
    Bach et al., PLOS ONE 2015; Kohlbrenner et al., *Towards Best Practice in Explaining Neural
    Network Decisions with LRP*, IJCNN 2020 (the composite); Ali et al., ICML 2022 (attention).
    """

    name: ClassVar[str] = "lrp"
    title: ClassVar[str] = "LRP"
    reference: ClassVar[str] = "Bach et al. 2015, doi:10.1371/journal.pone.0130140"
    gap_of: ClassVar[Literal["completeness", "conservation", ""]] = "conservation"
    reduction: ClassVar[Reduction] = "sum"
    passes: ClassVar[tuple[int, int]] = (6, 3)

    def explain(
        self,
        subject: Subject,
        *,
        first: RuleName = "flat",
        spatial: RuleName = "zplus",
        dense: RuleName = "epsilon",
        gamma: float = 0.25,
        epsilon: float = 1e-6,
        biases: Literal["absorb", "share"] = "absorb",
        tolerance: float = 0.05,
    ) -> Explained:
        """Explain by a composite of rules; refuse if more than ``tolerance`` is lost.

        ``epsilon`` is relative to the mean magnitude of a layer's outputs. With
        ``biases="share"`` the biases of convolutions and linear layers (merged batch norms
        included) hand their share to the inputs, where any has the output's sign: safe under
        ``zplus``, whose shares have one sign, while under the other rules a denominator may come
        close to zero.
        """
        if epsilon < 0 or gamma < 0:
            raise InputError(f"lrp needs epsilon >= 0 and gamma >= 0, got {epsilon} and {gamma}")
        if biases not in ("absorb", "share"):
            raise InputError(f"lrp biases either 'absorb' relevance or 'share' it, not {biases!r}")
        absorb = biases == "absorb"
        rules = {
            "epsilon": Rule(1.0, 0.0, epsilon=epsilon, absorb=absorb),
            "zplus": Rule(0.0, 1.0, epsilon=epsilon, absorb=absorb),
            "gamma": Rule(1.0, gamma, epsilon=epsilon, absorb=absorb),
            "flat": Rule(flat=True),
        }
        for place, rule in (("first", first), ("spatial", spatial), ("dense", dense)):
            if rule not in rules or (rule == "flat" and place != "first"):
                offer = ", ".join(name for name in rules if name != "flat" or place == "first")
                raise InputError(f"lrp has no rule {rule!r} for {place}: choose one of {offer}")
        composite = Composite(rules[first], rules[spatial], rules[dense])
        interpreter = RelevanceInterpreter(subject.graph, composite)
        relevance, absorbed, logit = interpreter.explain(subject.x, subject.target)
        total = float(relevance.double().sum())
        gap = relative_gap(total + absorbed, logit, float(subject.logits.abs().max()))
        unruled = ", ".join(f"{n} x {name}" for name, n in interpreter.unruled.items())
        if not gap <= tolerance:
            cause = f"no rule conserves {unruled}" if unruled else "softmax output or rounding"
            raise UnsupportedError(
                f"LRP loses {gap:.0%} of the logit on this network ({cause}): explain logits "
                "rather than probabilities, use deep_lift or integrated_gradients, or accept it "
                f"with tolerance={gap:.2g}"
            )
        notes = [f"rules: {first} on the image, {spatial} in space, {dense} in dense layers"]
        if absorbed and logit:
            share = absorbed / logit
            little = "; little of it is left to show" if share > _LITTLE_LEFT else ""
            notes.append(f"biases and constants account for {share:.1%} of the logit{little}")
        if unruled:
            notes.append(f"plain gradients for {unruled}")
        return Explained(relevance, gap, tuple(notes))
