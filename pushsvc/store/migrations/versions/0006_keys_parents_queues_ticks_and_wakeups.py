"""keys apart from their jobs, parents, named queues, ticks of periodic jobs, wake-ups of transactions"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("parent", sa.Text(), nullable=True), schema="pushsvc")
    op.add_column(
        "jobs", sa.Column("queue", sa.Text(), server_default=sa.text("'default'"), nullable=False), schema="pushsvc"
    )
    op.create_index(
        "jobs_parent_idx",
        "jobs",
        ["deployment", "parent"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("parent IS NOT NULL"),
    )
    op.create_table(
        "keys",
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "tenant", "owner", "key", name=op.f("keys_pkey")),
        schema="pushsvc",
    )
    op.create_index("keys_expires_idx", "keys", ["deployment", "expires_at"], unique=False, schema="pushsvc")
    op.execute(
        "INSERT INTO pushsvc.keys (deployment, tenant, owner, key, job, digest, expires_at)"
        " SELECT deployment, tenant, coalesce(owner, ''), key, id, digest, now() + interval '7 days'"
        " FROM pushsvc.jobs WHERE key IS NOT NULL"
    )
    op.drop_index("jobs_key_idx", table_name="jobs", schema="pushsvc")
    op.drop_column("jobs", "key", schema="pushsvc")
    op.create_table(
        "wakeups",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("wakeups_pkey")),
        schema="pushsvc",
    )
    op.create_table(
        "ticks",
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("deployment", "schedule", "at", name=op.f("ticks_pkey")),
        schema="pushsvc",
    )


def downgrade() -> None:
    op.drop_table("ticks", schema="pushsvc")
    op.drop_table("wakeups", schema="pushsvc")
    op.add_column("jobs", sa.Column("key", sa.Text(), nullable=True), schema="pushsvc")
    op.execute("UPDATE pushsvc.jobs j SET key = k.key FROM pushsvc.keys k WHERE k.job = j.id")
    op.create_index(
        "jobs_key_idx",
        "jobs",
        ["deployment", "tenant", sa.text("coalesce(owner, '')"), "key"],
        unique=True,
        schema="pushsvc",
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.drop_table("keys", schema="pushsvc")
    op.drop_index("jobs_parent_idx", table_name="jobs", schema="pushsvc")
    op.drop_column("jobs", "queue", schema="pushsvc")
    op.drop_column("jobs", "parent", schema="pushsvc")
