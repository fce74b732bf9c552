"""The working half: from a request to a committed result."""

from .announce import Announcer
from .cancel import Canceller
from .context import JobContext, PgSettingsFor
from .current import NoJob, current_job
from .holds import Holds
from .keeper import Keeper, OwnLoop
from .publications import Publications
from .registry import JobSpec, Registry
from .results import Answered, encode
from .signature import params_model
from .submission import JobRequest, SubmitOptions, Submitter
from .sweeper import Sweeper
from .watch import Watch
from .worker import Worker

__all__ = [
    "Announcer",
    "Answered",
    "Canceller",
    "Holds",
    "JobContext",
    "JobRequest",
    "JobSpec",
    "Keeper",
    "NoJob",
    "OwnLoop",
    "PgSettingsFor",
    "Publications",
    "Registry",
    "SubmitOptions",
    "Submitter",
    "Sweeper",
    "Watch",
    "Worker",
    "current_job",
    "encode",
    "params_model",
]
