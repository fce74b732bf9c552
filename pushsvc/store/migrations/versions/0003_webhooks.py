"""webhooks, their attempts, and endpoints that are disabled"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column(
            "host",
            sa.Text(collation="C"),
            sa.Computed("substring(url from '^[a-z]+://([^/]+)')", persisted=True),
            nullable=False,
        ),
        sa.Column(
            "endpoint",
            sa.Text(),
            sa.Computed(
                "md5(CASE WHEN own THEN tenant ELSE '' END || chr(10)"
                " || CASE WHEN own THEN coalesce(owner, '') ELSE '' END || chr(10) || url)",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending','delivered','failed','disabled')", name=op.f("webhooks_status_check")
        ),
        sa.CheckConstraint("(status = 'pending') = (settled_at IS NULL)", name=op.f("webhooks_settled_check")),
        sa.ForeignKeyConstraint(["job"], ["pushsvc.jobs.id"], name=op.f("webhooks_job_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("webhooks_pkey")),
        schema="pushsvc",
    )
    op.create_index(
        "webhooks_due_idx",
        "webhooks",
        ["due_at"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "webhooks_host_idx",
        "webhooks",
        ["host", "due_at"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "webhooks_owner_idx",
        "webhooks",
        ["tenant", "owner", sa.literal_column("id DESC")],
        unique=False,
        schema="pushsvc",
    )
    op.create_index(op.f("ix_pushsvc_webhooks_job"), "webhooks", ["job"], unique=False, schema="pushsvc")
    op.create_table(
        "webhook_attempts",
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["webhook"],
            ["pushsvc.webhooks.id"],
            name=op.f("webhook_attempts_webhook_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("webhook", "number", name=op.f("webhook_attempts_pkey")),
        schema="pushsvc",
    )
    op.create_table(
        "disabled_endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("disabled_endpoints_pkey")),
        schema="pushsvc",
    )
    op.create_index(
        "disabled_endpoints_owner_idx", "disabled_endpoints", ["tenant", "owner"], unique=False, schema="pushsvc"
    )


def downgrade() -> None:
    op.drop_table("disabled_endpoints", schema="pushsvc")
    op.drop_table("webhook_attempts", schema="pushsvc")
    op.drop_table("webhooks", schema="pushsvc")
