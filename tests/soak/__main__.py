"""A soak of some minutes under faults, with an auditor: `make soak`, or

    SOAK_SECONDS=240 SOAK_SEED=7 python -m tests.soak

The faults, the clients and the load are a function of the seed. Exit status 1 if anything was lost, came twice or
out of order, or if a job has not exactly one end; 2 if the auditor itself broke, so that what it found is not to be
relied on. Then the logs are kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from ..acceptance.harness import nothing_left
from .plan import Plan
from .run import soak

SECONDS = 240.0


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS") or SECONDS)
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1, 10_000))
    # What goes wrong is counted; the processes' own logs say the rest.
    logging.disable()
    again = f"make soak SOAK_SEED={seed} SOAK_SECONDS={seconds:g}"
    plan = Plan.of(seed, seconds)
    print(f"seed {seed}, {seconds:g} s: {plan}")
    # Short, since sockets lie in it, and PostgreSQL may run as another user.
    directory = Path(tempfile.mkdtemp(prefix="soak"))
    directory.chmod(0o711)
    with nothing_left(directory):
        try:
            outcome = asyncio.run(soak(plan, directory, lambda line: print(line, flush=True)))
        except Exception:
            traceback.print_exc()
            print(f"AUDITOR BROKE\nlogs are in {directory}\nto repeat it: {again}")
            return 2
    print("\n".join(outcome.lines()))
    if outcome.clean and outcome.whole:
        shutil.rmtree(directory, ignore_errors=True)
        print(f"the same again: {again}")
        return 0
    print(f"logs are in {directory}\nto repeat it: {again}")
    return 1 if outcome.whole else 2


if __name__ == "__main__":
    sys.exit(main())
