"""For the operator: health, the budget of connections, the doctor."""

from .budget import KEEPER_CONNECTIONS, Allotment, Budget, Limit, Processes, Term, budget, deployment
from .diagnosis import Diagnosis, Finding, diagnose
from .doctor import Doctor, Examination
from .health import Health
from .probe import Probe, ProbedRegistry
from .servers import ServerLimits, check_budget

__all__ = [
    "KEEPER_CONNECTIONS",
    "Allotment",
    "Budget",
    "Diagnosis",
    "Doctor",
    "Examination",
    "Finding",
    "Health",
    "Limit",
    "Probe",
    "ProbedRegistry",
    "Processes",
    "ServerLimits",
    "Term",
    "budget",
    "check_budget",
    "deployment",
    "diagnose",
]
