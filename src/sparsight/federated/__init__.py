"""Training on images that stay where they are: clients share only what matters."""

from sparsight.federated.agent import Agent, Episode, teach
from sparsight.federated.aggregate import average, average_steps, effective_steps
from sparsight.federated.client import Client
from sparsight.federated.data import ClientData, Federation, Styled
from sparsight.federated.division import Division, find_head, group_norms
from sparsight.federated.federate import ENGINES, Setup, federate
from sparsight.federated.lessons import lessons
from sparsight.federated.memory import Kept, Memory
from sparsight.federated.packing import Payload, pack, unpack
from sparsight.federated.partitions import dirichlet, evenly, few_classes, statistics
from sparsight.federated.result import Federated
from sparsight.federated.selectors import SELECTORS, Seen, Selector, choose
from sparsight.federated.server import Server
from sparsight.federated.settings import ALGORITHMS, FederatedSettings

__all__ = [
    "ALGORITHMS",
    "ENGINES",
    "SELECTORS",
    "Agent",
    "Client",
    "ClientData",
    "Division",
    "Episode",
    "Federated",
    "FederatedSettings",
    "Federation",
    "Kept",
    "Memory",
    "Payload",
    "Seen",
    "Selector",
    "Server",
    "Setup",
    "Styled",
    "average",
    "average_steps",
    "choose",
    "dirichlet",
    "effective_steps",
    "evenly",
    "federate",
    "few_classes",
    "find_head",
    "group_norms",
    "lessons",
    "pack",
    "statistics",
    "teach",
    "unpack",
]
