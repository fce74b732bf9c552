"""`POST /v1/jobs/batch` and `GET /v1/jobs?ids=…`: all of them or none, and all at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from pushsvc import Service, Settings

from .test_hosting import lifespan_of


@pytest.fixture
def service(settings: Settings) -> Service:
    service = Service(settings=settings)

    @service.job
    async def report(origin: str) -> str:
        return origin

    @service.job(coalesce=True)
    async def shared() -> None: ...

    return service


@pytest_asyncio.fixture
async def alice(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    app = service.asgi()
    async with lifespan_of(app), client(service, "alice") as made:
        yield made


def client(service: Service, sub: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(service.app)
    headers = {"Authorization": f"Bearer {service.token(sub)}"}
    return httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers)


def jobs(*origins: Any) -> dict[str, Any]:
    return {"jobs": [{"job": "report", "params": {"origin": origin}} for origin in origins]}


async def count(service: Service) -> int:
    return await service.parts.store.queued(1000)


async def test_a_batch_is_accepted_as_a_whole_in_order(service: Service, alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/v1/jobs/batch", json=jobs("JFK", "LGA", "EWR"))
    assert answer.status_code == 202, answer.text
    found = answer.json()["jobs"]
    assert [job["status"] for job in found] == ["queued"] * 3
    assert all(f"job:{job['id']}@1.1" in job["cursor"] and "user:alice@" in job["cursor"] for job in found)
    listed = (await alice.get("/v1/jobs", params={"ids": ",".join(job["id"] for job in found)})).json()["jobs"]
    assert {job["id"] for job in listed} == {job["id"] for job in found}
    assert len(found) == await count(service) == 3


async def test_one_that_is_wrong_keeps_out_all_and_is_named(service: Service, alice: httpx.AsyncClient) -> None:
    for wrong, status in (
        ({"job": "report", "params": {"origin": 1}}, 422),
        ({"job": "nothing"}, 404),
        ({"job": "report", "params": {"origin": "JFK"}, "channels": ["group:secret"]}, 403),
        ({"job": "report", "params": {"origin": "JFK"}, "deadline": "2020-01-01T00:00:00Z"}, 400),
    ):
        answer = await alice.post("/v1/jobs/batch", json={"jobs": [*jobs("JFK", "LGA")["jobs"], wrong]})
        assert answer.status_code == status, answer.text
        assert answer.json()["index"] == 2
    bodies: tuple[dict[str, Any], ...] = (
        {"jobs": []},
        jobs(*["JFK"] * 501),
        {},
        {"jobs": [{"job": "report", "extra": 1}]},
    )
    for body in bodies:
        assert (await alice.post("/v1/jobs/batch", json=body)).status_code == 400
    assert await count(service) == 0


async def test_a_key_stands_for_the_whole_batch(service: Service, alice: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = (await alice.post("/v1/jobs/batch", json=jobs("JFK", "LGA"), headers=key)).json()["jobs"]
    again = (await alice.post("/v1/jobs/batch", json=jobs("JFK", "LGA"), headers=key)).json()["jobs"]
    assert [job["id"] for job in again] == [job["id"] for job in first]
    for other in (jobs("JFK"), jobs("LGA", "JFK"), jobs("JFK", "LGA", "EWR")):
        answer = await alice.post("/v1/jobs/batch", json=other, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "key_reused")
    assert await count(service) == 2
    await service.parts.postgres.fetch("DELETE FROM pushsvc.jobs")
    assert (await alice.post("/v1/jobs/batch", json=jobs("JFK", "LGA"), headers=key)).status_code == 410


async def test_equal_jobs_of_a_batch_that_coalesce_are_one(service: Service, alice: httpx.AsyncClient) -> None:
    found = (await alice.post("/v1/jobs/batch", json={"jobs": [{"job": "shared"}] * 3})).json()["jobs"]
    assert len({job["id"] for job in found}) == await count(service) == 1
    assert len({job["links"]["cancel"] for job in found}) == 3


async def test_ids_of_others_are_as_if_they_were_not_there(service: Service, alice: httpx.AsyncClient) -> None:
    (job,) = (await alice.post("/v1/jobs/batch", json=jobs("JFK"))).json()["jobs"]
    async with client(service, "bob") as bob:
        assert (await bob.get("/v1/jobs", params={"ids": job["id"]})).json() == {"jobs": [], "next": None}
    for query in ("ids=", "ids=x", f"ids={job['id']}&status=queued", "ids=" + ",".join([job["id"]] * 501)):
        assert (await alice.get(f"/v1/jobs?{query}")).status_code == 400


async def test_a_cancel_reaches_children_if_asked(service: Service, alice: httpx.AsyncClient) -> None:
    parent, child, other = (await alice.post("/v1/jobs/batch", json=jobs("JFK", "LGA", "EWR"))).json()["jobs"]
    await service.parts.postgres.fetch("UPDATE pushsvc.jobs SET parent = $1 WHERE id = $2", parent["id"], child["id"])
    url = f"/v1/jobs/{parent['id']}/cancel"
    assert (await alice.post(url, params={"children": "perhaps"})).status_code == 400
    assert (await alice.post(url, params={"children": "true"})).status_code == 202
    ids = ",".join(job["id"] for job in (parent, child, other))
    found = {job["id"]: job["status"] for job in (await alice.get("/v1/jobs", params={"ids": ids})).json()["jobs"]}
    assert found == {parent["id"]: "cancelled", child["id"]: "cancelled", other["id"]: "queued"}
