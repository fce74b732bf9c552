"""jobs, channels and events"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "channels",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "epoch",
            sa.Text(),
            server_default=sa.text("'k' || substr(md5(gen_random_uuid()::text), 1, 6)"),
            nullable=False,
        ),
        sa.Column("floor", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("top", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("floor >= 0 AND floor <= top", name=op.f("channels_floor_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("channels_pkey")),
        sa.UniqueConstraint("tenant", "name", name=op.f("channels_tenant_name_key")),
        schema="pushsvc",
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("timeout", sa.Float(), nullable=False),
        sa.Column("retention", sa.Float(), nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("channels", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("shared", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failures", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("inline", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("result_bytes", sa.BigInteger(), nullable=True),
        sa.Column("result_sha256", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (status IN ('queued','running'))", name=op.f("jobs_finished_check")
        ),
        sa.CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name=op.f("jobs_lease_check")),
        sa.CheckConstraint(
            "status IN ('queued','running','succeeded','failed','cancelled','expired')",
            name=op.f("jobs_status_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
        schema="pushsvc",
    )
    op.create_index(
        "jobs_coalesce_idx",
        "jobs",
        ["tenant", sa.literal_column("coalesce(owner, '')"), "digest"],
        unique=True,
        schema="pushsvc",
        postgresql_where=sa.text("shared AND status IN ('queued','running')"),
    )
    op.create_index(
        "jobs_deadline_idx",
        "jobs",
        ["deadline"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("status IN ('queued','running') AND deadline IS NOT NULL"),
    )
    op.create_index(
        "jobs_expires_idx",
        "jobs",
        ["expires_at"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_key_idx",
        "jobs",
        ["tenant", sa.literal_column("coalesce(owner, '')"), "key"],
        unique=True,
        schema="pushsvc",
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.create_index(
        "jobs_lease_idx",
        "jobs",
        ["lease_until"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "jobs_owner_idx", "jobs", ["tenant", "owner", sa.literal_column("id DESC")], unique=False, schema="pushsvc"
    )
    op.create_index(
        "jobs_queued_idx",
        "jobs",
        ["run_at", "id"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "events",
        sa.Column("channel", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.CheckConstraint("(job IS NULL) <> (body IS NULL)", name=op.f("events_source_check")),
        sa.ForeignKeyConstraint(
            ["channel"], ["pushsvc.channels.id"], name=op.f("events_channel_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job"], ["pushsvc.jobs.id"], name=op.f("events_job_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("channel", "offset", name=op.f("events_pkey")),
        schema="pushsvc",
    )
    op.create_index(op.f("ix_pushsvc_events_job"), "events", ["job"], unique=False, schema="pushsvc")


def downgrade() -> None:
    op.drop_index(op.f("ix_pushsvc_events_job"), table_name="events", schema="pushsvc")
    op.drop_table("events", schema="pushsvc")
    op.drop_index(
        "jobs_queued_idx", table_name="jobs", schema="pushsvc", postgresql_where=sa.text("status = 'queued'")
    )
    op.drop_index("jobs_owner_idx", table_name="jobs", schema="pushsvc")
    op.drop_index(
        "jobs_lease_idx", table_name="jobs", schema="pushsvc", postgresql_where=sa.text("status = 'running'")
    )
    op.drop_index("jobs_key_idx", table_name="jobs", schema="pushsvc", postgresql_where=sa.text("key IS NOT NULL"))
    op.drop_index(
        "jobs_expires_idx", table_name="jobs", schema="pushsvc", postgresql_where=sa.text("expires_at IS NOT NULL")
    )
    op.drop_index(
        "jobs_deadline_idx",
        table_name="jobs",
        schema="pushsvc",
        postgresql_where=sa.text("status IN ('queued','running') AND deadline IS NOT NULL"),
    )
    op.drop_index(
        "jobs_coalesce_idx",
        table_name="jobs",
        schema="pushsvc",
        postgresql_where=sa.text("shared AND status IN ('queued','running')"),
    )
    op.drop_table("jobs", schema="pushsvc")
    op.drop_table("channels", schema="pushsvc")
