"""pushsvc: slow endpoints and reports, answered at once and pushed when they are done."""

from importlib.metadata import version

from .domain import Principal
from .endpoints import WaitingPage
from .errors import JobError, PushsvcError
from .jobs import JobContext, current_job
from .queries import Database, Promise
from .service import Service
from .settings import Settings
from .webhooks import verify_webhook

__version__ = version("pushsvc")
__all__ = [
    "Database",
    "JobContext",
    "JobError",
    "Principal",
    "Promise",
    "PushsvcError",
    "Service",
    "Settings",
    "WaitingPage",
    "__version__",
    "current_job",
    "verify_webhook",
]
