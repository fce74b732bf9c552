"""The SQL by which workers start jobs, with limits and without.

The first parameter of each is the deployment, as in `statements`.
"""

from __future__ import annotations

from .statements import LAPSED_LEASE, MOST_ATTEMPTS, J

_STARTABLE = f"""deployment || '' = $1 AND id = ANY($2::text[]) AND (deadline IS NULL OR deadline > now())
        AND NOT cancel_requested
        AND (status = 'queued' AND run_at <= now() + interval '100 milliseconds'
            OR status = 'running' AND attempt - failures <= $5 AND {LAPSED_LEASE})"""

_STARTED = f"""
SET status = 'running', attempt = least(attempt + 1, {MOST_ATTEMPTS}), version = version + 1, worker = $3,
    changed_at = now(), started_at = coalesce(started_at, now()),
    lease_until = now() + make_interval(secs => $4::float)"""

CLAIM = f"{J}, j.params, j.timeout, j.failures, j.max_attempts, j.deadline, j.channels, j.parent"

# Those of $6 have limits, and are started by START_LIMITED.
START_JOBS = f"""
WITH due AS (
    SELECT id FROM pushsvc.jobs
    WHERE {_STARTABLE} AND NOT name = ANY($6::text[])
    ORDER BY id FOR UPDATE SKIP LOCKED
)
UPDATE pushsvc.jobs j {_STARTED}
FROM due WHERE j.id = due.id
RETURNING {CLAIM}
"""

# By which those who start jobs of one name wait for one another. A statement of its own: the next one is to see what
# others have started before.
LOCK_LIMITS = """
SELECT pg_advisory_xact_lock(hashtext('pushsvc.limit'), hashtext($1 || E'\\x1f' || name)) FROM (
    SELECT DISTINCT name FROM pushsvc.jobs
    WHERE deployment || '' = $1 AND id = ANY($2::text[]) AND name = ANY($3::text[]) ORDER BY name
) n
"""


def _running(names: str) -> str:
    return f"""
SELECT name, tenant, coalesce(owner, '') AS owner, count(*) AS running FROM pushsvc.jobs
WHERE deployment = $1 AND status = 'running' AND name = ANY({names}::text[]) GROUP BY 1, 2, 3
"""


# What runs is counted, each time: a counter could drift. A job whose worker was lost runs as long as nobody has taken
# it over, and then again. `asked` is each that could be started but for its limits, `fits` whether its owner's would.
START_LIMITED = f"""
WITH due AS (
    SELECT id, name, tenant, coalesce(owner, '') AS owner, status FROM pushsvc.jobs
    WHERE {_STARTABLE} AND name = ANY($6::text[])
    ORDER BY id FOR UPDATE SKIP LOCKED
), busy AS MATERIALIZED ({_running("$6")}
), asked AS (
    SELECT d.id, d.name, l.most, l.most_each IS NULL OR coalesce(b.running, 0)
        + row_number() OVER (PARTITION BY d.name, d.tenant, d.owner ORDER BY d.id) <= l.most_each AS fits
    FROM due d JOIN unnest($6::text[], $7::int[], $8::int[]) AS l (name, most, most_each) ON l.name = d.name
    LEFT JOIN busy b ON b.name = d.name AND b.tenant = d.tenant AND b.owner = d.owner
    WHERE d.status = 'queued'
), chosen AS (
    SELECT id FROM (
        SELECT id, fits AND (most IS NULL OR row_number() OVER (PARTITION BY name, fits ORDER BY id)
            + coalesce((SELECT sum(running) FROM busy b WHERE b.name = a.name), 0) <= most) AS starts
        FROM asked a
    ) a WHERE starts
    UNION ALL SELECT id FROM due WHERE status = 'running'
), started AS (
    UPDATE pushsvc.jobs j {_STARTED}
    FROM chosen c WHERE j.id = c.id
    RETURNING {CLAIM}
)
SELECT d.id AS asked, coalesce(a.fits, true) AS fits, s.* FROM due d
LEFT JOIN asked a ON a.id = d.id LEFT JOIN started s ON s.id = d.id
"""

RUNNING = _running("$2")
