"""The command line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import uvicorn

from . import __version__, listening
from .access import SCOPES, Tokens, known_scope
from .dev import engines, runner
from .dev.leases import LeaseKeeper
from .dev.processes import EX_CONFIG, Command, Supervisor
from .dev.working import new_event_loop, work
from .domain import check_subject, check_tenant
from .errors import BudgetError, PushsvcError, RequestError, SettingsError, Unavailable
from .hosting import outermost
from .jobs import Holds
from .loading import load
from .ops import diagnose, report
from .service import Service
from .serving import Server, configure
from .settings import PREFIX, Settings, parse_duration
from .store import EventStore, Postgres
from .store import migrate as migrate_store
from .webhooks import SigningSecrets

DATA_DIR = Path(".pushsvc")
_port = click.IntRange(0, 65535)
_target = click.argument("target", metavar="MODULE:SERVICE")
_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=DATA_DIR, help="Where engines keep their data."
)


def main() -> None:
    """Run, and say what is wrong in one line where it is a setting."""
    try:
        commands(standalone_mode=False)
    except (SettingsError, BudgetError, RequestError) as error:
        sys.exit(_complain(error, EX_CONFIG))
    except PushsvcError as error:
        sys.exit(_complain(error, 1))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default info.")
def commands(log_level: str | None) -> None:
    """Slow endpoints and reports, answered at once and pushed when they are done."""
    if log_level is not None:
        # By the environment, so that the processes started from here heed it too.
        os.environ["PUSHSVC_LOG_LEVEL"] = log_level
    level = Settings.from_env().log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # uvicorn says every connection and every URL; the others, what nobody has asked for.
    for talkative in ("uvicorn.error", "alembic.runtime.plugins", "watchfiles.main"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


@commands.command()
@_target
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=_port, help="Default 8000, or the next free one.")
@click.option("--reload", is_flag=True, help="Start web and worker anew when the code changes; the engines stay.")
@_data_dir
def dev(target: str, host: str, port: int | None, reload: bool, data_dir: Path) -> None:
    """All in one: engines where no URL is set, web and worker."""
    sys.exit(_dev(target, host, port, data_dir, reload=reload))


@commands.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=_port, help="Default 8000, or the next free one.")
@_data_dir
def demo(host: str, port: int | None, data_dir: Path) -> None:
    """The flights demo under `dev`: a year of flights, a page, live queries."""
    from .demo import data

    sys.exit(
        _dev(
            "pushsvc.demo.app:service",
            host,
            port,
            data_dir,
            lambda settings: data.load(settings.need("database_url")),
        )
    )


@commands.command()
@_target
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=_port, default=8000, show_default=True, help="0 is any that is free.")
@click.option("--uds", type=click.Path(path_type=Path), help="A UNIX socket to listen on instead.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Web processes.")
@click.option("--root-path", help="The prefix that a proxy in front strips. Default PUSHSVC_ROOT_PATH.")
@click.option(
    "--forwarded-allow-ips", help="Proxies whose X-Forwarded-… are believed. Default 127.0.0.1; * for --uds."
)
@click.option("--access-log", is_flag=True, help="Log each request.")
@click.option("--fd", type=int, hidden=True, help="A listening socket to use instead.")
@_data_dir
def serve(
    target: str,
    host: str,
    port: int,
    uds: Path | None,
    workers: int,
    root_path: str | None,
    forwarded_allow_ips: str | None,
    access_log: bool,
    fd: int | None,
    data_dir: Path,
) -> None:
    """The web process: HTTP and WebSocket. Serves the app that the service is attached to, where there is one."""
    _use_dev_engines(data_dir)
    if root_path is not None:
        # By the environment: the processes started from here heed it too, and so does what is encoded once for all.
        os.environ["PUSHSVC_ROOT_PATH"] = root_path
    if forwarded_allow_ips is None and uds is not None:
        forwarded_allow_ips = "*"
    _count_processes("web_processes", workers)
    service, module = load(target)
    if fd is not None:
        # Not uvicorn's own `fd`: that takes every socket for a UNIX one, and so leaves Nagle's algorithm on.
        listener = socket.socket(fileno=fd)
    else:
        listener = listening.listen(host, port) if uds is None else listening.listen_unix(uds)
    try:
        if workers > 1:
            options = ["--access-log"] if access_log else []
            options += [] if forwarded_allow_ips is None else ["--forwarded-allow-ips", forwarded_allow_ips]
            sys.exit(_serve_by_many(service, target, listener, workers, options))
        _run(service.check())
        app = outermost(service.app, module)
        config = configure(app, service.settings, access_log=access_log, forwarded_allow_ips=forwarded_allow_ips)
        # Who gave us the socket says where it is.
        sys.exit(
            _serve(service, config, listener, (lambda: None) if fd is not None else partial(_listening, listener))
        )
    finally:
        if uds is not None and fd is None:
            uds.unlink(missing_ok=True)


@commands.command()
@_target
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--queues", metavar="NAMES", help="The queues that it serves, by commas; by default all of the app's jobs."
)
@click.option("--alone", is_flag=True, hidden=True, help="In this very process, which somebody else starts again.")
@click.option("--holds", type=int, hidden=True, help="The parent's file for the leases; it keeps them.")
@_data_dir
def worker(target: str, processes: int, queues: str | None, alone: bool, holds: int | None, data_dir: Path) -> None:
    """The worker: runs the jobs."""
    _use_dev_engines(data_dir)
    if queues is not None:
        os.environ[f"{PREFIX}QUEUES"] = queues
    _count_processes("worker_processes", processes)
    service, _ = load(target)
    service.need_workers()
    if service.idle and holds is None:
        logging.getLogger("pushsvc").warning("%s has no jobs; mark a function with @service.job", target)
    if alone or holds is not None:
        work(service, None if holds is None else Holds.opened(holds))
        return
    _check_before_children(service, web=False)
    argv = [sys.executable, "-m", "pushsvc", "worker", target]
    children = [
        # Who kills the parent outright means its workers too.
        Command(name, argv, companion=partial(LeaseKeeper, service), death_signal=signal.SIGKILL)
        for name in (f"worker {number}" for number in range(1, processes + 1))
    ]
    sys.exit(Supervisor(children, grace=service.settings.drain + 15).run())


@commands.command("load", hidden=True)
@_target
def load_target(target: str) -> None:
    """Import the service, and say what is wrong with it: what `dev` does before it starts anything."""
    service, _ = load(target)
    if not len(service.jobs):
        click.echo(f"{target} has no jobs; mark a function with @service.job", err=True)


@commands.command()
@click.option("--restored", is_flag=True, help="The database was just restored: clients' cursors are of a future.")
@_data_dir
def migrate(restored: bool, data_dir: Path) -> None:
    """Bring the store's tables to this version."""
    _use_dev_engines(data_dir)
    settings = Settings.from_env()
    before, after = _run(migrate_store(settings.need("database_url"), settings.deployment, settings.pooler))
    click.echo(f"the store's schema is at {after}" + ("" if before == after else f" (it was at {before})"))
    if restored:
        click.echo(f"{_run(_renew_epochs(settings))} channels begin a new history: their readers are told")


@commands.command()
@_target
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Slow queries of each database.")
@click.option("--json", "machine", is_flag=True, help="For machines.")
@_data_dir
@click.pass_context
def doctor(context: click.Context, target: str, top: int, machine: bool, data_dir: Path) -> None:
    """Look at settings, engines, connections, a job end to end, slow queries. Exit status 1 if something is wrong."""
    if context.find_root().params["log_level"] is None:
        # It reports by itself what the log would warn of.
        logging.getLogger("pushsvc").setLevel(logging.CRITICAL)
    _use_dev_engines(data_dir)
    found = _run(load(target)[0].examine())
    diagnosis = diagnose(found, top)
    if machine:
        click.echo(json.dumps(report.as_json(found, diagnosis), indent=2, ensure_ascii=False))
    else:
        _show(report.lines(found, diagnosis, shutil.get_terminal_size((120, 24)).columns))
    sys.exit(0 if diagnosis.well else 1)


@commands.command()
@click.option("--sub", required=True, help="Who the token is for.")
@click.option("--tenant", default="default", show_default=True)
@click.option("--channel", "channels", multiple=True, help="A channel it may hear, as group:ops.")
@click.option("--scope", default="submit,read", show_default=True, help=f"Of {', '.join(SCOPES)}.")
@click.option("--ttl", default="1h", show_default=True, help="How long it is valid.")
@_data_dir
def token(sub: str, tenant: str, channels: tuple[str, ...], scope: str, ttl: str, data_dir: Path) -> None:
    """Print a bearer token, signed with PUSHSVC_SECRET or that of a running `pushsvc dev`."""
    _use_dev_engines(data_dir)
    try:
        seconds = parse_duration(ttl)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ttl") from None
    assert isinstance(seconds, float)
    tokens = Tokens(Settings.from_env().need("secret"))
    scopes = [known_scope(part) for part in scope.replace(",", " ").split()]
    click.echo(tokens.mint(sub, tenant=tenant, channels=channels, scope=scopes, ttl=seconds))


@commands.command()
@click.option("--sub", required=True, help="Whose tokens.")
@click.option("--tenant", default="default", show_default=True)
@_data_dir
def revoke(sub: str, tenant: str, data_dir: Path) -> None:
    """Make all tokens of a subject void that were issued until now, and end its connections on every node."""
    _use_dev_engines(data_dir)
    _run(_revoke(Service(), sub, tenant))
    click.echo(f"the tokens of {sub} are void; those issued from now on are good")


@commands.command()
@click.option("--sub", default="", help="Who submits the jobs.")
@click.option("--tenant", default="default", show_default=True)
@_data_dir
def webhook_secret(sub: str, tenant: str, data_dir: Path) -> None:
    """Print what verifies webhooks, one secret a line: those to URLs of --sub, or without it to the service's own."""
    _use_dev_engines(data_dir)
    settings = Settings.from_env()
    given = [secret.get_secret_value() for secret in settings.webhook_secrets]
    secrets = SigningSecrets(given, None if given else settings.need("secret"))
    for secret in secrets.shown(check_tenant(tenant) if sub else "", check_subject(sub) if sub else ""):
        click.echo(secret)


# How they run -------------------------------------------------------------------------------------


def _dev(
    target: str,
    host: str,
    port: int | None,
    data_dir: Path,
    prepare: Callable[[Settings], None] | None = None,
    *,
    reload: bool = False,
) -> int:
    return runner.run(
        target,
        host=host,
        port=8000 if port is None else port,
        explicit_port=port is not None,
        data_dir=data_dir,
        prepare=prepare,
        reload=reload,
    )


def _serve(service: Service, config: uvicorn.Config, listener: socket.socket, started_up: Callable[[], None]) -> int:
    service.drains_by_itself()
    server = Server(config, service.drain, started_up)
    server.run([listener])
    return 0 if server.started else 3


def _serve_by_many(
    service: Service, target: str, listener: socket.socket, workers: int, options: Iterable[str]
) -> int:
    _check_before_children(service, web=True)
    fd = listener.fileno()
    argv = [sys.executable, "-m", "pushsvc", "serve", target, "--fd", str(fd), *options]
    children = [Command(f"web {number}", argv, pass_fds=(fd,)) for number in range(1, workers + 1)]
    # From here on the kernel takes connections; they wait for the first process.
    _listening(listener)
    return Supervisor(children, grace=service.settings.drain + 5).run()


def _nothing() -> None: ...


def _listening(listener: socket.socket) -> None:
    click.echo(f"listening on {listening.shown(listener)}")
    sys.stdout.flush()


async def _renew_epochs(settings: Settings) -> int:
    url = settings.need("database_url")
    async with Postgres(url, deployment=settings.deployment, pooler=settings.pooler) as postgres:
        return await EventStore(postgres).renew_epochs()


async def _revoke(service: Service, sub: str, tenant: str) -> None:
    try:
        await service.revoke(sub, tenant=tenant)
    finally:
        await service.close()


def _count_processes(setting: Literal["web_processes", "worker_processes"], told: int) -> None:
    """What this command is told to start counts, if the setting says no more; for the processes from here, too."""
    counted: int = getattr(Settings.from_env(), setting)
    os.environ[PREFIX + setting.upper()] = str(max(counted, told))


def _check_before_children(service: Service, *, web: bool) -> None:
    """One refusal rather than one of each child. What may pass, such as PostgreSQL being away, is theirs to await."""
    with suppress(Unavailable):
        _run(service.check(web=web))


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where there is one."""
    with asyncio.Runner(loop_factory=new_event_loop) as loop:
        return loop.run(work)


def _show(lines: Iterable[str]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a mark can do without it
    for line in lines:
        click.echo(line)


def _use_dev_engines(data_dir: Path) -> None:
    """Beside a running `pushsvc dev`, its engines and secret are the defaults."""
    for name, value in engines.read_environment(data_dir).items():
        os.environ.setdefault(name, value)


def _complain(error: PushsvcError, code: int) -> int:
    click.echo(f"pushsvc: {error}", err=True)
    return code
