"""The SQL of jobs that come by an author's own transaction, for whatever driver has it.

Within that transaction there is one parameter, JSON, since drivers do not agree about arrays. Its jobs stand in the
table of wake-ups until somebody has put them on the queue; NOTIFY, which makes transactions commit one after another,
is said nowhere else.
"""

from __future__ import annotations

from .statements import MOST_ATTEMPTS, WAITING
from .submission_statements import KEYS_LIVE

CHANNEL = "pushsvc_wakeups"
"""Of NOTIFY; what it says is the deployment's name."""

# No colon in it but that of the parameter, and no function that fails. In another database it stores nothing.
INSERT_WITHIN = f"""
WITH given AS MATERIALIZED (
    SELECT g.* FROM json_to_record(CAST(CAST(:given AS text) AS json)) AS g (
        deployment text, place text, id text, tenant text, owner text, name text, params text,
        priority int, timeout float, retention float, max_attempts int, channels text, callback_url text, key text,
        digest text, run_at timestamptz, deadline timestamptz, parent text, queue text)
    WHERE g.place = (SELECT format('%s %s', oid, datname) FROM pg_database WHERE datname = current_database())
), locked AS MATERIALIZED (
    SELECT g.*, CASE WHEN key IS NOT NULL THEN pg_advisory_xact_lock(hashtextextended(array_to_string(
        ARRAY[deployment, tenant, coalesce(owner, ''), key], E'\\x1f'), 0)) IS NULL END AS held FROM given g
), keyed AS (
    INSERT INTO pushsvc.keys (deployment, tenant, owner, key, job, digest, expires_at)
    SELECT deployment, tenant, coalesce(owner, ''), key, id, digest, now() + interval '{KEYS_LIVE} s'
    FROM locked WHERE key IS NOT NULL AND held IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING job
), stored AS (
    INSERT INTO pushsvc.jobs (deployment, id, tenant, owner, name, params, priority, timeout, retention, max_attempts,
        channels, callback_url, digest, status, version, run_at, deadline, parent, queue)
    SELECT deployment, id, tenant, owner, name, params, priority, timeout, retention,
        least(max_attempts, {MOST_ATTEMPTS}), string_to_array(channels, E'\\n'), callback_url, digest, 'queued', 1,
        coalesce(run_at, clock_timestamp()), deadline, parent, queue
    FROM locked WHERE key IS NULL OR id IN (SELECT job FROM keyed)
    ON CONFLICT DO NOTHING
    RETURNING id, deployment
), woken AS (
    INSERT INTO pushsvc.wakeups (job, deployment) SELECT id, deployment FROM stored RETURNING job
)
SELECT (SELECT count(*) FROM given) AS here, (SELECT count(*) FROM stored) AS stored,
    (SELECT count(pg_notify('{CHANNEL}', s.deployment)) FROM stored s JOIN woken w ON w.job = s.id) AS told
"""

KEY_WITHIN = """
SELECT k.job, k.digest, EXISTS (SELECT 1 FROM pushsvc.jobs j WHERE j.id = k.job) AS kept
FROM json_to_record(CAST(CAST(:given AS text) AS json)) AS g (deployment text, tenant text, owner text, key text)
JOIN pushsvc.keys k ON k.deployment = g.deployment AND k.tenant = g.tenant AND k.owner = coalesce(g.owner, '')
    AND k.key = g.key
"""

PLACE = "SELECT format('%s %s', oid, datname) AS place FROM pg_database WHERE datname = current_database()"

# Those that another worker takes just now are left to it.
TAKE_WAKEUPS = f"""
WITH taken AS (
    DELETE FROM pushsvc.wakeups w USING (
        SELECT job FROM pushsvc.wakeups WHERE deployment = $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ) t WHERE w.job = t.job
    RETURNING w.job
)
SELECT {WAITING} FROM taken t JOIN pushsvc.jobs j ON j.id = t.job
WHERE j.status = 'queued'
"""
