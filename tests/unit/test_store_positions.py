"""What devices acknowledge: kept for each channel, only ever forward, never beyond what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pushsvc.domain import Position, new_job_id
from pushsvc.errors import BadCursor, TooManyDevices
from pushsvc.settings import Settings
from pushsvc.store import Device, PositionStore

from ..contract.kit import Kit, me, opened, submission

PHONE = Device("default", "me", "phone")


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


async def top(kit: Kit, name: str = "user:me") -> Position:
    return (await kit.events.states([me(name)]))[me(name)].end


async def test_a_position_is_kept_and_goes_only_forward(kit: Kit) -> None:
    await kit.finish_many(range(3))
    end = await top(kit)
    positions = PositionStore(kit.postgres)
    assert await positions.acked(PHONE) == {}
    for offset, kept in ((1, 1), (3, 3), (2, 3)):
        await positions.ack(PHONE, {"user:me": Position(end.epoch, offset)})
        assert await positions.acked(PHONE) == {"user:me": Position(end.epoch, kept)}
    assert await positions.acked(Device("default", "me", "laptop")) == {}
    assert await positions.acked(Device("other", "me", "phone")) == {}


async def test_a_position_beyond_the_end_is_refused_and_nothing_of_its_cursor_is_kept(kit: Kit) -> None:
    await kit.finish(channels=("group:ops",))
    end, group = await top(kit), await top(kit, "group:ops")
    positions = PositionStore(kit.postgres)
    with pytest.raises(BadCursor, match="beyond"):
        await positions.ack(PHONE, {"group:ops": group, "user:me": Position(end.epoch, 2)})
    with pytest.raises(BadCursor):
        await positions.ack(PHONE, {})
    assert await positions.acked(PHONE) == {}


async def test_one_that_is_wrong_does_not_spoil_those_that_come_with_it(kit: Kit) -> None:
    await kit.finish()
    end = await top(kit)
    positions = PositionStore(kit.postgres)
    devices = [Device("default", "me", str(n)) for n in range(10)]
    offsets = [9 if n % 3 == 0 else 1 for n in range(10)]
    acks = [positions.ack(d, {"user:me": Position(end.epoch, n)}) for d, n in zip(devices, offsets, strict=True)]
    answers = await asyncio.gather(*acks, return_exceptions=True)
    assert [isinstance(answer, BadCursor) for answer in answers] == [n == 9 for n in offsets]
    kept = [bool(await positions.acked(device)) for device in devices]
    assert kept == [n == 1 for n in offsets]


async def test_a_history_that_is_over_is_not_remembered_but_no_error_either(kit: Kit) -> None:
    await kit.finish()
    positions = PositionStore(kit.postgres)
    await positions.ack(PHONE, {"user:me": Position("k0", 70)})
    await positions.ack(PHONE, {"group:nobody": Position("k0", 1), f"job:{new_job_id()}": Position("1", 1)})
    assert await positions.acked(PHONE) == {}
    before = await top(kit)
    await positions.ack(PHONE, {"user:me": before})
    await kit.events.renew_epochs()
    after = await top(kit)
    assert after.epoch != before.epoch
    await positions.ack(PHONE, {"user:me": Position(after.epoch, 0)})
    assert await positions.acked(PHONE) == {"user:me": Position(after.epoch, 0)}


async def test_a_jobs_channel_is_remembered_for_its_owner_only(kit: Kit) -> None:
    mine, theirs = [await kit.store(submission(owner=owner)) for owner in ("me", "you")]
    positions = PositionStore(kit.postgres)
    await positions.ack(PHONE, {f"job:{mine.id}": Position("1", 1), f"job:{theirs.id}": Position("1", 1)})
    assert await positions.acked(PHONE) == {f"job:{mine.id}": Position("1", 1)}
    with pytest.raises(BadCursor):
        await positions.ack(PHONE, {f"job:{mine.id}": Position("1", 2)})


async def test_a_subject_has_so_many_devices_until_one_is_forgotten(kit: Kit) -> None:
    await kit.finish()
    end = await top(kit)
    for name in ("a", "b"):
        await PositionStore(kit.postgres, 2).ack(Device("default", "me", name), {"user:me": end})
    positions = PositionStore(kit.postgres, 2)
    with pytest.raises(TooManyDevices, match="2 devices"):
        await positions.ack(Device("default", "me", "c"), {"user:me": end})
    await positions.ack(Device("default", "me", "a"), {"user:me": end})
    await kit.postgres.fetch("UPDATE pushsvc.positions SET acked_at = now() - interval '2 days' WHERE device = 'b'")
    assert await kit.retention.forget_devices(86400, 100) == 1
    await positions.ack(Device("default", "me", "c"), {"user:me": end})
