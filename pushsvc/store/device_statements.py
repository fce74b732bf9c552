"""The SQL of devices: where they stand, and the tickets by which they connect. The deployment comes first, as in
`statements`."""

from .statements import channel_of

ACK = f"""
WITH given AS (
    SELECT * FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[])
        AS g (n, tenant, subject, device, channel, epoch, "offset")
), known AS (
    SELECT g.*, c.epoch AS right_epoch, c.top FROM given g
    {channel_of("g", "channel")}
    UNION ALL
    SELECT g.*, '1', j.version FROM given g
    JOIN pushsvc.jobs j ON g.channel LIKE 'job:%' AND j.id = substr(g.channel, 5) AND j.deployment || '' = $1
        AND j.tenant = g.tenant AND (j.owner IS NULL OR j.owner = g.subject)
), wrong AS (
    SELECT n FROM known WHERE epoch = right_epoch AND "offset" > top
), stored AS (
    INSERT INTO pushsvc.positions AS p (deployment, tenant, subject, device, channel, epoch, "offset")
    SELECT DISTINCT ON (tenant, subject, device, channel) $1, tenant, subject, device, channel, epoch, "offset"
    FROM known k WHERE epoch = right_epoch AND NOT EXISTS (SELECT 1 FROM wrong w WHERE w.n = k.n)
    ORDER BY tenant, subject, device, channel, "offset" DESC
    ON CONFLICT (deployment, tenant, subject, device, channel) DO UPDATE
    SET epoch = EXCLUDED.epoch, "offset" = EXCLUDED."offset", acked_at = now()
    WHERE p.epoch <> EXCLUDED.epoch OR p."offset" < EXCLUDED."offset"
)
SELECT DISTINCT n FROM wrong
"""

ACKED = """
SELECT channel, epoch, "offset" FROM pushsvc.positions
WHERE deployment = $1 AND tenant = $2 AND subject = $3 AND device = $4
"""

DEVICES_OF = """
SELECT count(DISTINCT device) AS devices, coalesce(bool_or(device = $4), false) AS known
FROM pushsvc.positions WHERE deployment = $1 AND tenant = $2 AND subject = $3
"""

PUT_TICKET = """
INSERT INTO pushsvc.tickets (deployment, id, claims, expires_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4::float))
ON CONFLICT DO NOTHING
"""

TAKE_TICKET = """
DELETE FROM pushsvc.tickets WHERE deployment || '' = $1 AND id = $2 RETURNING claims, expires_at > now() AS valid
"""
