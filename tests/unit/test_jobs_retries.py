"""Trying again: after which errors, and when, as the author says, or the job itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pushsvc import JobError, Jobs, Retry, Service, Settings
from pushsvc.errors import JobFailed, SettingsError
from pushsvc.jobs.retries import Retries, retries_of

from ..contract.kit import soon
from .test_submit import working


class Mine(ValueError):
    pass


def delay(given: Any, error: Exception, tries: int = 1) -> float | None:
    return retries_of("j", given).delay(error, tries, lambda tries: 100.0 + tries)


@pytest.mark.parametrize(
    ("given", "error", "seconds"),
    [
        (None, ValueError(), 101.0),
        (ValueError, Mine(), 101.0),
        (ValueError, KeyError(), None),
        ((OSError, KeyError), KeyError(), 101.0),
        ({ValueError: 5}, Mine(), 5.0),
        ({ValueError: "2m", Mine: False}, ValueError(), 120.0),
        ({ValueError: "2m", Mine: False}, Mine(), None),
        ({ValueError: False}, KeyError(), 101.0),
        ({Exception: False, Mine: True}, Mine(), 101.0),
        ({Exception: False, Mine: True}, KeyError(), None),
        ({ValueError: lambda tries: tries * 7}, ValueError(), 7.0),
        ({ValueError: lambda tries: "much"}, ValueError(), 101.0),
        ({ValueError: lambda tries: -3}, ValueError(), 0.0),
        ({Exception: False}, Retry(after=3), 3.0),
    ],
)
def test_the_nearest_class_says_when(given: Any, error: Exception, seconds: float | None) -> None:
    assert delay(given, error) == seconds


@pytest.mark.parametrize(
    "given", [3, "ValueError", (ValueError, 3), {ValueError: "soon"}, {"a": 1}, {ValueError: -1}, BaseException]
)
def test_what_says_nothing_is_refused_when_the_module_loads(settings: Settings, given: Any) -> None:
    with pytest.raises(SettingsError, match="job report"):

        @Service(settings=settings).job(max_attempts=2, retry=given)
        async def report() -> None: ...


def test_who_tries_once_needs_no_retries(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="max_attempts=1"):

        @Service(settings=settings).job(retry=ValueError)
        async def report() -> None: ...


@pytest.mark.parametrize("after", ["soon", -1, True, float("nan"), 10**12])
def test_a_retry_is_after_a_duration(after: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        Retry(after=after)


def test_without_a_word_all_is_as_ever() -> None:
    assert retries_of("j", None) == Retries({})


async def test_a_job_asks_to_be_tried_again_until_its_tries_are_used_up(settings: Settings) -> None:
    service = Service(settings=settings)
    attempts: dict[str, int] = {}

    def count(name: str) -> int:
        attempts[name] = attempts.get(name, 0) + 1
        return attempts[name]

    @service.job(max_attempts=3)
    async def third() -> int:
        if (tried := count("third")) < 3:
            raise Retry(after=0)
        return tried

    @service.job(max_attempts=2)
    async def never() -> None:
        count("never")
        raise Retry("the other side is busy", after="1ms")

    @service.job(max_attempts=5, retry={ValueError: 0, Mine: False})
    async def by_class(kind: str) -> None:
        count(kind)
        raise Mine if kind == "mine" else ValueError

    @service.job(max_attempts=4, retry={ConnectionError: 0.0})
    async def remote() -> None:
        """As the author has said something of it, it is not taken for the database's."""
        count("remote")
        raise ConnectionRefusedError

    async with working(service):
        assert await soon((await service.submit(third)).result()) == 3
        with pytest.raises(JobError, match="the other side is busy"):
            await soon((await service.submit(never)).result())
        for job, arguments in ((by_class, ["mine"]), (by_class, ["other"]), (remote, [])):
            with pytest.raises(JobFailed):
                await soon((await service.submit(job.__name__, *arguments)).result())
    assert attempts == {"third": 3, "never": 2, "mine": 1, "other": 5, "remote": 4}


async def test_jobs_of_several_modules_are_included_without_knowing_the_service(settings: Settings) -> None:
    reports, mail = Jobs(), Jobs()

    @reports.job(timeout=5, retention="1h")
    async def monthly(month: int) -> int:
        return month

    @mail.job
    async def send() -> str:
        return "sent"

    service = Service(settings=settings)
    service.include(reports, prefix="reports.")
    service.include(mail)

    @reports.job(name="late")
    async def yearly() -> None: ...

    assert {spec.name for spec in service.jobs} == {"reports.monthly", "reports.late", "send"}
    spec = service.jobs.get("reports.monthly")
    assert (spec.timeout, spec.retention) == (5.0, 3600.0)
    assert service.jobs.get("send").retention == settings.retention
    with pytest.raises(SettingsError, match="two jobs named"):
        service.include(mail)
    async with working(service):
        handles = await asyncio.gather(service.submit(monthly, 3), service.submit(send))
        assert [await soon(handle.result()) for handle in handles] == [3, "sent"]


def test_what_can_not_be_a_job_is_refused_in_its_own_module() -> None:
    with pytest.raises(SettingsError, match="can't be given by name"):

        @Jobs().job
        async def wrong(*args: int) -> None: ...
