"""Every SQL statement that reads or changes the service's state, named, in one place.

Each change of a job's state is one guarded statement over a batch (arrays in, rows out). The guard is the
row's `version`, which every change raises: it fences an attempt whose lease was lost, since whoever took
the job over has raised it. A terminal change writes the result, the new version, the channels' offsets and
the inbox events together. Locks are taken in one order, jobs before channels and each in key order.
"""

JOB = """id, tenant, owner, name, status, version, attempt, created_at, changed_at, run_at, started_at,
    finished_at, expires_at, error, inline, result_bytes, result_sha256"""
_J = ", ".join(f"j.{column.strip()}" for column in JOB.split(","))

# Submission ---------------------------------------------------------------------------------------

INSERT_JOBS = f"""
WITH j AS (
INSERT INTO pushsvc.jobs (id, tenant, owner, name, params, priority, timeout, retention, max_attempts,
    channels, callback_url, key, digest, shared, status, version, run_at, deadline)
SELECT id, tenant, owner, name, params, priority, timeout, retention, max_attempts,
    string_to_array(channels, E'\\n'), callback_url, key, digest, shared, 'queued', 1,
    coalesce(run_at, now()), deadline
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::float[], $8::float[],
    $9::int[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bool[], $15::timestamptz[],
    $16::timestamptz[])
    AS g (id, tenant, owner, name, params, priority, timeout, retention, max_attempts, channels, callback_url,
        key, digest, shared, run_at, deadline)
ON CONFLICT DO NOTHING
RETURNING {JOB}
)
SELECT {_J}, c.epoch, c.top FROM j LEFT JOIN pushsvc.channels c ON c.tenant = j.tenant AND c.name = 'user:' || j.owner
"""

JOBS_ALREADY = f"""
SELECT {_J}, j.digest, g.asked, c.epoch, c.top
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS g (asked, tenant, owner, key, digest)
LEFT JOIN pushsvc.channels c ON c.tenant = g.tenant AND c.name = 'user:' || g.owner
JOIN pushsvc.jobs j ON j.tenant = g.tenant AND coalesce(j.owner, '') = g.owner
    AND CASE WHEN g.key IS NULL THEN j.shared AND j.digest = g.digest AND j.status IN ('queued', 'running')
        ELSE j.key = g.key END
"""

QUEUED_COUNT = "SELECT count(*) FROM (SELECT 1 FROM pushsvc.jobs WHERE status = 'queued' LIMIT $1) q"

# Reading ------------------------------------------------------------------------------------------

JOB_BY_ID = f"SELECT {JOB} FROM pushsvc.jobs WHERE tenant = $1 AND id = $2"

JOB_WITH_RESULT = f"SELECT {JOB}, result FROM pushsvc.jobs WHERE tenant = $1 AND id = $2"

JOBS_OF_OWNER = f"""
SELECT {JOB} FROM pushsvc.jobs
WHERE tenant = $1 AND owner = $2 AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR name = $4)
    AND ($5::text IS NULL OR id < $5)
ORDER BY id DESC LIMIT $6
"""

QUEUE_POSITION = """
SELECT count(*) FROM (
    SELECT 1 FROM pushsvc.jobs WHERE status = 'queued' AND (run_at, id) < ($1, $2) AND run_at <= now() LIMIT $3
) ahead
"""

# The worker's changes -----------------------------------------------------------------------------

START_JOBS = f"""
WITH due AS (
    SELECT id FROM pushsvc.jobs
    WHERE id = ANY($1::text[]) AND (deadline IS NULL OR deadline > now())
        AND (status = 'queued' AND run_at <= now() + interval '100 milliseconds'
            OR status = 'running' AND lease_until < now() AND attempt - failures <= $4)
    ORDER BY id FOR UPDATE SKIP LOCKED
)
UPDATE pushsvc.jobs j
SET status = 'running', attempt = attempt + 1, version = version + 1, worker = $2, changed_at = now(),
    started_at = coalesce(started_at, now()), lease_until = now() + make_interval(secs => $3::float)
FROM due WHERE j.id = due.id
RETURNING {_J}, j.params, j.timeout, j.failures, j.max_attempts, j.deadline, j.channels
"""

UNSTARTED = """
SELECT id, status, greatest(extract(epoch FROM
    CASE WHEN status = 'running' THEN lease_until ELSE run_at END - now()), 0)::float AS due_in
FROM pushsvc.jobs WHERE id = ANY($1::text[])
"""

RENEW_LEASES = """
UPDATE pushsvc.jobs j SET lease_until = now() + make_interval(secs => $3::float)
FROM unnest($1::text[], $2::int[]) AS g (id, version)
WHERE j.id = g.id AND j.version = g.version AND j.status = 'running'
RETURNING j.id, j.cancel_requested
"""

REQUEUE_JOBS = f"""
UPDATE pushsvc.jobs j
SET status = 'queued', version = j.version + 1, changed_at = now(), lease_until = NULL, worker = NULL,
    run_at = now() + make_interval(secs => g.delay), error = g.error,
    attempt = j.attempt - CASE WHEN g.why = 'handed back' THEN 1 ELSE 0 END,
    failures = j.failures + CASE WHEN g.why = 'failed' THEN 1 ELSE 0 END
FROM unnest($1::text[], $2::int[], $3::float[], $4::text[], $5::text[]) AS g (id, version, delay, why, error)
WHERE j.id = g.id AND j.version = g.version AND j.status = 'running'
RETURNING {_J}
"""

FINISH_JOBS = f"""
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::text[])
        AS g (id, version, status, result, error, inline, sha256)
), locked AS (
    SELECT j.id FROM pushsvc.jobs j JOIN given g ON j.id = g.id AND j.version = g.version
    WHERE j.status IN ('queued', 'running') ORDER BY j.id FOR UPDATE OF j
), done AS (
    UPDATE pushsvc.jobs j
    SET status = g.status, version = j.version + 1, changed_at = now(), finished_at = now(),
        expires_at = now() + make_interval(secs => j.retention), lease_until = NULL, worker = NULL,
        result = g.result, result_bytes = octet_length(g.result), inline = g.inline,
        result_sha256 = g.sha256, error = g.error
    FROM given g, locked l WHERE j.id = l.id AND j.id = g.id AND j.version = g.version
    RETURNING j.*
), targets AS (
    SELECT DISTINCT d.id AS job, d.tenant, t.name
    FROM done d,
        unnest(CASE WHEN d.owner IS NULL THEN d.channels ELSE ('user:' || d.owner) || d.channels END) t (name)
), counted AS (
    INSERT INTO pushsvc.channels AS c (tenant, name, top)
    SELECT tenant, name, count(*) FROM targets GROUP BY tenant, name ORDER BY tenant, name
    ON CONFLICT (tenant, name) DO UPDATE SET top = c.top + EXCLUDED.top
    RETURNING c.id, c.tenant, c.name, c.epoch, c.top
), logged AS (
    INSERT INTO pushsvc.events (channel, "offset", job)
    SELECT c.id, c.top - count(*) OVER same + row_number() OVER (same ORDER BY t.job), t.job
    FROM targets t JOIN counted c USING (tenant, name) WINDOW same AS (PARTITION BY c.id)
    RETURNING channel, "offset", job
)
SELECT {", ".join(f"d.{column.strip()}" for column in JOB.split(","))},
    c.name AS channel, c.epoch, l."offset"
FROM done d LEFT JOIN logged l ON l.job = d.id LEFT JOIN counted c ON c.id = l.channel
"""

PLACES_OF_JOBS = f"""
SELECT {_J}, c.name AS channel, c.epoch, e."offset" FROM pushsvc.jobs j
LEFT JOIN pushsvc.events e ON e.job = j.id LEFT JOIN pushsvc.channels c ON c.id = e.channel
WHERE j.id = ANY($1::text[])
"""

REQUEST_CANCEL = """
UPDATE pushsvc.jobs SET cancel_requested = true
WHERE tenant = $1 AND id = $2 AND status = 'running' AND version = $3
RETURNING worker
"""

# Sweeping -----------------------------------------------------------------------------------------

SWEEP_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('pushsvc.sweep'))"

QUEUED_PAGE = """
SELECT id, name, extract(epoch FROM run_at)::float AS due, run_at FROM pushsvc.jobs
WHERE status = 'queued' AND run_at < now() + interval '1 hour' AND (run_at, id) > ($1, $2)
ORDER BY run_at, id LIMIT $3
"""

LAPSED = """
SELECT id, name, version, attempt - failures AS losses FROM pushsvc.jobs
WHERE status = 'running' AND lease_until < now() ORDER BY lease_until LIMIT $1
"""

OVERDUE = """
SELECT id, version FROM pushsvc.jobs
WHERE deadline < now() AND (status = 'queued' OR status = 'running' AND lease_until < now())
ORDER BY deadline LIMIT $1
"""

PURGE = """
WITH old AS (
    SELECT id FROM pushsvc.jobs WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
), unlogged AS (
    DELETE FROM pushsvc.events e USING old WHERE e.job = old.id RETURNING e.channel, e."offset"
), raised AS (
    SELECT c.id, max(u."offset") AS floor FROM unlogged u JOIN pushsvc.channels c ON c.id = u.channel
    GROUP BY c.id ORDER BY c.id
), floors AS (
    UPDATE pushsvc.channels c SET floor = greatest(c.floor, r.floor) FROM raised r WHERE c.id = r.id
), gone AS (
    DELETE FROM pushsvc.jobs j USING old WHERE j.id = old.id RETURNING j.id
)
SELECT count(*) FROM gone
"""

# Channels -----------------------------------------------------------------------------------------

OPEN_CHANNELS = """
INSERT INTO pushsvc.channels (tenant, name)
SELECT tenant, name FROM unnest($1::text[], $2::text[]) AS g (tenant, name)
WHERE NOT EXISTS (SELECT 1 FROM pushsvc.channels c WHERE c.tenant = g.tenant AND c.name = g.name)
ORDER BY tenant, name
ON CONFLICT DO NOTHING
"""

CHANNEL_STATES = """
SELECT c.id, c.tenant, c.name, c.epoch, c.floor, c.top FROM unnest($1::text[], $2::text[]) AS g (tenant, name)
JOIN pushsvc.channels c ON c.tenant = g.tenant AND c.name = g.name
"""

JOB_VERSIONS = """
SELECT tenant, 'job:' || id AS name, version FROM pushsvc.jobs
WHERE id = ANY($2::text[]) AND tenant = ANY($1::text[])
"""

EVENTS_AFTER = f"""
SELECT e."offset", e.body, {_J}, CASE WHEN j.inline THEN j.result END AS result
FROM pushsvc.events e LEFT JOIN pushsvc.jobs j ON j.id = e.job
WHERE e.channel = $1 AND e."offset" > $2 ORDER BY e."offset" LIMIT $3
"""
