"""Go away, come back with the cursor, and get what was missed: over any transport."""

from __future__ import annotations

from pushsvc import Service

from .conftest import Run


async def test_what_was_missed_comes_in_order_and_once(service: Service, run: Run) -> None:
    """A cursor is `channel@position`. Reading never deletes, so the same cursor gives the same again."""

    @service.job
    async def double(number: int) -> int:
        return 2 * number

    async with run(service) as running:
        async with running.listening() as next_frame:
            await running.submit("double", number=1)
            seen = await next_frame()
        cursor = f"{seen['channel']}@{seen['position']}"  # where we were when the connection broke

        for number in (2, 3):
            job = await running.submit("double", number=number)
            await running.alice.get(job["links"]["self"], params={"wait": 25})

        async with running.listening(cursor) as next_frame:
            missed = [await next_frame(), await next_frame()]
        assert [frame["event"]["data"] for frame in missed] == [4, 6]

        # An old client without WebSocket asks by long-poll, and gets the same events.
        poll = (await running.alice.get("/v1/events", params={"cursor": cursor})).json()
        assert [item["event"] for item in poll["events"]] == [frame["event"] for frame in missed]
        assert poll["up_to_date"] is True

        # Its answer carries the next cursor, behind which there is nothing yet.
        rest = await running.alice.get("/v1/events", params={"cursor": poll["cursor"], "wait": 0})
        assert rest.json()["events"] == []
