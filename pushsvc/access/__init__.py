"""Who may do what: tokens, channels, origins, limits; and where webhooks may go."""

from .admission import Admission, Connection
from .channels import may_hear, need_publish, owns
from .limits import Rate, Slots
from .logins import Login, Logins, Who
from .origins import allowed_origin
from .revocations import Revocations
from .targets import Target, Targets, parse_target
from .tickets import LIFETIME, claims_of, new_ticket, ticket_holder, ticket_id
from .tokens import DEFAULT_SCOPES, SCOPES, Tokens, bearer, known_scope, need_scope

__all__ = [
    "DEFAULT_SCOPES",
    "LIFETIME",
    "SCOPES",
    "Admission",
    "Connection",
    "Login",
    "Logins",
    "Rate",
    "Revocations",
    "Slots",
    "Target",
    "Targets",
    "Tokens",
    "Who",
    "allowed_origin",
    "bearer",
    "claims_of",
    "known_scope",
    "may_hear",
    "need_publish",
    "need_scope",
    "new_ticket",
    "owns",
    "parse_target",
    "ticket_holder",
    "ticket_id",
]
