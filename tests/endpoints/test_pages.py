"""What browsers get: a page that waits, the answer under the endpoint's own URL, and no form sent twice."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from pushsvc import Service, WaitingPage

from ..acceptance.clients import until
from .conftest import Site, opened

BROWSER = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "same-origin"}


class Shop:
    """Pages that take as long as `open` is not set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.orders: list[str] = []

    async def login(self, request: Request) -> Response:
        request.session["user"] = request.path_params["user"]
        return PlainTextResponse("welcome")

    async def report(self, request: Request) -> Response:
        await self.open.wait()
        return HTMLResponse(f"<h1>{request.session.get('user')} {request.query_params.get('over', '')}</h1>")

    async def order(self, request: Request) -> Response:
        form = await request.form()
        self.orders.append(str(form["item"]))
        await self.open.wait()
        return HTMLResponse(f"<h1>ordered {form['item']}</h1>", 201)

    async def broken(self, request: Request) -> Response:
        await asyncio.sleep(3600)
        return Response()


def app_of(service: Service, shop: Shop, **attached: Any) -> Starlette:
    def marked(**options: Any) -> list[Any]:
        return [service.respond_async(**{"wait": 0} | options)]

    app = Starlette(
        routes=[
            Route("/login/{user}", shop.login, methods=["POST"]),
            Route("/report/{code}", shop.report, middleware=marked()),
            Route("/order", shop.order, methods=["POST"], middleware=marked()),
            Route("/broken", shop.broken, middleware=marked(timeout=0.2)),
        ],
        middleware=[Middleware(SessionMiddleware, secret_key="for tests")],
    )
    service.attach(app, **attached)
    return app


def page_of(answer: httpx.Response) -> str:
    found = re.search(r'data-page="([^"]+)"', answer.text)
    assert found is not None, answer.text
    return str(answer.url.join(found[1].replace("&amp;", "&")))


async def until_done(site: Site, job: str) -> None:
    async def ended() -> bool:
        rows = await site.rows("SELECT 1 FROM pushsvc.jobs WHERE id = $1 AND finished_at IS NOT NULL", job)
        return bool(rows)

    await until(ended, f"{job} has finished")


def job_of(url: str) -> str:
    return url.rpartition("pushsvc-job=")[2]


async def test_a_page_that_waits_and_then_the_answer_under_the_endpoints_own_url(service: Service) -> None:
    shop = Shop()
    async with opened(service, app_of(service, shop)) as site, site.client(headers=BROWSER) as ann:
        await ann.post("/login/ann")
        first = await ann.get("/report/JFK?over=5")
        assert (first.status_code, first.headers["cache-control"]) == (202, "no-store")
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        page = page_of(first)
        assert page.startswith("http://shop.example/report/JFK?over=5&pushsvc-job=")
        for name in ("waiting.js", "waiting.css"):
            assert f'"/push/v1/{name}"' in first.text
            assert (await ann.get(f"/push/v1/{name}")).status_code == 200
        assert "<script>" not in first.text
        assert "style=" not in first.text
        again = await ann.get(page)
        assert (again.status_code, page_of(again)) == (202, page)
        as_json = await ann.get(page, headers={"Sec-Fetch-Mode": "cors", "Accept": "application/json"})
        assert (as_json.status_code, as_json.json()["job"]) == (202, "report")
        shop.open.set()
        await until_done(site, job_of(page))
        for _ in range(2):
            done = await ann.get(page)
            assert (done.status_code, done.text) == (200, "<h1>ann 5</h1>")
        assert len(await site.rows("SELECT 1 FROM pushsvc.jobs")) == 1


async def test_a_form_is_sent_on_to_its_page_so_that_a_reload_never_posts_twice(service: Service) -> None:
    shop = Shop()
    async with opened(service, app_of(service, shop)) as site, site.client(headers=BROWSER) as ann:
        await ann.post("/login/ann")
        sent = await ann.post("/order", data={"item": "tea"})
        assert sent.status_code == 303
        page = str(sent.url.join(sent.headers["location"]))
        assert page.startswith("http://shop.example/order?pushsvc-job=")
        for _ in range(3):
            assert (await ann.get(page)).status_code == 202
        shop.open.set()
        await until_done(site, job_of(page))
        done = await ann.get(page)
        assert (done.status_code, done.text) == (201, "<h1>ordered tea</h1>")
        assert shop.orders == ["tea"]


async def test_a_job_that_ended_without_an_answer_says_why_and_how_to_ask_again(service: Service) -> None:
    async with opened(service, app_of(service, Shop())) as site, site.client(headers=BROWSER) as ann:
        page = page_of(await ann.get("/broken"))
        await until_done(site, job_of(page))
        ended = await ann.get(page)
        assert ended.status_code == 504
        assert "the job may take 0.2 s" in ended.text
        assert '<a href="./broken">' in ended.text
        as_json = await ann.get(page, headers={"Sec-Fetch-Mode": "cors", "Accept": "application/json"})
        assert (as_json.status_code, as_json.json()["code"]) == (504, "job_timed_out")


@pytest.mark.parametrize("kind", ["foreign", "unknown", "malformed", "twice", "of another page"])
async def test_what_is_not_ones_own_job_of_this_page_is_404(service: Service, kind: str) -> None:
    shop = Shop()
    shop.open.set()
    async with opened(service, app_of(service, shop)) as site, site.client(headers=BROWSER) as ann:
        async with site.client(headers=BROWSER) as bob:
            await ann.post("/login/ann")
            await bob.post("/login/bob")
            page = page_of(await ann.get("/report/JFK"))
            await until_done(site, job_of(page))
            asking, url = {
                "foreign": (bob, page),
                "unknown": (ann, page[:-4] + "0000"),
                "malformed": (ann, page + "x"),
                "twice": (ann, f"{page}&pushsvc-job={job_of(page)}"),
                "of another page": (ann, page.replace("JFK", "LGA")),
            }[kind]
            answer = await asking.get(url)
            assert answer.status_code == 404
            assert "There is nothing here" in answer.text
            assert '<a href="./' in answer.text


async def test_a_job_of_the_api_is_no_page_of_the_app(service: Service) -> None:
    @service.job
    async def echo(value: str) -> str:
        return value

    async with opened(service, app_of(service, Shop())) as site, site.client(headers=BROWSER) as http:
        token = {"Authorization": f"Bearer {service.token('ann')}"}
        made = await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "x"}}, headers=token)
        await until_done(site, made.json()["id"])
        assert (await http.get(f"/report/x?pushsvc-job={made.json()['id']}", headers=token)).status_code == 404


async def test_a_part_of_a_page_waits_for_its_answer(service: Service) -> None:
    """An image has no use for a page."""
    shop = Shop()
    async with opened(service, app_of(service, shop)) as site, site.client() as http:
        getting = asyncio.create_task(http.get("/report/x", headers={"Sec-Fetch-Dest": "image"}))

        async def running() -> bool:
            return bool(await site.rows("SELECT 1 FROM pushsvc.jobs WHERE status = 'running'"))

        await until(running, "the endpoint runs")
        shop.open.set()
        assert (await getting).status_code == 200


async def test_an_author_has_a_page_of_his_own(service: Service) -> None:
    def render(request: Request, page: WaitingPage) -> str:
        return page.html(title=f"{page.name} for {request.session['user']} <{page.state}>")

    shop = Shop()
    async with opened(service, app_of(service, shop, waiting_page=render)) as site:
        async with site.client(headers=BROWSER) as ann:
            await ann.post("/login/ann")
            answer = await ann.get("/report/x")
            assert answer.status_code == 202
            assert "<h1>report for ann &lt;waiting&gt;</h1>" in answer.text
            shop.open.set()


async def test_the_page_hears_of_its_job_even_if_that_is_nobodys(service: Service) -> None:
    shop = Shop()
    async with opened(service, app_of(service, shop)) as site, site.client(headers=BROWSER) as http:
        answer = await http.get("/report/x")
        status, events = (re.search(f'data-{name}="([^"]+)"', answer.text) for name in ("status", "events"))
        assert status is not None
        assert events is not None
        waiting = asyncio.create_task(http.get(status[1] + "?wait=20"))
        shop.open.set()
        assert (await waiting).json()["status"] == "succeeded"
        heard = await http.get(events[1].replace("&amp;", "&"))
        assert '"type":"job.succeeded"' in heard.text
