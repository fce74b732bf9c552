"""Submit a job over HTTP; its result is pushed over the WebSocket."""

from __future__ import annotations

from pushsvc import Service

from .conftest import Run


async def test_a_result_is_pushed_to_whoever_asked_for_it(service: Service, run: Run) -> None:
    """Any function becomes a job by one line. Whoever submits one needs no other channel than the own inbox."""

    @service.job
    async def greet(name: str) -> str:
        return f"hello, {name}"

    async with run(service) as running, running.listening() as next_frame:
        job = await running.submit("greet", name="alice")  # 202, at once
        frame = await next_frame()

        assert frame["op"] == "event"
        assert frame["channel"] == "user:alice"
        assert frame["event"]["job"] == job["id"]
        assert frame["event"]["type"] == "job.succeeded"
        assert frame["event"]["data"] == "hello, alice"

        # Who does not listen fetches it: the same JSON, for as long as it is retained.
        result = await running.alice.get(job["links"]["result"])
        assert result.json() == "hello, alice"
