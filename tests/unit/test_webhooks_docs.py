"""`docs/webhooks.md` says what is so: its code verifies what we sign, its schedule is the courier's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.routing import Route

from pushsvc.cli import commands
from pushsvc.settings import PREFIX, Settings
from pushsvc.webhooks import SigningSecrets, sign
from pushsvc.webhooks.courier import FACTOR, FIRST, MOST
from pushsvc.webhooks.signature import key_of

TEXT = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = '{"id":"evt_1","type":"job.succeeded","data":"Zürich"}'.encode()


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def headers(body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    now = int(time.time())
    signature = sign("evt_1", now, body, [key_of(secret)])
    return {"webhook-id": "evt_1", "webhook-timestamp": str(now), "webhook-signature": signature}


async def test_the_receiver_in_python_takes_each_event_once_and_nothing_forged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: dict[str, Any] = {}
    exec(compile(block("python"), "webhooks.md", "exec"), shown)
    app = Starlette(routes=[Route("/", shown["hook"], methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        for _ in range(2):
            assert (await client.post("/", content=BODY, headers=headers())).status_code == 204
        assert (await client.post("/", content=BODY + b" ", headers=headers())).status_code == 401
    assert capsys.readouterr().out == "job.succeeded Zürich\n"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_verifier_in_javascript_agrees(tmp_path: Path) -> None:
    module = tmp_path / "verify.mjs"
    module.write_text(
        block("js")
        + """
const [good, changed, body] = JSON.parse(process.argv[2]);
const secrets = JSON.parse(process.argv[3]);
const tried = (headers, text) => {
  try { return verify(headers, Buffer.from(text), secrets).id; } catch (error) { return error.message; }
};
console.log(JSON.stringify([tried(good, body), tried(good, body + " "), tried(changed, body), tried({}, body)]));
"""
    )
    other = "whsec_" + "A" * 32
    old = headers() | {"webhook-timestamp": "1000"}
    given = json.dumps([headers(), old, BODY.decode()])
    run = subprocess.run(
        ["node", str(module), given, json.dumps([other, SECRET])],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    unknown, late = "not signed by a known secret", "not of this time"
    assert json.loads(run.stdout) == ["evt_1", unknown, late, late]


def test_the_schedule_shown_is_the_couriers() -> None:
    rows = re.findall(r"^\| (\d+) \|([^|]*)\|([^|]*)\|$", TEXT, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 10))
    since = 0.0
    for number, delay, total in rows[1:]:
        expected = FIRST * FACTOR ** (int(number) - 2)
        since += expected
        for shown, seconds in ((delay, expected), (total, since)):
            precision = 1 if shown.strip().endswith(" s") else 60
            assert abs(_seconds(shown) - seconds) < precision
    assert expected < MOST <= expected * FACTOR


def _seconds(text: str) -> float:
    units = {"s": 1, "min": 60, "h": 3600}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)", text)))


def test_the_settings_named_exist() -> None:
    named = set(re.findall(rf"{PREFIX}(\w+)", TEXT))
    assert named <= {field.upper() for field in Settings.model_fields}


def test_the_command_prints_the_secrets_of_a_subject_or_of_the_service(tmp_path: Path) -> None:
    def printed(*arguments: str, **environment: str) -> list[str]:
        runner = CliRunner(env={"PUSHSVC_SECRET": "a secret for tests only, 32 chars", **environment})
        found = runner.invoke(commands, ["webhook-secret", "--data-dir", str(tmp_path), *arguments])
        assert found.exit_code == 0, found.output
        return found.output.splitlines()

    secrets = SigningSecrets([], "a secret for tests only, 32 chars")
    assert printed() == secrets.shown("", "")
    assert printed("--sub", "alice") == secrets.shown("default", "alice")
    assert printed("--sub", "alice", "--tenant", "t") == secrets.shown("t", "alice")
    assert printed("--sub", "alice", PUSHSVC_WEBHOOK_SECRETS=SECRET, PUSHSVC_SECRET="") == [SECRET]
