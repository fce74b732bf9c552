"""What a type checker knows of `service.submit`: read by mypy with all the rest, and run by nobody."""

from __future__ import annotations

from typing import Any, assert_type

from pushsvc import Handle, JobContext, Service

service = Service()


@service.job
async def report(ctx: JobContext, origin: str, month: int = 1) -> dict[str, int]:
    return {origin: month}


@service.job
async def bare(origin: str) -> list[str]:
    return [origin]


@service.job
def plain(ctx: JobContext, number: int) -> int:
    return number


@service.job
def plain_and_bare(number: int) -> str:
    return str(number)


async def submits(ctx: JobContext) -> None:
    handle = await service.submit(report, origin="JFK", month=2)
    assert_type(handle, Handle[dict[str, int]])
    assert_type(await handle.result(), dict[str, int])
    assert_type(await (await service.submit(report, "JFK")).result(timeout=3), dict[str, int])
    assert_type(await (await service.submit(bare, "JFK")).result(), list[str])
    assert_type(await (await service.submit(plain, number=1)).result(), int)
    assert_type(await (await service.submit(plain_and_bare, 1)).result(), str)
    assert_type(await (await service.submit("report", origin="JFK")).result(), Any)
    assert_type(await service.options(owner="alice", key="k").submit(report, "JFK"), Handle[dict[str, int]])
    assert_type(await ctx.submit(plain, 1), Handle[int])
    assert_type(await ctx.options(priority="low").submit(bare, "JFK"), Handle[list[str]])
    await service.submit(report, origin=1)  # type: ignore[call-overload]
    await service.submit(report)  # type: ignore[call-overload]
    await service.submit(report, "JFK", owner="me")  # type: ignore[call-arg]
    async for progress in handle.progress():
        assert_type(progress.value, float)
