"""Who is next among what waits in this process: the same as `shares.lua` says of what waits in Redis."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import NamedTuple

LOW_EVERY, NORMAL_EVERY = 10, 5
"""So many starts of an owner, and the low (normal) ones have the first word once."""

_USUAL, _NORMAL_FIRST, _LOW_FIRST = (1, 0, -1), (0, 1, -1), (-1, 0, 1)


class Share(NamedTuple):
    """Whose a job is, and where among theirs it waits."""

    tenant: str
    owner: str
    priority: int
    due: int


class _Owner:
    """The jobs of one owner that wait, by priority and then by due time."""

    def __init__(self, passed: float) -> None:
        self.passed = passed
        self.jobs: dict[int, list[tuple[int, str]]] = {1: [], 0: [], -1: []}

    def order(self) -> tuple[int, ...]:
        turn = self.passed % LOW_EVERY
        if turn == LOW_EVERY - 1:
            return _LOW_FIRST
        return _NORMAL_FIRST if turn == NORMAL_EVERY - 1 else _USUAL


class _Tenant:
    def __init__(self, passed: float) -> None:
        self.passed = passed
        self.owners: dict[str, _Owner] = {}


def _first(members: Mapping[str, _Tenant | _Owner]) -> str:
    return min(members, key=lambda name: (members[name].passed, name.encode()))


class Shares:
    """Shares of the places, to tenants by their weights, then equally to the owners of each, and within an owner's by
    priority. Stride scheduling (Waldspurger & Weihl 1995, MIT/LCS/TM-528)."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}

    def push(self, job: str, share: Share) -> None:
        """It waits."""
        tenant = self._tenants.get(share.tenant)
        if tenant is None:
            tenant = _Tenant(min((each.passed for each in self._tenants.values()), default=0))
            self._tenants[share.tenant] = tenant
        owner = tenant.owners.get(share.owner)
        if owner is None:
            owner = tenant.owners[share.owner] = _Owner(
                min((each.passed for each in tenant.owners.values()), default=0)
            )
        insort(owner.jobs[share.priority], (share.due, job))

    def remove(self, job: str, share: Share) -> bool:
        """It waits no more; whether it did."""
        if share.tenant in self._tenants and share.owner in self._tenants[share.tenant].owners:
            jobs = self._tenants[share.tenant].owners[share.owner].jobs[share.priority]
            at = bisect_left(jobs, (share.due, job))
            if jobs[at : at + 1] == [(share.due, job)]:
                del jobs[at]
                return True
        return False

    def charge(self, share: Share, weights: Mapping[str, float], starts: int = 1) -> None:
        """So many starts of an owner: of both the pass goes up, or, for one that was none after all, down again."""
        tenant = self._tenants[share.tenant]
        tenant.passed += starts / weights.get(share.tenant, 1)
        tenant.owners[share.owner].passed += starts

    def waits(self) -> bool:
        """Whether anything is left. What has become empty goes, as far as it would be next."""
        while self._tenants:
            tenant = self._tenants[name := _first(self._tenants)]
            if not tenant.owners:
                del self._tenants[name]
                continue
            owner = tenant.owners[whose := _first(tenant.owners)]
            if any(owner.jobs.values()):
                return True
            del tenant.owners[whose]
        return False

    def pop(self, weights: Mapping[str, float]) -> str | None:
        """The next one, whose owner is charged for it."""
        if not self.waits():
            return None
        tenant = self._tenants[name := _first(self._tenants)]
        owner = tenant.owners[whose := _first(tenant.owners)]
        priority = next(each for each in owner.order() if owner.jobs[each])
        due, job = owner.jobs[priority].pop(0)
        self.charge(Share(name, whose, priority, due), weights)
        return job
