"""The distribution: alone in an environment it has all that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, so that nothing is left in the repository; without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", *map(str, _sources())):
        target = directory / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-build-isolation", "--no-deps"),
        *("--no-index", "--wheel-dir", str(directory), str(directory / "source")),
    )
    (built,) = directory.glob("*.whl")
    return built


def _sources() -> list[Path]:
    package = ROOT / "pushsvc_client"
    return [path.relative_to(ROOT) for path in package.rglob("*") if path.suffix == ".py" or path.name == "py.typed"]


def run(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def needed(names: list[str], found: set[str]) -> set[str]:
    """These distributions and all that they need here, by name."""
    for name in names:
        if name not in found:
            found.add(name)
            requirements = [Requirement(text) for text in distribution(name).requires or ()]
            wanted = [
                each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
            needed(wanted, found)
    return found


def test_the_wheel_has_every_module_and_its_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path) for path in _sources()} <= names
    assert not any(name.startswith(("tests", "pushsvc/")) for name in names)


def test_installed_alone_it_works_and_brings_nothing_of_the_server(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env"))
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    for name in needed([Requirement(text).name for text in PROJECT["dependencies"]], set()):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top != ".." and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    code = (
        "import importlib.util, pushsvc_client, sys\n"
        "client = pushsvc_client.Client('http://127.0.0.1:9', token='t', retry_for=0)\n"
        "try: client.submit('report')\n"
        "except pushsvc_client.ConnectionFailed: print('nobody there')\n"
        "client.close()\n"
        "print([name for name in ('pushsvc', 'pydantic', 'sqlalchemy', 'redis') if importlib.util.find_spec(name)])\n"
    )
    said = run(str(tmp_path / "env" / "bin" / "python"), "-I", "-W", "error", "-c", code)
    assert said.splitlines() == ["nobody there", "[]"]


def test_no_module_knows_the_server() -> None:
    for path in (ROOT / "pushsvc_client").rglob("*.py"):
        assert re.search(r"^\s*(?:from|import) pushsvc\b", path.read_text(), re.MULTILINE) is None, path


def test_where_both_are_installed_it_is_a_part_of_the_server_too() -> None:
    import pushsvc_client

    import pushsvc.client

    assert {name: getattr(pushsvc.client, name) for name in pushsvc_client.__all__} == {
        name: getattr(pushsvc_client, name) for name in pushsvc_client.__all__
    }


def test_both_clients_have_the_same_methods() -> None:
    import inspect

    import pushsvc_client as made

    for ours, theirs in ((made.Client, made.AsyncClient), (made.Handle, made.AsyncHandle)):
        names = {name for name in vars(theirs) if not name.startswith("_")}
        assert {name for name in vars(ours) if not name.startswith("_")} == names
        for name in names:
            if callable(method := getattr(theirs, name)):
                given = inspect.signature(getattr(ours, name)).parameters
                assert list(given) == list(inspect.signature(method).parameters), name
