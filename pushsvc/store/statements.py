"""Every SQL statement that reads or changes the service's state, named, in one place.

The first parameter of each is the deployment, which `Postgres.ask` gives: rows of another are as if they were not
there. Of a row that is found by its own key it is asked as `deployment || '' = $1`, which no index answers: while the
planner knows nothing of a new table, it might take one that begins with the deployment, and go through all of it.

Each change of a job's state is one guarded statement over a batch (arrays in, rows out). The guard is the
row's `version`, which every change raises: it fences an attempt whose lease was lost, since whoever took
the job over has raised it. A terminal change writes the result, the new version, the channels' offsets and
the inbox events together. Locks are taken in one order, jobs before channels and each in key order.
"""

JOB = """id, tenant, owner, name, status, version, attempt, created_at, changed_at, run_at, started_at,
    finished_at, expires_at, error, inline, result_bytes, result_sha256, callback_url"""
J = ", ".join(f"j.{column.strip()}" for column in JOB.split(","))

LONGEST = 100 * 365.25 * 86400.0
"""Seconds that anything is kept at most: PostgreSQL's intervals, and the years that Python knows, have an end."""


MOST_ATTEMPTS = 32767
"""As far as attempts are counted, in two bytes."""


def span(seconds: str) -> str:
    """An interval of so many seconds, from none to LONGEST: one row with `Infinity` must not fail a whole batch."""
    return f"make_interval(secs => greatest(0, least({seconds}, {LONGEST})))"


# What is running may be taken from its worker: its lease has run out, and all the while leases could be written.
LAPSED_LEASE = """lease_until < now() AND NOT EXISTS (
            SELECT 1 FROM pushsvc.beats b WHERE b.deployment = $1 AND b.overdue_at < now())"""


def channel_of(row: str, name: str = "name") -> str:
    """The channel that a row names. Row by row, for another join may go through all channels to find one."""
    return f"""CROSS JOIN LATERAL (
    SELECT * FROM pushsvc.channels WHERE deployment = $1 AND tenant = {row}.tenant AND name = {row}.{name} LIMIT 1
) c"""


def inbox_of(row: str) -> str:
    """Where the owner's inbox stands, if there is one."""
    return f"""LEFT JOIN LATERAL (
    SELECT epoch, top FROM pushsvc.channels
    WHERE deployment = $1 AND tenant = {row}.tenant AND name = 'user:' || {row}.owner LIMIT 1
) c ON true"""


QUEUED_COUNT = (
    "SELECT count(*) FROM (SELECT 1 FROM pushsvc.jobs WHERE deployment = $1 AND status = 'queued' LIMIT $2) q"
)

# Reading ------------------------------------------------------------------------------------------

JOB_BY_ID = f"SELECT {JOB} FROM pushsvc.jobs WHERE deployment || '' = $1 AND tenant = $2 AND id = $3"

JOB_WITH_RESULT = f"SELECT {JOB}, result FROM pushsvc.jobs WHERE deployment || '' = $1 AND tenant = $2 AND id = $3"

JOBS_THAT_MAY_BE_SEEN = """
SELECT id FROM pushsvc.jobs
WHERE deployment || '' = $1 AND tenant = $2 AND id = ANY($4::text[]) AND (owner IS NULL OR owner = $3)
"""

JOBS_OF_OWNER = f"""
SELECT {JOB} FROM pushsvc.jobs
WHERE deployment = $1 AND tenant = $2 AND owner = $3
    AND ($4::text IS NULL OR status = $4) AND ($5::text IS NULL OR name = $5)
    AND ($6::text IS NULL OR id < $6)
ORDER BY id DESC LIMIT $7
"""

JOBS_BY_IDS = f"""
SELECT {JOB} FROM pushsvc.jobs
WHERE deployment || '' = $1 AND tenant = $2 AND owner = $3 AND id = ANY($4::text[]) ORDER BY id DESC
"""

# The worker's changes -----------------------------------------------------------------------------

UNSTARTED = """
SELECT id, status, greatest(extract(epoch FROM
    CASE WHEN status = 'running' THEN lease_until ELSE run_at END - now()), 0)::float AS due_in
FROM pushsvc.jobs WHERE deployment || '' = $1 AND id = ANY($2::text[])
"""

# A row that somebody else has locked just now is held all the same: it waits for its next turn, and none of the
# others waits for it.
RENEW_LEASES = """
WITH held AS (
    SELECT j.id, j.cancel_requested FROM pushsvc.jobs j
    JOIN unnest($2::text[], $3::int[]) AS g (id, version) ON j.id = g.id AND j.version = g.version
    WHERE j.deployment || '' = $1 AND j.status = 'running'
), free AS (
    SELECT j.id FROM pushsvc.jobs j
    JOIN unnest($2::text[], $3::int[]) AS g (id, version) ON j.id = g.id AND j.version = g.version
    WHERE j.deployment || '' = $1 AND j.status = 'running' ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
), renewed AS (
    UPDATE pushsvc.jobs j SET lease_until = now() + make_interval(secs => $4::float)
    FROM free WHERE j.id = free.id
)
SELECT id, cancel_requested FROM held
"""

REQUEUE_JOBS = f"""
UPDATE pushsvc.jobs j
SET status = 'queued', version = j.version + 1, changed_at = now(), lease_until = NULL, worker = NULL,
    run_at = now() + {span("g.delay")}, error = g.error,
    attempt = j.attempt - CASE WHEN g.why = 'handed back' THEN 1 ELSE 0 END,
    failures = least(j.failures + CASE WHEN g.why = 'failed' THEN 1 ELSE 0 END, {MOST_ATTEMPTS})
FROM unnest($2::text[], $3::int[], $4::float[], $5::text[], $6::text[]) AS g (id, version, delay, why, error)
WHERE j.deployment || '' = $1 AND j.id = g.id AND j.version = g.version AND j.status = 'running'
RETURNING {J}
"""


def _finish(*, recorded: bool) -> str:
    """`recorded`: some may be endpoints', whose records are gone with them."""
    forgotten = """, forgotten AS (
    DELETE FROM pushsvc.records r USING done d WHERE r.job = d.id
)"""
    return f"""
WITH given AS (
    SELECT * FROM unnest($2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::text[])
        AS g (id, version, status, result, error, inline, sha256)
), locked AS (
    SELECT j.id FROM pushsvc.jobs j JOIN given g ON j.id = g.id AND j.version = g.version
    WHERE j.deployment || '' = $1 AND j.status IN ('queued', 'running') ORDER BY j.id FOR UPDATE OF j
), done AS (
    UPDATE pushsvc.jobs j
    SET status = g.status, version = j.version + 1, changed_at = now(), finished_at = now(),
        expires_at = now() + {span("j.retention")}, lease_until = NULL, worker = NULL,
        result = g.result, result_bytes = octet_length(g.result), inline = g.inline,
        result_sha256 = g.sha256, error = g.error
    FROM given g, locked l WHERE j.id = l.id AND j.id = g.id AND j.version = g.version
    RETURNING j.*
), targets AS (
    SELECT DISTINCT d.id AS job, d.tenant, t.name
    FROM done d,
        unnest(CASE WHEN d.owner IS NULL THEN d.channels ELSE ('user:' || d.owner) || d.channels END) t (name)
), counted AS (
    INSERT INTO pushsvc.channels AS c (deployment, tenant, name, top)
    SELECT $1, tenant, name, count(*) FROM targets GROUP BY tenant, name ORDER BY tenant, name
    ON CONFLICT (deployment, tenant, name) DO UPDATE SET top = c.top + EXCLUDED.top
    RETURNING c.id, c.tenant, c.name, c.epoch, c.top
), logged AS (
    INSERT INTO pushsvc.events (channel, "offset", job)
    SELECT c.id, c.top - count(*) OVER same + row_number() OVER (same ORDER BY t.job), t.job
    FROM targets t JOIN counted c USING (tenant, name) WINDOW same AS (PARTITION BY c.id)
    RETURNING channel, "offset", job
), called AS (
    INSERT INTO pushsvc.webhooks (deployment, id, job, tenant, owner, url, own)
    SELECT $1, 'evt_' || id || '_' || version, id, tenant, owner, url, callback_url <> 'default'
    FROM (SELECT *, CASE callback_url WHEN 'default' THEN $9 ELSE callback_url END AS url FROM done) d
    WHERE url IS NOT NULL
    RETURNING job
){forgotten if recorded else ""}
SELECT {", ".join(f"d.{column.strip()}" for column in JOB.split(","))},
    c.name AS channel, c.epoch, l."offset", k.job IS NOT NULL AS called
FROM done d LEFT JOIN logged l ON l.job = d.id LEFT JOIN counted c ON c.id = l.channel
LEFT JOIN called k ON k.job = d.id
"""


FINISH_JOBS = _finish(recorded=False)

FINISH_RECORDED_JOBS = _finish(recorded=True)

PLACES_OF_JOBS = f"""
SELECT {J}, c.name AS channel, c.epoch, e."offset",
    EXISTS (SELECT 1 FROM pushsvc.webhooks w WHERE w.job = j.id) AS called
FROM pushsvc.jobs j LEFT JOIN pushsvc.events e ON e.job = j.id LEFT JOIN pushsvc.channels c ON c.id = e.channel
WHERE j.deployment || '' = $1 AND j.id = ANY($2::text[])
"""

CANCEL_JOB = f"""
UPDATE pushsvc.jobs j SET cancel_requested = true
WHERE deployment || '' = $1 AND tenant = $2 AND id = $3 AND status IN ('queued', 'running')
RETURNING {J}, cancel_requested
"""

# For one of its audiences: the last one's cancel is the job's. A mark counts once, however often it comes.
CANCEL_FOR_ONE = f"""
WITH job AS (
    SELECT id FROM pushsvc.jobs
    WHERE deployment || '' = $1 AND tenant = $2 AND id = $3 AND status IN ('queued', 'running') FOR UPDATE
), marked AS (
    UPDATE pushsvc.audiences a SET cancelled = true FROM job
    WHERE a.job = job.id AND a.mark = $4 AND NOT a.cancelled
    RETURNING a.job
)
UPDATE pushsvc.jobs j
SET audience = j.audience - (SELECT count(*) FROM marked),
    cancel_requested = j.cancel_requested OR j.audience <= (SELECT count(*) FROM marked)
FROM job WHERE j.id = job.id AND EXISTS (SELECT 1 FROM pushsvc.audiences a WHERE a.job = j.id AND a.mark = $4)
RETURNING {J}, j.cancel_requested
"""

CHILDREN_IN_FLIGHT = f"""
SELECT {JOB} FROM pushsvc.jobs
WHERE deployment = $1 AND parent = $2 AND status IN ('queued', 'running') AND NOT cancel_requested
ORDER BY id LIMIT $3
"""

# Sweeping -----------------------------------------------------------------------------------------

SWEEP_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('pushsvc.sweep'), hashtext($1))"

WAITING = "id, name, extract(epoch FROM run_at)::float, tenant, coalesce(owner, ''), queue, priority"

QUEUED_PAGE = f"""
SELECT {WAITING}, run_at FROM pushsvc.jobs
WHERE deployment = $1 AND status = 'queued' AND run_at < now() + interval '1 hour' AND (run_at, id) > ($2, $3)
ORDER BY run_at, id LIMIT $4
"""

LAPSED = f"""
SELECT {WAITING}, version, attempt - failures AS losses FROM pushsvc.jobs
WHERE deployment = $1 AND status = 'running' AND NOT cancel_requested AND {LAPSED_LEASE}
ORDER BY lease_until LIMIT $2
"""

UNENDED_CANCELS = f"""
SELECT id, version FROM pushsvc.jobs
WHERE deployment = $1 AND cancel_requested AND status IN ('queued', 'running')
    AND (status = 'queued' OR {LAPSED_LEASE})
ORDER BY id LIMIT $2
"""

OVERDUE = f"""
SELECT id, version FROM pushsvc.jobs
WHERE deployment = $1 AND deadline < now() AND (status = 'queued' OR status = 'running' AND {LAPSED_LEASE})
ORDER BY deadline LIMIT $2
"""

WAITING_BY_QUEUE = """
SELECT queue, count(*) AS waiting, extract(epoch FROM now() - min(run_at))::float AS longest FROM (
    SELECT queue, run_at FROM pushsvc.jobs WHERE deployment = $1 AND status = 'queued' AND run_at <= now()
    ORDER BY run_at LIMIT $2
) q GROUP BY queue ORDER BY queue
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

# Channels -----------------------------------------------------------------------------------------

OPEN_CHANNELS = """
INSERT INTO pushsvc.channels (deployment, tenant, name)
SELECT $1, tenant, name FROM unnest($2::text[], $3::text[]) AS g (tenant, name)
WHERE (
    SELECT 1 FROM pushsvc.channels c WHERE c.deployment = $1 AND c.tenant = g.tenant AND c.name = g.name LIMIT 1
) IS NULL
ORDER BY tenant, name
ON CONFLICT DO NOTHING
"""

CHANNEL_STATES = f"""
SELECT c.id, c.tenant, c.name, c.epoch, c.floor, c.gone, c.top FROM unnest($2::text[], $3::text[]) AS g (tenant, name)
{channel_of("g")}
"""

CHANNELS_WITH_GAPS = f"""
SELECT c.tenant, c.name FROM unnest($2::text[], $3::text[], $4::bigint[]) AS g (tenant, name, after)
{channel_of("g")}
WHERE c.gone - g.after > (
    SELECT count(*) FROM pushsvc.events e
    WHERE e.channel = c.id AND e."offset" > g.after AND e."offset" <= c.gone
)
"""

JOB_VERSIONS = """
SELECT tenant, 'job:' || id AS name, version, finished_at IS NOT NULL AS closed FROM pushsvc.jobs
WHERE deployment || '' = $1 AND id = ANY($3::text[]) AND tenant = ANY($2::text[])
"""

READ_LOG = f"""
SELECT c.epoch, c.floor, c.gone, c.top, e.* FROM pushsvc.channels c LEFT JOIN LATERAL (
    SELECT e."offset", e.body, {J}, CASE WHEN j.inline THEN j.result END AS result
    FROM pushsvc.events e LEFT JOIN pushsvc.jobs j ON j.id = e.job
    WHERE e.channel = c.id AND e."offset" > CASE
        WHEN $4 = 'start' OR $4 = c.epoch AND $5 < c.floor THEN c.floor
        WHEN $4 = c.epoch AND $5 <= c.top THEN $5
        ELSE c.top END
    ORDER BY e."offset" LIMIT $6
) e ON true
WHERE c.deployment = $1 AND c.tenant = $2 AND c.name = $3
ORDER BY e."offset"
"""

PUBLISH_EVENTS = f"""
WITH given AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float[]) WITH ORDINALITY
        AS g (id, tenant, name, body, retention, n)
), fresh AS (
    SELECT * FROM given g WHERE (
        SELECT 1 FROM pushsvc.events e WHERE e.deployment = $1 AND e.id = g.id LIMIT 1
    ) IS NULL
), counted AS (
    INSERT INTO pushsvc.channels AS c (deployment, tenant, name, top)
    SELECT $1, tenant, name, count(*) FROM fresh GROUP BY tenant, name ORDER BY tenant, name
    ON CONFLICT (deployment, tenant, name) DO UPDATE SET top = c.top + EXCLUDED.top
    RETURNING c.id, c.tenant, c.name, c.epoch, c.top
), logged AS (
    INSERT INTO pushsvc.events (deployment, channel, "offset", id, body, expires_at)
    SELECT $1, c.id, c.top - count(*) OVER same + row_number() OVER (same ORDER BY f.n), f.id, f.body,
        now() + {span("f.retention")}
    FROM fresh f JOIN counted c USING (tenant, name) WINDOW same AS (PARTITION BY c.id)
    RETURNING id, channel, "offset", body
)
SELECT l.id, c.epoch, l."offset", l.body FROM logged l JOIN counted c ON c.id = l.channel
UNION ALL
SELECT e.id, c.epoch, e."offset", e.body FROM given g
    CROSS JOIN LATERAL (SELECT * FROM pushsvc.events WHERE deployment = $1 AND id = g.id LIMIT 1) e
    JOIN pushsvc.channels c ON c.id = e.channel
"""

RENEW_EPOCHS = """
UPDATE pushsvc.channels SET epoch = DEFAULT WHERE deployment = $1 RETURNING id
"""
