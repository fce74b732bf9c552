"""pushsvc: slow endpoints and reports, answered at once and pushed when they are done."""

from importlib.metadata import version

from .errors import JobError, PushsvcError
from .jobs import JobContext
from .queries import Database, Promise
from .service import Service
from .settings import Settings
from .webhooks import verify_webhook

__version__ = version("pushsvc")
__all__ = [
    "Database",
    "JobContext",
    "JobError",
    "Promise",
    "PushsvcError",
    "Service",
    "Settings",
    "__version__",
    "verify_webhook",
]
