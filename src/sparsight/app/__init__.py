"""A page on this machine: drop an image, move the sparsity, see dense and traced maps change.

What is computed (:mod:`question`, :mod:`job`, :mod:`desk`) knows nothing of the page; only
:mod:`page` and :mod:`serve` use Gradio, and import it when they are called.
"""

from sparsight.app.desk import Desk, Seat
from sparsight.app.job import Job, Step
from sparsight.app.question import Question
from sparsight.app.serve import HOST, listen, require_gradio, serve

__all__ = ["HOST", "Desk", "Job", "Question", "Seat", "Step", "listen", "require_gradio", "serve"]
