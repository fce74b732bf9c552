"""Endpoints that may answer later: a request is recorded, and replayed through the whole app in a worker."""

from .answer import AS_KEPT, Answer, Given
from .catalogue import Catalogue
from .layer import Layer
from .lifespan import in_a_worker, in_worker
from .marks import HandedOver, Mark, name_places, need_names, on_handed_over
from .office import Office
from .options import EndpointOptions, Otherwise
from .pages import JobRoute, Pages, Render, WaitingPage, assets
from .record import cookies_of
from .replay import Replayer
from .sealing import Seals

__all__ = [
    "AS_KEPT",
    "Answer",
    "Catalogue",
    "EndpointOptions",
    "Given",
    "HandedOver",
    "JobRoute",
    "Layer",
    "Mark",
    "Office",
    "Otherwise",
    "Pages",
    "Render",
    "Replayer",
    "Seals",
    "WaitingPage",
    "assets",
    "cookies_of",
    "in_a_worker",
    "in_worker",
    "name_places",
    "need_names",
    "on_handed_over",
]
