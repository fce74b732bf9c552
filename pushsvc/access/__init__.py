"""Who may do what: tokens, channels, origins, limits."""

from .channels import may_hear, need_publish, owns
from .limits import Slots
from .origins import allowed_origin
from .tokens import DEFAULT_SCOPES, Tokens, bearer, need_scope

__all__ = [
    "DEFAULT_SCOPES",
    "Slots",
    "Tokens",
    "allowed_origin",
    "bearer",
    "may_hear",
    "need_publish",
    "need_scope",
    "owns",
]
