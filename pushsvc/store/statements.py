"""Every SQL statement that reads or changes the service's state, named, in one place.

Each change of a job's state is one guarded statement over a batch (arrays in, rows out). The guard is the
row's `version`, which every change raises: it fences an attempt whose lease was lost, since whoever took
the job over has raised it. A terminal change writes the result, the new version, the channels' offsets and
the inbox events together. Locks are taken in one order, jobs before channels and each in key order.
"""

JOB = """id, tenant, owner, name, status, version, attempt, created_at, changed_at, run_at, started_at,
    finished_at, expires_at, error, inline, result_bytes, result_sha256, callback_url"""
_J = ", ".join(f"j.{column.strip()}" for column in JOB.split(","))

# What is running may be taken from its worker: its lease has run out, and all the while leases could be written.
_LAPSED = """lease_until < now() AND NOT EXISTS (
            SELECT 1 FROM pushsvc.beats b WHERE b.deployment = jobs.deployment AND b.overdue_at < now())"""

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

JOBS_THAT_MAY_BE_SEEN = """
SELECT id FROM pushsvc.jobs WHERE tenant = $1 AND id = ANY($3::text[]) AND (owner IS NULL OR owner = $2)
"""

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
            OR status = 'running' AND attempt - failures <= $4 AND {_LAPSED})
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

# A row that somebody else has locked just now is held all the same: it waits for its next turn, and none of the
# others waits for it.
RENEW_LEASES = """
WITH held AS (
    SELECT j.id, j.cancel_requested FROM pushsvc.jobs j
    JOIN unnest($1::text[], $2::int[]) AS g (id, version) ON j.id = g.id AND j.version = g.version
    WHERE j.status = 'running'
), free AS (
    SELECT j.id FROM pushsvc.jobs j
    JOIN unnest($1::text[], $2::int[]) AS g (id, version) ON j.id = g.id AND j.version = g.version
    WHERE j.status = 'running' ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
), renewed AS (
    UPDATE pushsvc.jobs j SET lease_until = now() + make_interval(secs => $3::float)
    FROM free WHERE j.id = free.id
)
SELECT id, cancel_requested FROM held
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
    ON CONFLICT (deployment, tenant, name) DO UPDATE SET top = c.top + EXCLUDED.top
    RETURNING c.id, c.tenant, c.name, c.epoch, c.top
), logged AS (
    INSERT INTO pushsvc.events (channel, "offset", job)
    SELECT c.id, c.top - count(*) OVER same + row_number() OVER (same ORDER BY t.job), t.job
    FROM targets t JOIN counted c USING (tenant, name) WINDOW same AS (PARTITION BY c.id)
    RETURNING channel, "offset", job
), called AS (
    INSERT INTO pushsvc.webhooks (id, job, tenant, owner, url, own)
    SELECT 'evt_' || id || '_' || version, id, tenant, owner, url, callback_url <> 'default'
    FROM (SELECT *, CASE callback_url WHEN 'default' THEN $8 ELSE callback_url END AS url FROM done) d
    WHERE url IS NOT NULL
    RETURNING job
)
SELECT {", ".join(f"d.{column.strip()}" for column in JOB.split(","))},
    c.name AS channel, c.epoch, l."offset", k.job IS NOT NULL AS called
FROM done d LEFT JOIN logged l ON l.job = d.id LEFT JOIN counted c ON c.id = l.channel
LEFT JOIN called k ON k.job = d.id
"""

PLACES_OF_JOBS = f"""
SELECT {_J}, c.name AS channel, c.epoch, e."offset",
    EXISTS (SELECT 1 FROM pushsvc.webhooks w WHERE w.job = j.id) AS called
FROM pushsvc.jobs j LEFT JOIN pushsvc.events e ON e.job = j.id LEFT JOIN pushsvc.channels c ON c.id = e.channel
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

LAPSED = f"""
SELECT id, name, version, attempt - failures AS losses FROM pushsvc.jobs
WHERE status = 'running' AND {_LAPSED} ORDER BY lease_until LIMIT $1
"""

OVERDUE = f"""
SELECT id, version FROM pushsvc.jobs
WHERE deadline < now() AND (status = 'queued' OR status = 'running' AND {_LAPSED})
ORDER BY deadline LIMIT $1
"""

# Beats --------------------------------------------------------------------------------------------
# $2 is the lease, $3 when the next beat is overdue, $4 how far apart they are meant to be, in seconds. What leases
# lost in a spell without beats, they get back; after one longer than themselves, or the first for a while, they begin
# anew. So beats that are always late keep the jobs of a dead worker longer, and not for ever.

BEAT = """
WITH last AS MATERIALIZED (
    SELECT deployment, extract(epoch FROM now() - beat_at)::float AS silent, overdue_at < now() AS spell,
        now() - beat_at > make_interval(secs => $2::float)
            OR coalesce(grace_until + make_interval(secs => $2::float) < now(), true) AS anew
    FROM pushsvc.beats WHERE deployment = $1 FOR UPDATE
), beat AS (
    UPDATE pushsvc.beats b
    SET beat_at = greatest(b.beat_at, now()),
        overdue_at = greatest(b.overdue_at, now() + make_interval(secs => $3::float)),
        grace_until = CASE WHEN l.spell THEN now() + make_interval(secs => $2::float)
            ELSE b.grace_until END
    FROM last l WHERE b.deployment = l.deployment
    RETURNING CASE WHEN l.spell THEN l.silent ELSE 0 END AS silent
), held AS MATERIALIZED (
    SELECT j.id FROM last l JOIN pushsvc.jobs j ON l.spell AND j.deployment = l.deployment
    WHERE j.status = 'running' ORDER BY j.id FOR UPDATE OF j
), spared AS (
    UPDATE pushsvc.jobs j
    SET lease_until = CASE WHEN l.anew THEN greatest(j.lease_until, now() + make_interval(secs => $2::float))
        ELSE j.lease_until + make_interval(secs => greatest(0, l.silent - $4::float)) END
    FROM held h, last l WHERE j.id = h.id
    RETURNING 1
)
SELECT silent, (SELECT count(*) FROM spared) AS spared FROM beat
"""

FIRST_BEAT = """
INSERT INTO pushsvc.beats (deployment, beat_at, overdue_at)
VALUES ($1, now(), now() + make_interval(secs => $2::float)) ON CONFLICT DO NOTHING
"""

# Retention ----------------------------------------------------------------------------------------
# First the floors rise, in a statement that holds the channels' rows for a moment only; what lies at or below
# a floor is out of every reader's sight, and is deleted in batches that lock nothing a writer wants.

RAISE_FLOORS_OF_JOBS = """
WITH old AS (
    SELECT e.channel AS id, max(e."offset") AS floor FROM pushsvc.events e
    WHERE e.job = ANY($1::text[])
    GROUP BY e.channel
), locked AS (
    SELECT c.id FROM pushsvc.channels c JOIN old USING (id) ORDER BY c.tenant, c.name FOR UPDATE OF c
)
UPDATE pushsvc.channels c SET floor = old.floor FROM old, locked l
WHERE c.id = old.id AND c.id = l.id AND c.floor < old.floor
"""

EXPIRED_JOBS = """
SELECT id FROM pushsvc.jobs j WHERE expires_at < now()
    AND NOT EXISTS (SELECT 1 FROM pushsvc.webhooks w WHERE w.job = j.id AND w.status = 'pending')
ORDER BY expires_at LIMIT $1
"""

DELETE_EVENTS_OF_JOBS = """
DELETE FROM pushsvc.events WHERE job = ANY($1::text[])
"""

DELETE_JOBS = """
DELETE FROM pushsvc.jobs WHERE id = ANY($1::text[]) AND expires_at < now() RETURNING id
"""

RAISE_FLOORS_OF_PUBLISHED = """
WITH old AS (
    SELECT e.channel AS id, max(e."offset") AS floor FROM (
        SELECT channel, "offset" FROM pushsvc.events WHERE expires_at < now() ORDER BY expires_at LIMIT $1
    ) e
    GROUP BY e.channel
), locked AS (
    SELECT c.id FROM pushsvc.channels c JOIN old USING (id) ORDER BY c.tenant, c.name FOR UPDATE OF c
)
UPDATE pushsvc.channels c SET floor = old.floor FROM old, locked l
WHERE c.id = old.id AND c.id = l.id AND c.floor < old.floor
"""

RAISE_FLOORS_OF_LONG = """
WITH long AS (
    SELECT id FROM pushsvc.channels WHERE top - floor > $1 AND tenant <> '' LIMIT $2
), locked AS (
    SELECT c.id FROM pushsvc.channels c JOIN long USING (id) ORDER BY c.tenant, c.name FOR UPDATE OF c
)
UPDATE pushsvc.channels c SET floor = greatest(c.floor, c.top - $1) FROM locked l WHERE c.id = l.id
RETURNING c.id
"""

DELETE_BELOW_FLOORS = """
DELETE FROM pushsvc.events e USING (
    SELECT e.channel, e."offset" FROM pushsvc.channels c JOIN pushsvc.events e ON e.channel = c.id
    WHERE c.id = ANY($1::bigint[]) AND e."offset" <= c.floor LIMIT $2
) old WHERE e.channel = old.channel AND e."offset" = old."offset"
RETURNING 1
"""

DELETE_PUBLISHED = """
DELETE FROM pushsvc.events e USING (
    SELECT e.channel, e."offset" FROM pushsvc.events e JOIN pushsvc.channels c ON c.id = e.channel
    WHERE e.expires_at < now() AND e."offset" <= c.floor ORDER BY e.expires_at LIMIT $1
) old WHERE e.channel = old.channel AND e."offset" = old."offset"
RETURNING 1
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
SELECT tenant, 'job:' || id AS name, version, finished_at IS NOT NULL AS closed FROM pushsvc.jobs
WHERE id = ANY($2::text[]) AND tenant = ANY($1::text[])
"""

READ_LOG = f"""
SELECT c.epoch, c.floor, c.top, e.* FROM pushsvc.channels c LEFT JOIN LATERAL (
    SELECT e."offset", e.body, {_J}, CASE WHEN j.inline THEN j.result END AS result
    FROM pushsvc.events e LEFT JOIN pushsvc.jobs j ON j.id = e.job
    WHERE e.channel = c.id AND e."offset" > CASE
        WHEN $3 = 'start' OR $3 = c.epoch AND $4 < c.floor THEN c.floor
        WHEN $3 = c.epoch AND $4 <= c.top THEN $4
        ELSE c.top END
    ORDER BY e."offset" LIMIT $5
) e ON true
WHERE c.tenant = $1 AND c.name = $2
ORDER BY e."offset"
"""

PUBLISH_EVENTS = """
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float[]) WITH ORDINALITY
        AS g (id, tenant, name, body, retention, n)
), fresh AS (
    SELECT * FROM given g WHERE NOT EXISTS (SELECT 1 FROM pushsvc.events e WHERE e.id = g.id)
), counted AS (
    INSERT INTO pushsvc.channels AS c (tenant, name, top)
    SELECT tenant, name, count(*) FROM fresh GROUP BY tenant, name ORDER BY tenant, name
    ON CONFLICT (deployment, tenant, name) DO UPDATE SET top = c.top + EXCLUDED.top
    RETURNING c.id, c.tenant, c.name, c.epoch, c.top
), logged AS (
    INSERT INTO pushsvc.events (channel, "offset", id, body, expires_at)
    SELECT c.id, c.top - count(*) OVER same + row_number() OVER (same ORDER BY f.n), f.id, f.body,
        now() + make_interval(secs => f.retention)
    FROM fresh f JOIN counted c USING (tenant, name) WINDOW same AS (PARTITION BY c.id)
    RETURNING id, channel, "offset", body
)
SELECT l.id, c.epoch, l."offset", l.body FROM logged l JOIN counted c ON c.id = l.channel
UNION ALL
SELECT e.id, c.epoch, e."offset", e.body FROM given g JOIN pushsvc.events e ON e.id = g.id
    JOIN pushsvc.channels c ON c.id = e.channel
"""

RENEW_EPOCHS = """
UPDATE pushsvc.channels SET epoch = DEFAULT RETURNING id
"""

# Devices ------------------------------------------------------------------------------------------

ACK = """
WITH given AS (
    SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
        AS g (n, tenant, subject, device, channel, epoch, "offset")
), known AS (
    SELECT g.*, c.epoch AS right_epoch, c.top FROM given g
    JOIN pushsvc.channels c ON c.tenant = g.tenant AND c.name = g.channel
    UNION ALL
    SELECT g.*, '1', j.version FROM given g
    JOIN pushsvc.jobs j ON g.channel LIKE 'job:%' AND j.id = substr(g.channel, 5) AND j.tenant = g.tenant
        AND (j.owner IS NULL OR j.owner = g.subject)
), wrong AS (
    SELECT n FROM known WHERE epoch = right_epoch AND "offset" > top
), stored AS (
    INSERT INTO pushsvc.positions AS p (tenant, subject, device, channel, epoch, "offset")
    SELECT DISTINCT ON (tenant, subject, device, channel) tenant, subject, device, channel, epoch, "offset"
    FROM known k WHERE epoch = right_epoch AND NOT EXISTS (SELECT 1 FROM wrong w WHERE w.n = k.n)
    ORDER BY tenant, subject, device, channel, "offset" DESC
    ON CONFLICT (deployment, tenant, subject, device, channel) DO UPDATE
    SET epoch = EXCLUDED.epoch, "offset" = EXCLUDED."offset", acked_at = now()
    WHERE p.epoch <> EXCLUDED.epoch OR p."offset" < EXCLUDED."offset"
)
SELECT DISTINCT n FROM wrong
"""

ACKED = """
SELECT channel, epoch, "offset" FROM pushsvc.positions WHERE tenant = $1 AND subject = $2 AND device = $3
"""

DEVICES_OF = """
SELECT count(DISTINCT device) AS devices, coalesce(bool_or(device = $3), false) AS known
FROM pushsvc.positions WHERE tenant = $1 AND subject = $2
"""

FORGET_POSITIONS = """
DELETE FROM pushsvc.positions p USING (
    SELECT ctid FROM pushsvc.positions WHERE acked_at < now() - make_interval(secs => $1::float)
    ORDER BY acked_at LIMIT $2
) old WHERE p.ctid = old.ctid
RETURNING 1
"""

PUT_TICKET = """
INSERT INTO pushsvc.tickets (id, claims, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3::float))
ON CONFLICT DO NOTHING
"""

TAKE_TICKET = """
DELETE FROM pushsvc.tickets WHERE id = $1 RETURNING claims, expires_at > now() AS valid
"""

FORGET_TICKETS = """
DELETE FROM pushsvc.tickets WHERE id = ANY(SELECT id FROM pushsvc.tickets WHERE expires_at < now() LIMIT $1)
RETURNING 1
"""
