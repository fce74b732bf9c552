"""`/openapi.json`: each job's parameters and result, in a document where every reference leads somewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from pushsvc import JobContext, Service, wire
from pushsvc.settings import Settings
from pushsvc.web.openapi import document

from .test_web_asyncapi import references

service = Service(settings=Settings(secret="a secret for tests only, 32 chars"))


class Flight(BaseModel):
    number: int
    delay: float | None = None


@dataclass
class Report:
    origin: str
    worst: list[Flight]


class Opaque:
    """Nothing that has a JSON Schema."""


@service.job
async def report(ctx: JobContext, origin: Literal["JFK", "LGA"], month: int = 1) -> Report:
    """Delays of one airport."""
    return Report(origin, [])


@service.job
async def tick() -> None: ...


@service.job
async def untold(first: Flight, others: list[Flight] = []):  # type: ignore[no-untyped-def]  # noqa: B006
    ...


@service.job(name="odd.name-1")
async def odd() -> Opaque:
    return Opaque()


def made(jobs: Any = service.jobs) -> Any:
    return json.loads(wire.dump(document(jobs, "/push")))


DOCUMENT = made()
SCHEMAS = DOCUMENT["components"]["schemas"]


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 20
    for reference in found:
        at = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
        assert isinstance(at, dict)


def test_a_submission_names_its_job_and_takes_the_parameters_of_its_signature() -> None:
    body = DOCUMENT["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["discriminator"]["mapping"]) == {"report", "tick", "untold", "odd.name-1"}
    submission = SCHEMAS["Submit.report"]
    assert submission["properties"]["job"] == {"const": "report", "type": "string"}
    assert submission["required"] == ["job", "params"]
    assert submission["description"] == "Delays of one airport."
    assert {"channels", "callback_url", "run_at", "deadline"} <= submission["properties"].keys()
    params = SCHEMAS[submission["properties"]["params"]["$ref"].rpartition("/")[2]]
    assert params["required"] == ["origin"]
    assert params["properties"]["origin"]["enum"] == ["JFK", "LGA"]
    assert "ctx" not in params["properties"]
    assert SCHEMAS["Submit.tick"]["required"] == ["job"]


def test_a_success_has_what_the_function_says_that_it_returns() -> None:
    success = SCHEMAS["Succeeded.report"]["properties"]
    assert success["name"] == {"const": "report", "type": "string"}
    assert "error" not in success
    result = SCHEMAS[success["data"]["$ref"].rpartition("/")[2]]
    assert result["properties"].keys() == {"origin", "worst"}
    assert SCHEMAS["Succeeded.tick"]["properties"]["data"] == {"type": "null"}


@pytest.mark.parametrize("name", ["untold", "odd.name-1"])
def test_a_result_without_a_schema_may_be_anything(name: str) -> None:
    assert SCHEMAS[f"Succeeded.{name}"]["properties"]["data"] == {}


def test_events_are_those_of_the_jobs_and_all_others() -> None:
    heard = [each["$ref"].rpartition("/")[2] for each in SCHEMAS["EventItem"]["properties"]["event"]["anyOf"]]
    assert heard[-2:] == ["JobEvent", "AppEvent"]
    assert "Succeeded.report" in heard
    assert DOCUMENT["servers"] == [{"url": "/push"}]


def test_a_service_without_jobs_is_described_too() -> None:
    body = made([])["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/JobRequest"}
