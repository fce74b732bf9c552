"""Fan-out: deliveries for a CPU second of the server, delay, memory and connects, beside other servers.

    python -m benchmarks.fanout [--quick] [--rounds 3] [--markdown] [--channels-python PATH]

PostgreSQL and Valkey are started; every event is stored first, as jobs' results are, and then published on
Redis, so that what is counted is the web process alone: a real `pushsvc serve`, on a core of its own. Each of its
subscribers is another user, said hello with a token, and is in its inbox and a group. The other servers are given
the same bytes: Nchan where nginx has it, a loop over Starlette's sockets, `websockets.broadcast`, and Django
channels where `--channels-python` names a Python that has them. In each round the servers take turns.

The load client is `wsload.c` beside this file, which `cc` builds; it checks that nothing is lost, repeated, out of
order or misrouted. It is for Linux.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import psutil

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.store import Postgres, migrate

from .messages import Library, lines
from .servers import (
    Channels,
    Engines,
    Nchan,
    Pushsvc,
    Server,
    StarletteLoop,
    Way,
    WebsocketsBroadcast,
    users,
    write_hellos,
)

Run = Mapping[str, Any]
"""What the load client prints."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: who hears what, and how it is published. `channels` of 1 is a group, more are inboxes."""

    title: str
    conns: int
    messages: int
    window: int = 1
    rate: float = 0.0
    channels: int = 1


FIGURES = (
    Figure("1000 subscribers, one at a time", 1000, 400),
    Figure("1000 subscribers, 16 in flight", 1000, 2400, window=16),
    Figure("5000 subscribers, one at a time", 5000, 80),
    Figure("5000 subscribers, 16 in flight", 5000, 480, window=16),
    Figure("1000 inboxes, 16 in flight", 1000, 60_000, window=16, channels=1000),
    Figure("1000 inboxes, 64 in flight", 1000, 60_000, window=64, channels=1000),
)
DELAY = Figure("1000 subscribers, 50 events a second", 1000, 250, rate=50)
IDLE = (5000, 10_000)


def quick(figure: Figure) -> Figure:
    """The same, small: to see that it works."""
    few = 200 if figure.conns < 5000 else 400
    return Figure(
        figure.title.replace(str(figure.conns), str(few)),
        few,
        max(20, figure.messages // 10),
        figure.window,
        figure.rate,
        min(figure.channels, few),
    )


class Bench:
    """Engines, the load client, and the events that are still to be published."""

    def __init__(
        self, engines: Engines, client: Path, cores: Sequence[int], library: Library, only: Sequence[str]
    ) -> None:
        self.engines = engines
        self._client = client
        self._cores = cores
        self._library = library
        self._only = tuple(name.lower() for name in only)

    @property
    def core(self) -> int | None:
        """The server's; everything else runs on the others."""
        return self._cores[-1] if len(self._cores) > 1 else None

    def servers(self, channels_python: str | None) -> list[Server]:
        found: list[Server] = [Pushsvc(self.engines, self.core)]
        if Nchan.installed():
            found.append(Nchan(self.engines, self.core))
        found += [StarletteLoop(self.engines, self.core), WebsocketsBroadcast(self.engines, self.core)]
        if channels_python:
            found.append(Channels(self.engines, self.core, channels_python))
        return [server for server in found if not self._only or server.name.lower().startswith(self._only)]

    async def publish(self, server: Server, way: Way, figure: Figure) -> Run:
        """Connect the figure's subscribers, store its events, publish them."""
        counted = max(10, int(figure.messages * server.effort))
        warm = max(2, counted // 10)
        feed = self.engines.directory / "feed"

        async def store() -> None:
            if figure.channels > 1:
                messages = await self._library.inboxes(counted + warm, users(figure.channels))
            else:
                messages = await self._library.group(counted + warm)
            with feed.open("wb") as file:
                file.writelines(lines(messages, way.prefix))

        return await self._load(
            way,
            store,
            *("--conns", figure.conns, "--channels", figure.channels, "--feed", feed, "--warm", warm),
            *("--window", figure.window, "--rate", figure.rate, "--idle", 1),
        )

    async def hold(self, way: Way, conns: int) -> Run:
        """Connect as many, and hold them."""
        return await self._load(way, None, "--conns", conns, "--channels", conns, "--idle", 2)

    async def _load(self, way: Way, before: Callable[[], Awaitable[None]] | None, *options: object) -> Run:
        """Run the load client; `before` is awaited when everybody is connected and nothing is published yet."""
        command = [str(self._client), "--port", str(way.port), "--path", way.path, "--pid", str(way.pid)]
        command += ["--pub", way.pub, "--pub-port", str(way.pub_port), *way.extra, *map(str, options)]
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if before is not None and await process.stdout.readline() == b"READY\n":
            await before()
        out, _ = await asyncio.wait_for(process.communicate(b"go\n"), 300)
        if process.returncode:
            raise SystemExit(f"the load client failed: {' '.join(command)}\n{out.decode()}")
        run: Run = json.loads(out)
        return run


Table = dict[str, dict[str, list[float]]]
"""Values of each server (the inner key) in each row."""


def empty() -> Table:
    return defaultdict(lambda: defaultdict(list))


async def deliveries(
    bench: Bench, servers: Sequence[Server], figures: Sequence[Figure], rounds: int
) -> tuple[Table, Table]:
    """Thousands of deliveries for a CPU second, and the delay at a fixed rate in milliseconds."""
    speed, delay = empty(), empty()
    with ExitStack() as stack:
        ways = {server: stack.enter_context(server.running()) for server in servers}
        for figure, _ in progress([(figure, n) for figure in figures for n in range(rounds)], "deliveries"):
            for server in in_turns(servers, figure.conns):
                run = await bench.publish(server, ways[server], figure)
                if figure.rate:
                    delay[f"{figure.title}, p50"][server.name].append(run["p50_ms"])
                    delay[f"{figure.title}, p99"][server.name].append(run["p99_ms"])
                else:
                    speed[figure.title][server.name].append(run["per_cpu_s"] / 1000)
    return speed, delay


async def holding(bench: Bench, servers: Sequence[Server], counts: Sequence[int], rounds: int) -> tuple[Table, Table]:
    """KiB for an idle connection, and CPU seconds of the connects, of a server just started."""
    memory, connects = empty(), empty()
    for conns, _ in progress([(conns, n) for conns in counts for n in range(rounds)], "idle connections"):
        for server in in_turns(servers, conns):
            with server.running() as way:
                await bench.hold(way, 50)  # what is made once for all is not counted
                run = await bench.hold(way, conns)
            memory[f"{conns} connections"][server.name].append(run["kib_per_conn"])
            connects[f"{conns} connections"][server.name].append(run["connect_cpu_s"])
    return memory, connects


def in_turns(servers: Sequence[Server], conns: int) -> list[Server]:
    """Those that can be given so many connections, in another order each time."""
    return random.sample(able := [server for server in servers if conns <= server.most], len(able))


def progress(todo: Sequence[tuple[Any, int]], label: str) -> Iterator[tuple[Any, int]]:
    with click.progressbar(todo, label=label, file=sys.stderr) as bar:
        yield from bar


# The engines and the client ---------------------------------------------------------------------------


@contextmanager
def engines() -> Iterator[Engines]:
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-bench-"))
    try:
        with (
            EmbeddedPostgres(directory / "postgres") as postgres,
            EmbeddedValkey(directory / "valkey", port=0) as valkey,
        ):
            port = urlsplit(valkey.url).port
            assert port is not None
            yield Engines(postgres.url, valkey.url, port, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def built(directory: Path) -> Path:
    """The load client, compiled."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("the load client is C: it needs a compiler (cc, as of Debian's build-essential), or CC=…")
    source, made = Path(__file__).parent / "wsload.c", directory / "wsload"
    subprocess.run([compiler, "-O2", "-o", str(made), str(source)], check=True)
    return made


def pin_to(cores: Sequence[int]) -> None:
    """Keep the last core free of ourselves, and of all that we start: it is the server's."""
    if len(cores) > 1:
        psutil.Process().cpu_affinity(list(cores[:-1]))


# What is printed --------------------------------------------------------------------------------------


def ratio(table: Table, row: str, ours: str, theirs: str) -> float:
    pairs = zip(table[row][ours], table[row][theirs], strict=True)
    return statistics.median(mine / other for mine, other in pairs if other)


def report(table: Table, servers: Sequence[Server], head: str, digits: int, markdown: bool) -> str:
    """Medians; after each of the others, in brackets, what ours is to it: the median of the rounds' ratios."""
    names = [server.name for server in servers]
    rows = [[head, *names]]
    for row, values in table.items():
        cells = []
        for name in names:
            if name not in values:
                cells.append("")
                continue
            shown = f"{statistics.median(values[name]):.{digits}f}"
            if name != names[0]:
                shown += f" ({ratio(table, row, names[0], name):.2f} ×)"
            cells.append(shown)
        rows.append([row, *cells])
    if markdown:
        rule = ["---"] * len(names) + ["---"]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [rows[0], rule, *rows[1:]]).replace(" --- ", "---")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


async def measure(
    small: bool, rounds: int, markdown: bool, channels_python: str | None, only: Sequence[str], cores: Sequence[int]
) -> None:
    with engines() as made:
        await migrate(made.database_url)
        counts = [200] if small else list(IDLE)
        figures = [quick(figure) for figure in (*FIGURES, DELAY)] if small else [*FIGURES, DELAY]
        write_hellos(made, max(*counts, *(figure.conns for figure in figures)))
        postgres = Postgres(made.database_url)
        try:
            bench = Bench(made, built(made.directory), cores, Library(postgres), only)
            servers = bench.servers(channels_python)
            speed, delay = await deliveries(bench, servers, figures, rounds)
            click.echo("\n" + report(speed, servers, "thousand deliveries for a CPU second", 0, markdown))
            click.echo("\n" + report(delay, servers, "delay in ms", 2, markdown))
            memory, connects = await holding(bench, servers, counts, rounds)
            click.echo("\n" + report(memory, servers, "KiB for an idle connection", 1, markdown))
            click.echo("\n" + report(connects, servers, "CPU seconds to connect", 2, markdown))
        finally:
            await postgres.close()


@click.command()
@click.option("--quick", "small", is_flag=True, help="Few connections and messages: to see that it works.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--markdown", is_flag=True, help="Tables as docs/performance.md has them.")
@click.option("--channels-python", help="A Python with channels, channels_redis and daphne, to be measured too.")
@click.option("--only", multiple=True, help="Servers whose name begins so.")
def main(small: bool, rounds: int, markdown: bool, channels_python: str | None, only: Sequence[str]) -> None:
    """Print the tables."""
    # So that nothing is left running when we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = sorted(os.sched_getaffinity(0))
    pin_to(cores)
    gc.collect()
    asyncio.run(measure(small, 1 if small else rounds, markdown, channels_python, only, cores))


if __name__ == "__main__":
    main()
