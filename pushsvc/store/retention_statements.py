"""The SQL of what is kept no longer. The first parameter of each is the deployment, as in `statements`.

An event that is gone leaves its offset, and a reader that comes upon it gets a reset: so each lives as long as was
said, whatever stands beside it. Before events are deleted their channels are told, in a statement that holds the
channels' rows for a moment only; deleting locks nothing that a writer wants. A floor rises over what is contiguous
and gone: it spares readers and the trim a look at nothing.
"""

EXPIRED_JOBS = """
SELECT j.id, e.channel, e."offset" FROM (
    SELECT id, expires_at FROM pushsvc.jobs j WHERE deployment = $1 AND expires_at < now()
        AND NOT EXISTS (SELECT 1 FROM pushsvc.webhooks w WHERE w.job = j.id AND w.status = 'pending')
    ORDER BY expires_at LIMIT $2
) j LEFT JOIN pushsvc.events e ON e.job = j.id
"""

DELETE_JOBS = """
DELETE FROM pushsvc.jobs WHERE deployment || '' = $1 AND id = ANY($2::text[]) AND expires_at < now() RETURNING id
"""

EXPIRED_EVENTS = """
SELECT channel, "offset" FROM pushsvc.events WHERE deployment = $1 AND expires_at < now()
ORDER BY expires_at LIMIT $2
"""

DELETE_EXPIRED_EVENTS = """
DELETE FROM pushsvc.events e USING unnest($2::bigint[], $3::bigint[]) AS g (channel, "offset")
WHERE e.channel = g.channel AND e."offset" = g."offset" AND e.deployment || '' = $1 AND e.expires_at < now()
RETURNING 1
"""

LEAVE_GAPS = """
WITH going AS (
    SELECT channel, "offset" FROM unnest($2::bigint[], $3::bigint[]) AS g (channel, "offset")
), last AS (
    SELECT channel AS id, max("offset") AS gone FROM going GROUP BY channel
), found AS (
    SELECT c.id, l.gone, coalesce((
        SELECT e."offset" - 1 FROM pushsvc.events e WHERE e.channel = c.id AND e."offset" > c.floor
            AND (e.channel, e."offset") NOT IN (SELECT g.channel, g."offset" FROM going g)
        ORDER BY e."offset" LIMIT 1
    ), c.top) AS floor
    FROM last l JOIN pushsvc.channels c ON c.id = l.id WHERE c.deployment || '' = $1
), locked AS (
    SELECT c.id FROM pushsvc.channels c JOIN found USING (id) ORDER BY c.tenant, c.name FOR UPDATE OF c
)
UPDATE pushsvc.channels c SET floor = greatest(c.floor, f.floor), gone = greatest(c.gone, f.gone)
FROM found f, locked l WHERE c.id = f.id AND c.id = l.id
"""

TRIM_CHANNELS = """
WITH page AS (
    SELECT id, deployment, tenant, floor, gone, top FROM pushsvc.channels WHERE id > $2 ORDER BY id LIMIT $3
), long AS (
    SELECT p.id, CASE WHEN p.gone <= p.floor THEN p.top - $4 ELSE (
        SELECT e."offset" FROM pushsvc.events e WHERE e.channel = p.id AND e."offset" > p.floor
        ORDER BY e."offset" DESC OFFSET $4 LIMIT 1
    ) END AS floor
    FROM page p WHERE p.deployment = $1 AND p.tenant <> '' AND p.top - p.floor > $4
), locked AS (
    SELECT c.id FROM pushsvc.channels c JOIN long USING (id) WHERE long.floor IS NOT NULL
    ORDER BY c.tenant, c.name FOR UPDATE OF c
), cut AS (
    UPDATE pushsvc.channels c SET floor = greatest(c.floor, long.floor) FROM long, locked l
    WHERE c.id = long.id AND c.id = l.id
    RETURNING c.id
)
SELECT (SELECT count(*) FROM page) AS looked, (SELECT max(id) FROM page) AS last, array(SELECT id FROM cut) AS cut
"""

DELETE_BELOW_FLOORS = """
DELETE FROM pushsvc.events e USING (
    SELECT e.channel, e."offset" FROM pushsvc.channels c JOIN pushsvc.events e ON e.channel = c.id
    WHERE c.deployment || '' = $1 AND c.id = ANY($2::bigint[]) AND e."offset" <= c.floor LIMIT $3
) old WHERE e.channel = old.channel AND e."offset" = old."offset"
RETURNING 1
"""

FORGET_POSITIONS = """
DELETE FROM pushsvc.positions p USING (
    SELECT ctid FROM pushsvc.positions
    WHERE deployment = $1 AND acked_at < now() - make_interval(secs => $2::float)
    ORDER BY acked_at LIMIT $3
) old WHERE p.ctid = old.ctid
RETURNING 1
"""

FORGET_KEYS = """
DELETE FROM pushsvc.keys k USING (
    SELECT ctid FROM pushsvc.keys k WHERE deployment = $1 AND expires_at < now()
        AND NOT EXISTS (SELECT 1 FROM pushsvc.jobs j WHERE j.id = k.job)
    ORDER BY expires_at LIMIT $2
) old WHERE k.ctid = old.ctid
RETURNING 1
"""

FORGET_TICKETS = """
DELETE FROM pushsvc.tickets WHERE deployment || '' = $1
    AND id = ANY(SELECT id FROM pushsvc.tickets WHERE deployment = $1 AND expires_at < now() LIMIT $2)
RETURNING 1
"""
