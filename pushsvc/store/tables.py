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
    Computed,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
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


def _deployment(*, primary_key: bool = False) -> Column[str]:
    """Whose row it is: deployments that share a database have nothing of each other."""
    return Column("deployment", Text, primary_key=primary_key, nullable=False)


jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    _deployment(),
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
    Column("digest", Text, nullable=False),
    Column("shared", Boolean, nullable=False, server_default=text("false")),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("failures", SmallInteger, nullable=False, server_default=text("0")),
    Column("worker", Text),
    Column("lease_until", _moment),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    # How many submissions want it: it is cancelled when the last of them has been.
    Column("audience", Integer, nullable=False, server_default=text("1")),
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
    # The job that has submitted it, if one has.
    Column("parent", Text),
    Column("queue", Text, nullable=False, server_default=text("'default'")),
    CheckConstraint("status IN ('queued','running','succeeded','failed','cancelled','expired')", name="status"),
    # An attempt in flight always has a lease, or nobody would ever take it over.
    CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="lease"),
    CheckConstraint("(finished_at IS NULL) = (status IN ('queued','running'))", name="finished"),
)
Index("jobs_queued_idx", jobs.c.deployment, jobs.c.run_at, jobs.c.id, postgresql_where=text("status = 'queued'"))
Index("jobs_lease_idx", jobs.c.deployment, jobs.c.lease_until, postgresql_where=text("status = 'running'"))
Index(
    "jobs_deadline_idx",
    jobs.c.deployment,
    jobs.c.deadline,
    postgresql_where=text("status IN ('queued','running') AND deadline IS NOT NULL"),
)
Index("jobs_expires_idx", jobs.c.deployment, jobs.c.expires_at, postgresql_where=text("expires_at IS NOT NULL"))
Index("jobs_owner_idx", jobs.c.deployment, jobs.c.tenant, jobs.c.owner, jobs.c.id.desc())
Index(
    "jobs_coalesce_idx",
    jobs.c.deployment,
    jobs.c.tenant,
    func.coalesce(jobs.c.owner, text("''")),
    jobs.c.digest,
    unique=True,
    # A job that is being cancelled is not joined: beside it another may be made.
    postgresql_where=text("shared AND status IN ('queued','running') AND NOT cancel_requested"),
)
Index(
    "jobs_cancelled_idx",
    jobs.c.deployment,
    jobs.c.id,
    postgresql_where=text("cancel_requested AND status IN ('queued','running')"),
)

Index("jobs_parent_idx", jobs.c.deployment, jobs.c.parent, postgresql_where=text("parent IS NOT NULL"))

keys = Table(
    "keys",
    metadata,
    # Apart from their jobs, which they outlive: a key that comes again stands for no other job.
    _deployment(primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("job", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("expires_at", _moment, nullable=False),
)
Index("keys_expires_idx", keys.c.deployment, keys.c.expires_at)

wakeups = Table(
    "wakeups",
    metadata,
    # Jobs that came by an author's own transaction, and which nobody has put on the queue yet.
    Column("job", Text, primary_key=True),
    _deployment(),
)

ticks = Table(
    "ticks",
    metadata,
    # The moments at which a periodic job was due, each once.
    _deployment(primary_key=True),
    Column("schedule", Text, primary_key=True),
    Column("at", _moment, primary_key=True),
    Column("job", Text),
)

audiences = Table(
    "audiences",
    metadata,
    # One submission of a job that equal ones share, by the mark with which it, and it alone, can be cancelled.
    Column("job", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("mark", Text, primary_key=True),
    Column("cancelled", Boolean, nullable=False, server_default=text("false")),
)

channels = Table(
    "channels",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _deployment(),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    # Random at creation, so that a channel made anew is never taken for its predecessor.
    Column("epoch", Text, nullable=False, server_default=text("'k' || substr(md5(gen_random_uuid()::text), 1, 6)")),
    Column("floor", BigInteger, nullable=False, server_default=text("0")),
    Column("top", BigInteger, nullable=False, server_default=text("0")),
    # The last offset whose event has been purged: what lies above it, and above the floor, is without gaps.
    Column("gone", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("deployment", "tenant", "name"),
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
    # Of events with a body: whose they are, their id, by which a repeated statement finds them, and until when
    # they are kept.
    Column("deployment", Text),
    Column("id", Text),
    Column("expires_at", _moment),
    CheckConstraint("(job IS NULL) <> (body IS NULL)", name="source"),
    CheckConstraint(
        "(body IS NULL) = (id IS NULL) AND (body IS NULL) = (expires_at IS NULL)"
        " AND (body IS NULL) = (deployment IS NULL)",
        name="published",
    ),
)
Index("events_id_idx", events.c.deployment, events.c.id, unique=True, postgresql_where=text("id IS NOT NULL"))
Index("events_expires_idx", events.c.deployment, events.c.expires_at, postgresql_where=text("expires_at IS NOT NULL"))

positions = Table(
    "positions",
    metadata,
    _deployment(primary_key=True),
    # Where a device said that it stands, channel by channel. Names, not rows of `channels`: those of jobs have none.
    Column("tenant", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("epoch", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("acked_at", _moment, nullable=False, server_default=func.now()),
)
Index("positions_acked_idx", positions.c.deployment, positions.c.acked_at)

tickets = Table(
    "tickets",
    metadata,
    # SHA-256 of the ticket: who reads the table can't use what it holds.
    Column("id", Text, primary_key=True),
    _deployment(),
    Column("claims", Text, nullable=False),
    Column("expires_at", _moment, nullable=False),
)
Index("tickets_expires_idx", tickets.c.deployment, tickets.c.expires_at)

webhooks = Table(
    "webhooks",
    metadata,
    # The id of the event, which the receiver gets as `webhook-id`.
    Column("id", Text, primary_key=True),
    _deployment(),
    Column("job", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text),
    Column("url", Text, nullable=False),
    # Whether the submission named the URL; if not, it is the service's.
    Column("own", Boolean, nullable=False),
    # In byte order, as Python compares: couriers go round from host to host.
    Column(
        "host",
        Text(collation="C"),
        Computed("substring(url from '^[a-z]+://([^/]+)')", persisted=True),
        nullable=False,
    ),
    # Whose URL it is, and which: a digest, since the URL itself may be too long for an index.
    Column(
        "endpoint",
        Text,
        Computed(
            "md5(CASE WHEN own THEN tenant ELSE '' END || chr(10)"
            " || CASE WHEN own THEN coalesce(owner, '') ELSE '' END || chr(10) || url)",
            persisted=True,
        ),
        nullable=False,
    ),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("created_at", _moment, nullable=False, server_default=func.now()),
    Column("since", _moment, nullable=False, server_default=func.now()),
    Column("due_at", _moment, nullable=False, server_default=func.now()),
    Column("settled_at", _moment),
    CheckConstraint("status IN ('pending','delivered','failed','disabled')", name="status"),
    CheckConstraint("(status = 'pending') = (settled_at IS NULL)", name="settled"),
)
Index(
    "webhooks_host_idx",
    webhooks.c.deployment,
    webhooks.c.host,
    webhooks.c.due_at,
    postgresql_where=text("status = 'pending'"),
)
Index("webhooks_due_idx", webhooks.c.deployment, webhooks.c.due_at, postgresql_where=text("status = 'pending'"))
Index("webhooks_owner_idx", webhooks.c.deployment, webhooks.c.tenant, webhooks.c.owner, webhooks.c.id.desc())

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("webhook", Text, ForeignKey(webhooks.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", _moment, nullable=False),
    Column("duration", Float, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("answer", Text),
)

disabled_endpoints = Table(
    "disabled_endpoints",
    metadata,
    _deployment(primary_key=True),
    # As `webhooks.endpoint`. Tenant and owner are empty for the service's own callback URL.
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("disabled_at", _moment, nullable=False, server_default=func.now()),
)
Index(
    "disabled_endpoints_owner_idx",
    disabled_endpoints.c.deployment,
    disabled_endpoints.c.tenant,
    disabled_endpoints.c.owner,
)

beats = Table(
    "beats",
    metadata,
    # When a process of the deployment could last write here, when it should have again, and for how long leases have
    # been given anew: time in which nobody could renew one is nobody's fault.
    Column("deployment", Text, primary_key=True),
    Column("beat_at", _moment, nullable=False),
    Column("overdue_at", _moment, nullable=False),
    Column("grace_until", _moment),
)

records = Table(
    "records",
    metadata,
    # The id of the job that it is to be: its row comes last, and takes this with it when the job ends.
    Column("job", Text, primary_key=True),
    Column("deployment", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("head", LargeBinary, nullable=False),
    # How many there are; NULL as long as the body is still coming.
    Column("pieces", Integer),
    # By whom it was begun to be replayed last.
    Column("entered", Text),
    Column("touched_at", _moment, nullable=False, server_default=func.now()),
)
Index("records_touched_idx", records.c.deployment, records.c.touched_at)

record_pieces = Table(
    "record_pieces",
    metadata,
    Column("job", Text, ForeignKey(records.c.job, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

answers = Table(
    "answers",
    metadata,
    # Of jobs that were recorded requests: what is kept beside the result, as long as that.
    Column("job", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("deployment", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("cookies", LargeBinary),
    Column("digest", Text),
    Column("fresh_until", _moment),
)
Index(
    "answers_digest_idx",
    answers.c.deployment,
    answers.c.tenant,
    answers.c.digest,
    postgresql_where=text("digest IS NOT NULL"),
)
