"""Settings: everything from `PUSHSVC_*`, wrong ones named and explained, secrets never shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pushsvc.errors import SettingsError
from pushsvc.masking import mask_url
from pushsvc.settings import Settings, _of_kubernetes, parse_duration, parse_size


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert (settings.max_jobs, settings.executor_concurrency) == (10, 4)
    assert (settings.retention, settings.inline_limit) == (86400, 65536)
    assert (settings.backend, settings.allowed_origins) == ("arq", ())
    assert settings.database_url is settings.redis_url is settings.secret is None


def test_values_are_read_from_the_environment_and_overridden_by_arguments() -> None:
    environ = {
        "PUSHSVC_MAX_JOBS": "3",
        "PUSHSVC_RETENTION": "2h",
        "PUSHSVC_INLINE_LIMIT": "16 KiB",
        "PUSHSVC_ALLOWED_ORIGINS": "https://a.example, https://b.example,,",
        "PUSHSVC_LEASE": "",
        "PATH": "/bin",
        "pushsvc_max_jobs": "9",
    }
    settings = Settings.from_env(environ, executor_concurrency=2)
    assert (settings.max_jobs, settings.executor_concurrency, settings.retention) == (3, 2, 7200)
    assert (settings.inline_limit, settings.lease) == (16384, 8)
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert Settings.from_env(environ, max_jobs=5).max_jobs == 5


def test_the_process_environment_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_MAX_JOBS", "7")
    assert Settings.from_env().max_jobs == 7


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("PUSHSVC_DATABASE", "PUSHSVC_DATABASE_URL"),
        ("PUSHSVC_REDIS_URI", "PUSHSVC_REDIS_URL"),
        ("PUSHSVC_MAXJOBS", "PUSHSVC_MAX_JOBS"),
        ("PUSHSVC_max_job", "PUSHSVC_MAX_JOBS"),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_the_right_one(name: str, near: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not a setting.*{near}"):
        Settings.from_env({name: "hunter2"})


def test_a_name_like_none_lists_what_there_is_and_keeps_the_value_to_itself() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"PUSHSVC_XYZZY": "hunter2"})
    assert "PUSHSVC_DATABASE_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_JOBS", "0"),
        ("MAX_JOBS", "many7331"),
        ("STORE_CONNECTIONS", "1"),
        ("BACKEND", "celery7331"),
        ("LEASE", "0"),
        ("LEASE", "-1s"),
        ("LEASE", "7331 weeks"),
        ("INLINE_LIMIT", "0"),
        ("INLINE_LIMIT", "7331 furlongs"),
        ("BODY_LIMIT", "1.5m"),
    ],
)
def test_a_value_that_does_not_parse_is_named_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"PUSHSVC_{name}: ") as caught:
        Settings.from_env({f"PUSHSVC_{name}": value})
    assert "7331" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"PUSHSVC_MAX_JOBS": "x", "PUSHSVC_LEASE": "y"})
    assert "PUSHSVC_MAX_JOBS" in str(caught.value)
    assert "PUSHSVC_LEASE" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("500ms", 0.5), ("1.5s", 1.5), (" 2 m ", 120), ("24h", 86400), ("7d", 604800), (5, 5), (0.5, 0.5)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1 h 30", "-5", "1e3", "5 S", "five", "٣s x", "1,5s", "nan", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("100", 100), ("64KiB", 65536), ("64 kib", 65536), ("1k", 1024), ("1kB", 1000), ("2MiB", 2 << 20), (7, 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "1.5k", "-1", "1 2", "1 gigabyte"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


OF_KUBERNETES = {
    "PUSHSVC_SERVICE_HOST": "10.96.0.12",
    "PUSHSVC_SERVICE_PORT": "8000",
    "PUSHSVC_SERVICE_PORT_HTTP": "8000",
    "PUSHSVC_PORT": "tcp://10.96.0.12:8000",
    "PUSHSVC_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "PUSHSVC_PORT_8000_TCP_PROTO": "tcp",
    "PUSHSVC_PORT_8000_TCP_PORT": "8000",
    "PUSHSVC_PORT_8000_TCP_ADDR": "10.96.0.12",
}


@pytest.mark.parametrize("service", ["PUSHSVC", "PUSHSVC_WEB", "PUSHSVC_2_BLUE"])
def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_setting(service: str) -> None:
    links = {name.replace("PUSHSVC", service, 1): value for name, value in OF_KUBERNETES.items()}
    assert Settings.from_env(links | {"PUSHSVC_MAX_JOBS": "3"}) == Settings.from_env({"PUSHSVC_MAX_JOBS": "3"})


def test_a_port_that_somebody_sets_is_refused() -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_PORT is not a setting"):
        Settings.from_env({"PUSHSVC_PORT": "8000"})


def test_no_setting_can_be_taken_for_one_of_kubernetes() -> None:
    for field in Settings.model_fields:
        with pytest.raises(SettingsError, match=f"PUSHSVC_{field.upper()}X"):
            Settings.from_env({f"PUSHSVC_{field.upper()}X": "tcp://1:1"})
        assert not _of_kubernetes(f"PUSHSVC_{field.upper()}", "tcp://1:1")


SECRETS: dict[str, Any] = {
    "database_url": "postgresql://me:hunter2@db.example/app",
    "redis_url": "redis://:hunter2@redis.example:6379/0",
    "bus_url": "rediss://me:hunter2@bus.example",
    "secret": "hunter2hunter2hunter2hunter2",
}


def test_no_way_to_print_settings_shows_a_secret() -> None:
    settings = Settings.from_env({f"PUSHSVC_{name.upper()}": value for name, value in SECRETS.items()})
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in shown
    masked = settings.masked()
    assert "hunter2" not in str(masked)
    assert masked["PUSHSVC_DATABASE_URL"] == "postgresql://me:***@db.example/app"
    assert masked["PUSHSVC_REDIS_URL"] == "redis://:***@redis.example:6379/0"
    assert masked["PUSHSVC_SECRET"] == "***"
    assert masked["PUSHSVC_MAX_JOBS"] == "10"
    assert set(masked) == {f"PUSHSVC_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hunter2@[::1]:5432/db",
        "postgresql://me:p@ss-hunter2@host/db",
        "postgresql://me:a/hunter2@host/db",
        "postgresql://me:a#hunter2@host/db",
        "postgresql://me:a?hunter2@host/db",
        "postgresql://me:[hunter2@host/db",
        "postgresql://host/db?user=me&password=hunter2",
        "postgresql://host/db?sslpassword=hunter2&sslmode=require",
        "redis://host?password=hunter2",
        "unix:///run/redis.sock?password=hunter2",
        "unix://:hunter2@/run/redis.sock",
        "redis://host:6379?password=p@hunter2",
        "redis+sentinel://me:hunter2@host1:26379,host2:26379/mymaster/0",
        "rediss+sentinel://host1:26379,host2:26379/mymaster?sentinel_password=hunter2&socket_timeout=1",
        "redis+sentinel://me:hunter2@host1,host2/mymaster?sentinel_password=p@hunter2",
        "redis+cluster://:hunter2@host1:6379,host2:6379",
    ],
)
def test_a_password_is_masked_wherever_it_stands_in_a_url(url: str) -> None:
    assert "hunter2" not in mask_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@host/db",
        "redis://host:6379/1",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://me@host1:26379,host2:26379/mymaster/0",
        "redis+cluster://host1:6379,host2:6379",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert mask_url(url) == url


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings.from_env({}).max_jobs = 3  # type: ignore[misc]


def test_what_a_command_needs_and_lacks_is_named_with_the_way_out() -> None:
    settings = Settings.from_env({})
    with pytest.raises(SettingsError, match=r"PUSHSVC_DATABASE_URL is not set.*pushsvc dev"):
        settings.need("database_url")
    assert Settings.from_env({}, secret="x" * 32).need("secret") == "x" * 32


def test_the_bus_is_the_queues_redis_unless_it_has_its_own() -> None:
    assert Settings.from_env({}, redis_url="redis://a").bus == "redis://a"
    assert Settings.from_env({}, redis_url="redis://a", bus_url="redis://b").bus == "redis://b"
    with pytest.raises(SettingsError, match="PUSHSVC_REDIS_URL"):
        _ = Settings.from_env({}).bus


def test_what_is_no_text_is_refused_by_its_name_and_not_shown() -> None:
    """As Python gives bytes of the environment that are not UTF-8. Line breaks, as at the end of a file, are text."""
    with pytest.raises(SettingsError, match="PUSHSVC_SECRET: bytes that are not UTF-8") as caught:
        Settings.from_env({"PUSHSVC_SECRET": "hunter2\udcff"})
    assert "hunter2" not in str(caught.value)
    assert Settings.from_env({"PUSHSVC_ALLOWED_ORIGINS": "https://a.example,\n  https://b.example\n"}).allowed_origins


@pytest.mark.parametrize(
    "wrong", [{"retention": float("inf")}, {"lease": float("nan")}, {"lease": 1e300}, {"max_jobs": 2**31}]
)
def test_what_no_calendar_and_no_column_holds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_"):
        Settings.from_env({}, **wrong)
