"""The SQL of recorded requests and of what is kept of their answers. As in `statements.py`, the first parameter is
the deployment, and each statement is safe to repeat."""

from .statements import span

PUT_RECORDS = """
WITH r AS (
    INSERT INTO pushsvc.records (deployment, job, tenant, target, head, pieces)
    SELECT $1, job, tenant, target, head, pieces
    FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::int[]) AS g (job, tenant, target, head, pieces)
    ON CONFLICT DO NOTHING
    RETURNING job
)
INSERT INTO pushsvc.record_pieces (job, number, data)
SELECT r.job, 0, g.data FROM unnest($2::text[], $7::bytea[]) AS g (job, data) JOIN r USING (job)
WHERE g.data IS NOT NULL
"""

PUT_PIECE = """
WITH r AS (
    UPDATE pushsvc.records SET touched_at = now() WHERE deployment = $1 AND job = $2 RETURNING job
), p AS (
    INSERT INTO pushsvc.record_pieces (job, number, data) SELECT job, $3, $4 FROM r ON CONFLICT DO NOTHING
)
SELECT job FROM r
"""

COMPLETE_RECORD = """
UPDATE pushsvc.records r SET pieces = $3, touched_at = now()
WHERE deployment = $1 AND job = $2 AND (SELECT count(*) FROM pushsvc.record_pieces p WHERE p.job = r.job) = $3
RETURNING job
"""

DROP_RECORDS = "DELETE FROM pushsvc.records WHERE deployment = $1 AND job = ANY($2::text[])"

# A replay begins: who has entered before is in the answer, and what the answer is kept by is there from now on.
ENTER_RECORD = """
WITH r AS (
    SELECT * FROM pushsvc.records WHERE deployment = $1 AND job = $2 AND pieces IS NOT NULL FOR UPDATE
), entered AS (
    UPDATE pushsvc.records SET entered = $3 FROM r WHERE records.job = r.job
), answered AS (
    INSERT INTO pushsvc.answers (deployment, job, tenant, target) SELECT deployment, job, tenant, target FROM r
    ON CONFLICT DO NOTHING
)
SELECT r.tenant, r.head, r.pieces, r.entered, p.data
FROM r LEFT JOIN pushsvc.record_pieces p ON p.job = r.job AND p.number = 0
"""

PIECE = """
SELECT p.data FROM pushsvc.record_pieces p JOIN pushsvc.records r USING (job)
WHERE r.deployment = $1 AND p.job = $2 AND p.number = $3
"""

# Only the replay that entered last may: another worker's, whose lease was lost, finds another name, or no record.
KEEP_ANSWER = f"""
UPDATE pushsvc.answers a
SET cookies = $4, digest = CASE WHEN $5::float > 0 THEN j.digest END,
    fresh_until = CASE WHEN $5::float > 0 THEN now() + {span("$5::float")} END
FROM pushsvc.records r JOIN pushsvc.jobs j ON j.id = r.job
WHERE a.deployment = $1 AND a.job = $2 AND r.job = a.job AND r.entered = $3
RETURNING a.job
"""

ANSWER = """
SELECT coalesce(a.target, r.target) AS target, a.cookies
FROM (SELECT $3::text AS job) asked
LEFT JOIN pushsvc.answers a ON a.job = asked.job AND a.deployment = $1 AND a.tenant = $2
LEFT JOIN pushsvc.records r ON r.job = asked.job AND r.deployment = $1 AND r.tenant = $2
WHERE a.job IS NOT NULL OR r.job IS NOT NULL
"""

FRESH_ANSWER = """
SELECT a.job FROM pushsvc.answers a JOIN pushsvc.jobs j ON j.id = a.job
WHERE a.deployment = $1 AND a.tenant = $2 AND coalesce(j.owner, '') = $3 AND a.digest = $4 AND a.fresh_until > now()
    AND j.status = 'succeeded'
ORDER BY a.fresh_until DESC LIMIT 1
"""

# Written for a job that never came: its web process has died, or it became another job's.
DROP_ORPHANS = f"""
DELETE FROM pushsvc.records r USING (
    SELECT job FROM pushsvc.records WHERE deployment = $1 AND touched_at < now() - {span("$2::float")}
        AND NOT EXISTS (SELECT 1 FROM pushsvc.jobs j WHERE j.id = job)
    ORDER BY touched_at LIMIT $3
) old WHERE r.job = old.job
RETURNING r.job
"""
