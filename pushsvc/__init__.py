"""pushsvc: slow endpoints and reports, answered at once and pushed when they are done."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .domain import Principal
    from .endpoints import WaitingPage
    from .errors import JobError, PushsvcError
    from .jobs import Handle, JobContext, Jobs, Retry, current_job
    from .queries import Database, Promise
    from .service import Service
    from .settings import Settings
    from .webhooks.signature import verify_webhook

__version__ = version("pushsvc")
__all__ = [
    "Database",
    "Handle",
    "JobContext",
    "JobError",
    "Jobs",
    "Principal",
    "Promise",
    "PushsvcError",
    "Retry",
    "Service",
    "Settings",
    "WaitingPage",
    "__version__",
    "current_job",
    "verify_webhook",
]

_WHERE = {
    "Database": "queries",
    "Handle": "jobs",
    "JobContext": "jobs",
    "JobError": "errors",
    "Jobs": "jobs",
    "Principal": "domain",
    "Promise": "queries",
    "PushsvcError": "errors",
    "Retry": "jobs",
    "Service": "service",
    "Settings": "settings",
    "WaitingPage": "endpoints",
    "current_job": "jobs",
    "verify_webhook": "webhooks.signature",
}


def __getattr__(name: str) -> object:
    """Each name brings what it needs when it is first used (PEP 562): a receiver of webhooks needs no server."""
    if name not in _WHERE:
        raise AttributeError(f"module 'pushsvc' has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
