"""The SQL by which jobs are stored, and found again by their keys and by what they ask for.

The first parameter of each is the deployment, as in `statements`.
"""

from __future__ import annotations

from .statements import JOB, MOST_ATTEMPTS, J, inbox_of

KEYS_LIVE = 7 * 86400
"""Seconds for which a key stands for its job at least, and as long as that is there."""


def _lock_of_key(row: str) -> str:
    """By which a key is locked while it is not decided yet what it stands for: until a transaction ends, which may be
    an author's own."""
    parts = f"$1, {row}.tenant, coalesce({row}.owner, ''), {row}.key"
    return f"hashtextextended(array_to_string(ARRAY[{parts}], E'\\x1f'), 0)"


def _insert(*, plain: bool) -> str:
    """`plain`: none of them has a key, and none may be shared."""
    keyed = f"""free AS MATERIALIZED (
    SELECT g.id FROM given g WHERE g.key IS NULL OR pg_try_advisory_xact_lock({_lock_of_key("g")})
), keyed AS (
    INSERT INTO pushsvc.keys (deployment, tenant, owner, key, job, digest, expires_at)
    SELECT $1, g.tenant, coalesce(g.owner, ''), g.key, g.id, g.digest, now() + interval '{KEYS_LIVE} s'
    FROM given g JOIN free ON free.id = g.id WHERE g.key IS NOT NULL ORDER BY g.tenant, g.owner, g.key
    ON CONFLICT DO NOTHING
    RETURNING job
), """
    marked = """, marked AS (
    INSERT INTO pushsvc.audiences (job, mark)
    SELECT j.id, g.mark FROM given g JOIN j ON j.id = g.id WHERE g.mark IS NOT NULL
)"""
    return f"""
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::float[],
        $9::float[], $10::int[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bool[],
        $16::timestamptz[], $17::timestamptz[], $18::text[], $19::text[], $20::text[])
        AS g (id, tenant, owner, name, params, priority, timeout, retention, max_attempts, channels, callback_url,
            key, digest, shared, run_at, deadline, mark, parent, queue)
), {"" if plain else keyed}j AS (
    INSERT INTO pushsvc.jobs (deployment, id, tenant, owner, name, params, priority, timeout, retention, max_attempts,
        channels, callback_url, digest, shared, status, version, run_at, deadline, parent, queue)
    SELECT $1, id, tenant, owner, name, params, priority, timeout, retention, least(max_attempts, {MOST_ATTEMPTS}),
        string_to_array(channels, E'\\n'), callback_url, digest, shared, 'queued', 1,
        coalesce(run_at, now()), deadline, parent, queue
    FROM given {"" if plain else "WHERE key IS NULL OR id IN (SELECT job FROM keyed)"}
    ON CONFLICT DO NOTHING
    RETURNING {JOB}
){"" if plain else marked}
SELECT {J}, c.epoch, c.top FROM j {inbox_of("j")}
"""


# A key that somebody's open transaction has is waited for by nobody here: the others of the batch would, too.
INSERT_JOBS = _insert(plain=False)

INSERT_PLAIN_JOBS = _insert(plain=True)

# Of a key whose job has been purged, the job's columns are NULL.
JOBS_OF_KEYS = f"""
SELECT {J}, k.digest, g.asked, c.epoch, c.top
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS g (asked, tenant, owner, key)
CROSS JOIN LATERAL (
    SELECT * FROM pushsvc.keys
    WHERE deployment = $1 AND tenant = g.tenant AND owner = g.owner AND key = g.key LIMIT 1
) k
LEFT JOIN LATERAL (SELECT * FROM pushsvc.jobs WHERE deployment || '' = $1 AND id = k.job LIMIT 1) j ON true
{inbox_of("g")}
"""

# The job's row is locked first, so that nobody joins what is just being cancelled, and every join is counted.
JOIN_JOBS = f"""
WITH found AS MATERIALIZED (
    SELECT j.id, g.asked, g.mark
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS g (asked, tenant, owner, digest, mark)
    CROSS JOIN LATERAL (
        SELECT id FROM pushsvc.jobs
        WHERE deployment = $1 AND tenant = g.tenant AND coalesce(owner, '') = g.owner AND digest = g.digest
            AND shared AND status IN ('queued', 'running') AND NOT cancel_requested LIMIT 1
    ) j
), locked AS (
    SELECT {J}, f.asked, f.mark FROM found f JOIN pushsvc.jobs j ON j.id = f.id
    WHERE j.status IN ('queued', 'running') AND NOT j.cancel_requested
    ORDER BY j.id FOR UPDATE OF j
), joined AS (
    INSERT INTO pushsvc.audiences (job, mark) SELECT id, mark FROM locked WHERE mark IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING job
), counted AS (
    UPDATE pushsvc.jobs j SET audience = j.audience + n.joined
    FROM (SELECT job, count(*) AS joined FROM joined GROUP BY job) n WHERE j.id = n.job
)
SELECT l.*, c.epoch, c.top FROM locked l
{inbox_of("l")}
"""
