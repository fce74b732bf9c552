"""The diagram of who may import whom is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_imports_go_downwards_only_and_through_no_wall() -> None:
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("statement", "without"),
    [
        ("import pushsvc", "asyncpg sqlalchemy starlette uvicorn pydantic redis arq alembic"),
        ("from pushsvc import verify_webhook", "asyncpg sqlalchemy starlette uvicorn httpcore redis arq alembic"),
        ("from pushsvc import JobError", "asyncpg sqlalchemy starlette uvicorn redis arq alembic"),
        ("from pushsvc import Service, JobContext", "alembic"),
    ],
)
def test_a_name_brings_only_what_it_needs(statement: str, without: str) -> None:
    code = f"import sys; {statement}; print([m for m in {without.split()} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_importing_pushsvc_brings_no_engine_and_no_demo() -> None:
    brought = "[m for m in sys.modules if m.startswith(('pushsvc.dev', 'pushsvc.demo'))]"
    code = f"import sys, pushsvc; pushsvc.Service; print({brought})"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
