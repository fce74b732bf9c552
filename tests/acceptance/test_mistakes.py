"""Each mistake that people make gets one sentence and exit status 78, and nothing of ours in between."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from pushsvc.cli import main

from ..conftest import _execute
from .harness import SECRET

Here = Callable[..., tuple[int, str]]

APP = """
from pushsvc import Service

service = Service()


@service.job
async def hello(name: str = "x") -> str:
    return name
"""
MODULES = {
    "report": APP,
    "renamed": APP.replace("service", "app_service"),
    "other": "service = 42\n",
    "empty": "",
    "typo": "import pushsvc\n\nservice = pushsvc.Service()\n\nservice.jobb\n",
    "syntax": "from pushsvc import Service\n\nservice = Service(\n",
    "needs": "import pandas_that_is_not_there\n",
    "leaves": "import sys\n\nsys.exit('no config')\n",
    "deep": "from typo import service\n",
    "twice": APP + "\n\n@service.job(name='hello')\nasync def again() -> None: ...\n",
    "unpaid": APP.replace("@service.job", "@service.job(timeout='soon')"),
    "stranger": APP.replace('name: str = "x"', "*name: str"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Runs a command in this process, which is done with before it starts anything."""
    for name in [name for name in os.environ if name.startswith("PUSHSVC_")]:
        monkeypatch.delenv(name)
    for name in ("WEB_PROCESSES", "WORKER_PROCESSES", "LOG_LEVEL"):  # which a command sets itself
        monkeypatch.setenv(f"PUSHSVC_{name}", "")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)

    def here(*arguments: str, **settings: str) -> tuple[int, str]:
        for name, value in settings.items():
            monkeypatch.setenv(f"PUSHSVC_{name.upper()}", value)
        monkeypatch.setattr(sys, "argv", ["pushsvc", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    yield here
    for name in set(sys.modules) - modules:
        if name in MODULES:
            del sys.modules[name]


def run(place: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    """Exit status, and what stands on standard error."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    env |= {f"PUSHSVC_{name.upper()}": value for name, value in settings.items()} | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "pushsvc", "--log-level", "error", *arguments]
    done = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "report.py:service"], "'report.py' is not the name of a module; write report:service"),
        (["serve", "./app/report.py"], "write app.report:service"),
        (["serve", "repport:service"], "there is no module 'repport'; did you mean report?"),
        (["serve", "nothing.like.it:service"], "there is no module 'nothing.like.it'; it is looked for in"),
        (["serve", "report:svc"], "report has no Service named 'svc'; it has service: write report:service"),
        (["serve", "renamed"], "it has app_service: write renamed:app_service"),
        (["serve", "other"], "'service' of other is a int, not a Service"),
        (["serve", "empty"], "make one with `service = pushsvc.Service()`"),
        (
            ["serve", "typo"],
            "typo can't be imported\n  typo.py, line 5, in <module>\n    service.jobb\nAttributeError",
        ),
        (["serve", "syntax"], "syntax can't be imported"),
        (["serve", "needs"], "install pandas_that_is_not_there, or correct its name"),
        (["serve", "leaves"], "leaves.py, line 3, in <module>"),
        (["serve", "deep"], "deep.py, line 1, in <module>\n    from typo import service\n  typo.py, line 5"),
        (["worker", "twice"], "twice.py, line 12"),
        (["worker", "unpaid"], "a duration is a number with ms, s, m, h or d"),
        (["worker", "stranger"], "stranger.py, line 7"),
        (["token", "--sub", "a", "--scope", "sumbit"], "'sumbit' is not a scope; did you mean submit?"),
        (["token", "--sub", "a", "--ttl", "0"], "a token is valid for more than 0"),
        (["token", "--sub", "", "--ttl", "1h"], "sub"),
        (["serve", "report", "--port", "70000"], "70000 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_command_or_the_module(here: Here, arguments: list[str], sentence: str) -> None:
    given = {"database_url": "postgresql://127.0.0.1:1/d", "redis_url": "redis://127.0.0.1:1", "secret": SECRET}
    status, said = here(*arguments, **given)
    assert sentence in said
    assert status in ((2,) if "70000" in sentence else (78,))
    assert "Traceback" not in said
    assert "importlib" not in said
    assert "pushsvc/" not in said.replace("pushsvc: ", "")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"database_url": "postgresql+psycopg2://h/d"}, "postgresql+psycopg2:// names another driver"),
        ({"secret": "short"}, "PUSHSVC_SECRET is shorter than 32 characters"),
        ({"allowed_origins": "app.example"}, "PUSHSVC_ALLOWED_ORIGINS: "),
        ({"allowed_origins": "https://app.example/"}, "an origin has a scheme and no path"),
        ({"max_job": "3"}, "did you mean PUSHSVC_MAX_JOBS?"),
        ({"lease": "soon"}, "PUSHSVC_LEASE: "),
        ({"redis_url": "redis://:p/w@h"}, "has to be percent-encoded, as %2F"),
    ],
)
def test_a_setting_that_can_not_be(here: Here, settings: dict[str, str], sentence: str) -> None:
    given = {"database_url": "postgresql://127.0.0.1:1/d", "redis_url": "redis://127.0.0.1:1", "secret": SECRET}
    status, said = here("serve", "report", "--port", "0", **(given | settings))
    assert (status, sentence in said, said.count("\n")) == (78, True, 1), said


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("serve", "PUSHSVC_DATABASE_URL, PUSHSVC_REDIS_URL and PUSHSVC_SECRET are not set"),
        ("worker", "PUSHSVC_DATABASE_URL, PUSHSVC_REDIS_URL and PUSHSVC_SECRET are not set"),
    ],
)
def test_all_missing_settings_are_said_at_once(here: Here, command: str, names: str) -> None:
    status, said = here(command, "report", "--data-dir", "nowhere")
    assert (status, said.count("\n")) == (78, 1), said
    assert f"pushsvc: {names}; set them, or use `pushsvc dev`" in said


def at(url: str, **parts: str) -> str:
    return urlunsplit(urlsplit(url)._replace(**parts))


def test_a_database_that_is_not_there(place: Path, postgres_url: str, redis_url: str) -> None:
    url = at(postgres_url, path="/no_such_database")
    status, said = run(place, "serve", "report", "--port", "0", database_url=url, redis_url=redis_url, secret=SECRET)
    assert (status, said.count("\n")) == (78, 1), said
    assert 'database "no_such_database" does not exist; create it' in said


def test_a_role_that_does_not_exist(place: Path, postgres_url: str, redis_url: str) -> None:
    url = at(postgres_url, netloc="nobody_here:hunter2@")
    status, said = run(place, "worker", "report", database_url=url, redis_url=redis_url, secret=SECRET)
    assert (status, said.count("\n")) == (78, 1), said
    assert 'role "nobody_here" does not exist; correct the user or the password' in said
    assert "hunter2" not in said


def test_a_role_that_may_not_make_the_schema_and_where_an_admin_has_made_it(
    place: Path, empty_database_url: str, redis_url: str
) -> None:
    role = f"app_{uuid4().hex[:8]}"
    asyncio.run(_execute(empty_database_url, f"CREATE ROLE {role} LOGIN"))
    given = {"database_url": at(empty_database_url, netloc=f"{role}@"), "redis_url": redis_url, "secret": SECRET}
    try:
        status, said = run(place, "migrate", **given)
        assert (status, said.count("\n")) == (78, 1), said
        assert "let an admin run `CREATE SCHEMA pushsvc AUTHORIZATION <role>`" in said
        asyncio.run(_execute(empty_database_url, f"CREATE SCHEMA pushsvc AUTHORIZATION {role}"))
        assert run(place, "migrate", **given)[0] == 0
    finally:
        asyncio.run(_execute(empty_database_url, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [("9999", "the store's schema is at 9999, this code is older"), ("0001", "run `pushsvc migrate`")],
)
def test_a_schema_of_another_version(
    place: Path, empty_database_url: str, redis_url: str, version: str, sentence: str
) -> None:
    given = {"database_url": empty_database_url, "redis_url": redis_url, "secret": SECRET}
    assert run(place, "migrate", **given)[0] == 0
    asyncio.run(_execute(empty_database_url, f"UPDATE pushsvc.alembic_version SET version_num = '{version}'"))
    status, said = run(place, "serve", "report", "--port", "0", **given)
    assert (status, said.count("\n"), sentence in said) == (78, 1, True), said
