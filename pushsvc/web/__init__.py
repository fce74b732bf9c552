"""HTTP: routes, problems, and the ASGI app."""

from .api import Api
from .app import application, routes

__all__ = ["Api", "application", "routes"]
