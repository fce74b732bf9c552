"""A job tells how far it is."""

from __future__ import annotations

import asyncio

from pushsvc import JobContext, Service

from .conftest import Run


async def test_progress_is_shown_while_the_job_runs(service: Service, run: Run) -> None:
    """It is volatile: the latest counts, it is no event, and no cursor ever brings it back."""
    seen = asyncio.Event()

    @service.job
    async def slow(ctx: JobContext) -> str:
        await ctx.progress(0.5, "half of it")
        await seen.wait()
        return "all of it"

    async with run(service) as running, running.listening() as next_frame:
        job = await running.submit("slow")
        progress = await next_frame()
        assert progress["op"] == "progress"
        assert (progress["job"], progress["value"], progress["message"]) == (job["id"], 0.5, "half of it")

        # Who comes later finds the latest in the job's status.
        status = (await running.alice.get(job["links"]["self"])).json()
        assert status["status"] == "running"
        assert status["progress"]["value"] == 0.5

        seen.set()
        while (end := await next_frame())["op"] == "progress":
            pass
        assert end["event"]["data"] == "all of it"
