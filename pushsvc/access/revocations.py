"""Tokens that are void before their time."""

from __future__ import annotations

from datetime import datetime

from ..domain import Principal, Revocation


class Revocations:
    """What this process has heard of so far."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], datetime] = {}
        self._tokens: set[tuple[str, str, str]] = set()

    def add(self, revocation: Revocation) -> None:
        holder = (revocation.tenant, revocation.subject)
        if revocation.token is not None:
            self._tokens.add((*holder, revocation.token))
        elif holder not in self._before or self._before[holder] < revocation.before:
            self._before[holder] = revocation.before

    def covers(self, principal: Principal) -> bool:
        """Whether the principal's token is void. One that does not say when it was issued counts as old."""
        before = self._before.get(principal.holder)
        if before is not None and (principal.issued_at is None or principal.issued_at <= before):
            return True
        return (
            bool(self._tokens)
            and principal.token_id is not None
            and (*principal.holder, principal.token_id) in self._tokens
        )
