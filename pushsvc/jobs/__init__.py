"""The working half: from a request to a committed result."""

from .announce import Announcer
from .cancel import Canceller
from .context import JobContext, PgSettingsFor
from .publications import Publications
from .registry import JobSpec, Registry
from .results import encode
from .signature import params_model
from .submission import JobRequest, Submitter
from .sweeper import Sweeper
from .worker import Worker

__all__ = [
    "Announcer",
    "Canceller",
    "JobContext",
    "JobRequest",
    "JobSpec",
    "PgSettingsFor",
    "Publications",
    "Registry",
    "Submitter",
    "Sweeper",
    "Worker",
    "encode",
    "params_model",
]
