"""The working half: from a request to a committed result."""

from .announce import Announcer
from .cancel import Canceller
from .committed import Committed
from .context import JobContext, PgSettingsFor
from .current import NoJob, current_job
from .following import Follower
from .handle import Handle
from .holds import Holds
from .keeper import Keeper, OwnLoop
from .limited import Limited
from .offering import Jobs, Offers, Terms, seconds, spec_of
from .options import PRIORITIES, CallOptions, JobOptions, Priority, SubmitOptions, check_priority, options_of
from .publications import Publications
from .registry import JobSpec, Registry
from .results import Answered, encode
from .retries import Retry
from .signature import params_model
from .submission import BatchRequest, JobRequest, Submitter
from .submit import Options, Parent, Submit
from .sweeper import Sweeper
from .ticker import Ticker
from .unserved import unserved
from .watch import Watch
from .worker import Worker

__all__ = [
    "PRIORITIES",
    "Announcer",
    "Answered",
    "BatchRequest",
    "CallOptions",
    "Canceller",
    "Committed",
    "Follower",
    "Handle",
    "Holds",
    "JobContext",
    "JobOptions",
    "JobRequest",
    "JobSpec",
    "Jobs",
    "Keeper",
    "Limited",
    "NoJob",
    "Offers",
    "Options",
    "OwnLoop",
    "Parent",
    "PgSettingsFor",
    "Priority",
    "Publications",
    "Registry",
    "Retry",
    "Submit",
    "SubmitOptions",
    "Submitter",
    "Sweeper",
    "Terms",
    "Ticker",
    "Watch",
    "Worker",
    "check_priority",
    "current_job",
    "encode",
    "options_of",
    "params_model",
    "seconds",
    "spec_of",
    "unserved",
]
