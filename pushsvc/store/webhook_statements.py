"""The SQL of webhooks, apart from that which makes one: a terminal change does (`statements.FINISH_JOBS`).

The guard is the webhook's own `version`, which every change raises: it fences an attempt whose lease was lost. A
webhook is claimed by making it due again later, so one whose sender has died comes back by itself. Whatever makes
one pending again prolongs its job's life first, since its event is composed from the job's row.
"""

from .statements import JOB, span

_J = ", ".join(f"j.{column.strip()}" for column in JOB.split(","))

CLAIM_WEBHOOKS = f"""
WITH RECURSIVE hosts AS (
    (SELECT host FROM pushsvc.webhooks WHERE deployment = $1 AND status = 'pending' AND host > $2
        ORDER BY host LIMIT 1)
    UNION ALL
    SELECT (SELECT w.host FROM pushsvc.webhooks w
        WHERE w.deployment = $1 AND w.status = 'pending' AND w.host > h.host ORDER BY w.host LIMIT 1)
    FROM hosts h WHERE h.host IS NOT NULL
), due AS (
    SELECT w.id, EXISTS (
        SELECT 1 FROM pushsvc.disabled_endpoints e WHERE e.deployment = $1 AND e.id = w.endpoint
    ) AS disabled
    FROM hosts h LEFT JOIN unnest($5::text[], $6::int[]) AS b (host, room) ON b.host = h.host
    CROSS JOIN LATERAL (
        SELECT w.id, w.endpoint FROM pushsvc.webhooks w
        WHERE w.deployment = $1 AND w.status = 'pending' AND w.host = h.host AND w.due_at <= now()
        ORDER BY w.due_at LIMIT coalesce(b.room, $4) FOR UPDATE SKIP LOCKED
    ) w
    LIMIT $3
)
UPDATE pushsvc.webhooks w
SET version = w.version + 1, due_at = now() + make_interval(secs => $7::float),
    status = CASE WHEN d.disabled THEN 'disabled' ELSE w.status END,
    settled_at = CASE WHEN d.disabled THEN now() END,
    attempts = w.attempts + CASE WHEN d.disabled THEN 0 ELSE 1 END
FROM due d, pushsvc.jobs j WHERE w.id = d.id AND j.id = w.job
RETURNING w.id AS webhook, w.version AS fence, w.attempts AS number, w.tries, w.url, w.host, w.own, d.disabled, {_J},
    CASE WHEN j.inline THEN j.result END AS result
"""

NEXT_DUE = """
SELECT extract(epoch FROM min(due_at) - now())::float AS seconds FROM pushsvc.webhooks
WHERE deployment = $1 AND status = 'pending' AND due_at > now() - make_interval(secs => $2::float)
"""

HAND_BACK_WEBHOOKS = """
UPDATE pushsvc.webhooks w SET due_at = now(), version = w.version + 1
FROM unnest($2::text[], $3::int[]) AS g (id, version)
WHERE w.deployment || '' = $1 AND w.id = g.id AND w.version = g.version AND w.status = 'pending'
"""

SETTLE_WEBHOOKS = f"""
WITH given AS (
    SELECT * FROM unnest($2::text[], $3::int[], $4::int[], $5::timestamptz[], $6::float[], $7::int[], $8::text[],
        $9::text[], $10::text[], $11::float[])
        AS g (id, version, number, at, duration, status, error, answer, verdict, delay)
), known AS (
    SELECT w.id, w.job, w.endpoint, g.version, g.delay,
        w.since + {span("$12::float")} AS until,
        CASE WHEN g.verdict <> 'pending' THEN g.verdict
            WHEN now() >= w.since + {span("$12::float")} THEN 'failed' ELSE 'pending' END AS status
    FROM given g JOIN pushsvc.webhooks w ON w.id = g.id
    WHERE w.deployment || '' = $1 AND w.version = g.version AND w.status = 'pending'
), kept AS (
    UPDATE pushsvc.jobs j SET expires_at = greatest(j.expires_at, now() + {span("j.retention")})
    FROM known k WHERE j.id = k.job AND k.status IN ('failed', 'disabled')
    RETURNING j.id
), settled AS (
    UPDATE pushsvc.webhooks w
    SET status = k.status, version = w.version + 1, tries = w.tries + 1,
        due_at = least(now() + {span("k.delay")}, k.until),
        settled_at = CASE WHEN k.status <> 'pending' THEN now() END
    FROM known k LEFT JOIN kept ON kept.id = k.job
    WHERE w.id = k.id AND w.version = k.version
    RETURNING w.id, k.version, w.status, w.endpoint, w.own, w.tenant, w.owner, w.url
), logged AS (
    INSERT INTO pushsvc.webhook_attempts (webhook, number, at, duration, status, error, answer)
    SELECT g.id, g.number, g.at, g.duration, g.status, g.error, g.answer
    FROM given g JOIN pushsvc.webhooks w ON w.id = g.id AND w.deployment || '' = $1
    ON CONFLICT DO NOTHING
), gone AS (
    INSERT INTO pushsvc.disabled_endpoints (deployment, id, tenant, owner, url)
    SELECT DISTINCT $1, s.endpoint, CASE WHEN s.own THEN s.tenant ELSE '' END,
        CASE WHEN s.own THEN coalesce(s.owner, '') ELSE '' END, s.url
    FROM settled s WHERE s.status = 'disabled'
    ON CONFLICT DO NOTHING
)
SELECT id, version, status FROM settled
"""

# For those whose they are --------------------------------------------------------------------------


def _seen(whose: str, limit: str = "") -> str:
    """Webhooks with their last attempts. Each `whose` is a statement of its own, so that it has a plan of its own."""
    return f"""
SELECT w.id, w.job, w.tenant, w.owner, w.own, w.url, w.status, w.attempts, w.created_at, w.due_at, w.settled_at,
    a.number, a.at, a.duration, a.status AS code, a.error, a.answer
FROM (SELECT * FROM pushsvc.webhooks WHERE {whose} {limit}) w LEFT JOIN LATERAL (
    SELECT * FROM pushsvc.webhook_attempts a WHERE a.webhook = w.id ORDER BY a.number DESC LIMIT 1
) a ON true
ORDER BY w.id DESC
"""


_PAGE = """AND ($4::text IS NULL OR status = $4) AND ($5::text IS NULL OR job = $5) AND ($6::text IS NULL OR id < $6)
    ORDER BY id DESC LIMIT $7"""

WEBHOOK_BY_ID = _seen(
    "deployment || '' = $1 AND id = $2 AND tenant = $3 AND ($4::text IS NULL OR own AND coalesce(owner, $4) = $4)"
)

WEBHOOKS_OF_OWNER = _seen("deployment = $1 AND tenant = $2 AND owner = $3 AND own", _PAGE)

WEBHOOKS_OF_TENANT = _seen("deployment = $1 AND tenant = $2 AND $3::text IS NULL", _PAGE)

ATTEMPTS_OF = """
SELECT number, at, duration, status AS code, error, answer FROM pushsvc.webhook_attempts
WHERE webhook = (SELECT id FROM pushsvc.webhooks WHERE deployment || '' = $1 AND id = $2) ORDER BY number
"""

REPLAY_WEBHOOK = f"""
WITH kept AS (
    UPDATE pushsvc.jobs j SET expires_at = greatest(j.expires_at, now() + {span("j.retention")})
    FROM pushsvc.webhooks w WHERE w.deployment || '' = $1 AND w.id = $2 AND j.id = w.job
    RETURNING j.id
), again AS (
    UPDATE pushsvc.webhooks w
    SET status = 'pending', version = w.version + 1, tries = 0, since = now(), due_at = now(), settled_at = NULL
    FROM kept WHERE w.id = $2 AND w.job = kept.id
    RETURNING w.id, w.endpoint
), enabled AS (
    DELETE FROM pushsvc.disabled_endpoints e USING again a WHERE e.deployment = $1 AND e.id = a.endpoint
)
SELECT id FROM again
"""

DISABLED_ENDPOINTS = """
SELECT url, disabled_at FROM pushsvc.disabled_endpoints WHERE deployment = $1 AND tenant = $2 AND owner = $3
ORDER BY disabled_at DESC, id LIMIT $4
"""

ENABLE_ENDPOINT = f"""
WITH gone AS (
    DELETE FROM pushsvc.disabled_endpoints
    WHERE deployment = $1 AND id = md5($2::text || chr(10) || $3::text || chr(10) || $4::text) RETURNING id
), held AS (
    SELECT w.id, w.job FROM pushsvc.webhooks w JOIN gone ON gone.id = w.endpoint
    WHERE w.deployment = $1 AND w.status = 'disabled'
), kept AS (
    UPDATE pushsvc.jobs j SET expires_at = greatest(j.expires_at, now() + {span("j.retention")})
    FROM held h WHERE j.id = h.job
    RETURNING j.id
), again AS (
    UPDATE pushsvc.webhooks w
    SET status = 'pending', version = w.version + 1, tries = 0, since = now(), due_at = now(), settled_at = NULL
    FROM held h, kept WHERE w.id = h.id AND h.job = kept.id AND w.status = 'disabled'
    RETURNING w.id
)
SELECT (SELECT count(*) FROM gone) AS enabled, (SELECT count(*) FROM again) AS resumed
"""
