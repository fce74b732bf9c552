"""The tables of the service, in a PostgreSQL schema of their own: `pushsvc`.

This is the schema of record: the Alembic migrations must lead exactly here (a test compares them), and the
state-changing SQL in `statements.py` is written against it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

SCHEMA = "pushsvc"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "ix_%(column_0_label)s",
    },
)

_moment = DateTime(timezone=True)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text),
    Column("name", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    Column("timeout", Float, nullable=False),
    Column("retention", Float, nullable=False),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("channels", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("callback_url", Text),
    Column("key", Text),
    Column("digest", Text, nullable=False),
    Column("shared", Boolean, nullable=False, server_default=text("false")),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("failures", SmallInteger, nullable=False, server_default=text("0")),
    Column("worker", Text),
    Column("lease_until", _moment),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", _moment, nullable=False, server_default=func.now()),
    Column("changed_at", _moment, nullable=False, server_default=func.now()),
    Column("run_at", _moment, nullable=False),
    Column("deadline", _moment),
    Column("started_at", _moment),
    Column("finished_at", _moment),
    Column("expires_at", _moment),
    # Encoded JSON as text: JSONB would rewrite the bytes that subscribers are promised.
    Column("result", Text),
    Column("inline", Boolean, nullable=False, server_default=text("true")),
    Column("result_bytes", BigInteger),
    Column("result_sha256", Text),
    Column("error", Text),
    CheckConstraint("status IN ('queued','running','succeeded','failed','cancelled','expired')", name="status"),
    # An attempt in flight always has a lease, or nobody would ever take it over.
    CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="lease"),
    CheckConstraint("(finished_at IS NULL) = (status IN ('queued','running'))", name="finished"),
)
Index("jobs_queued_idx", jobs.c.run_at, jobs.c.id, postgresql_where=text("status = 'queued'"))
Index("jobs_lease_idx", jobs.c.lease_until, postgresql_where=text("status = 'running'"))
Index(
    "jobs_deadline_idx",
    jobs.c.deadline,
    postgresql_where=text("status IN ('queued','running') AND deadline IS NOT NULL"),
)
Index("jobs_expires_idx", jobs.c.expires_at, postgresql_where=text("expires_at IS NOT NULL"))
Index("jobs_owner_idx", jobs.c.tenant, jobs.c.owner, jobs.c.id.desc())
Index(
    "jobs_key_idx",
    jobs.c.tenant,
    func.coalesce(jobs.c.owner, text("''")),
    jobs.c.key,
    unique=True,
    postgresql_where=text("key IS NOT NULL"),
)

Index(
    "jobs_coalesce_idx",
    jobs.c.tenant,
    func.coalesce(jobs.c.owner, text("''")),
    jobs.c.digest,
    unique=True,
    postgresql_where=text("shared AND status IN ('queued','running')"),
)

channels = Table(
    "channels",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    # Random at creation, so that a channel made anew is never taken for its predecessor.
    Column("epoch", Text, nullable=False, server_default=text("'k' || substr(md5(gen_random_uuid()::text), 1, 6)")),
    Column("floor", BigInteger, nullable=False, server_default=text("0")),
    Column("top", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("tenant", "name"),
    CheckConstraint("floor >= 0 AND floor <= top", name="floor"),
)

events = Table(
    "events",
    metadata,
    Column("channel", BigInteger, ForeignKey(channels.c.id, ondelete="CASCADE"), primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    # The job's row is the event: its bytes are composed from it, so a result is stored once however many
    # channels log it. `body` holds an event that is not a job's.
    Column("job", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), index=True),
    Column("body", Text),
    CheckConstraint("(job IS NULL) <> (body IS NULL)", name="source"),
)
