"""The SQL of periodic jobs' ticks. The first parameter of each is the deployment, as in `statements`."""

from __future__ import annotations

TICK_STATES = """
SELECT g.schedule, now() AS now, t.at, t.job, coalesce(j.status IN ('queued', 'running'), false) AS flying
FROM unnest($2::text[]) AS g (schedule)
LEFT JOIN LATERAL (
    SELECT at, job FROM pushsvc.ticks WHERE deployment = $1 AND schedule = g.schedule ORDER BY at DESC LIMIT 1
) t ON true
LEFT JOIN LATERAL (SELECT status FROM pushsvc.jobs WHERE deployment || '' = $1 AND id = t.job LIMIT 1) j ON true
"""

PUT_TICK = """
INSERT INTO pushsvc.ticks (deployment, schedule, at, job) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING at
"""

# The last one of each schedule stays: it says since when that is followed.
FORGET_TICKS = """
WITH old AS (
    SELECT schedule, at FROM pushsvc.ticks t
    WHERE deployment = $1 AND at < now() - interval '1 day' AND EXISTS (
        SELECT 1 FROM pushsvc.ticks n WHERE n.deployment = $1 AND n.schedule = t.schedule AND n.at > t.at
    )
    LIMIT $2
)
DELETE FROM pushsvc.ticks t USING old WHERE t.deployment = $1 AND t.schedule = old.schedule AND t.at = old.at
RETURNING t.at
"""
