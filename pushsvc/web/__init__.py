"""HTTP: routes, problems, and the ASGI app."""

from .acks import Acks
from .app import Group, application, routes
from .callers import Callers, OwnJobs
from .events import Events, Sockets
from .jobs import Cancels, Jobs, Results
from .me import Me
from .problems import deny, problem_response
from .submit import Submit
from .tickets import Tickets
from .views import JobViews
from .webhooks import Webhooks

__all__ = [
    "Acks",
    "Callers",
    "Cancels",
    "Events",
    "Group",
    "JobViews",
    "Jobs",
    "Me",
    "OwnJobs",
    "Results",
    "Sockets",
    "Submit",
    "Tickets",
    "Webhooks",
    "application",
    "deny",
    "problem_response",
    "routes",
]
