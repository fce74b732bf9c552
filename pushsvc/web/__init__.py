"""HTTP: routes, problems, and the ASGI app."""

from .api import Api
from .app import application, routes
from .problems import deny, problem_response
from .submissions import Submissions
from .views import JobViews

__all__ = ["Api", "JobViews", "Submissions", "application", "deny", "problem_response", "routes"]
