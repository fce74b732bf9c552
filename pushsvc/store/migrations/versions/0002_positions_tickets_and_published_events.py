"""positions of devices, tickets, and events that an app publishes"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "positions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("acked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "subject", "device", "channel", name=op.f("positions_pkey")),
        schema="pushsvc",
    )
    op.create_index("positions_acked_idx", "positions", ["acked_at"], unique=False, schema="pushsvc")
    op.create_table(
        "tickets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("tickets_pkey")),
        schema="pushsvc",
    )
    op.create_index("tickets_expires_idx", "tickets", ["expires_at"], unique=False, schema="pushsvc")
    op.add_column("events", sa.Column("id", sa.Text(), nullable=True), schema="pushsvc")
    op.add_column("events", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True), schema="pushsvc")
    # Until now nothing wrote a body; whatever did, is not kept any longer than it has been.
    op.execute(
        "UPDATE pushsvc.events SET id = 'evt_' || gen_random_uuid(), expires_at = now() WHERE body IS NOT NULL"
    )
    op.create_check_constraint(
        op.f("events_published_check"),
        "events",
        "(body IS NULL) = (id IS NULL) AND (body IS NULL) = (expires_at IS NULL)",
        schema="pushsvc",
    )
    op.create_index(
        "events_id_idx",
        "events",
        ["id"],
        unique=True,
        schema="pushsvc",
        postgresql_where=sa.text("id IS NOT NULL"),
    )
    op.create_index(
        "events_expires_idx",
        "events",
        ["expires_at"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index(
        "events_expires_idx",
        table_name="events",
        schema="pushsvc",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.drop_index("events_id_idx", table_name="events", schema="pushsvc", postgresql_where=sa.text("id IS NOT NULL"))
    op.drop_constraint(op.f("events_published_check"), "events", schema="pushsvc", type_="check")
    op.drop_column("events", "expires_at", schema="pushsvc")
    op.drop_column("events", "id", schema="pushsvc")
    op.drop_index("tickets_expires_idx", table_name="tickets", schema="pushsvc")
    op.drop_table("tickets", schema="pushsvc")
    op.drop_index("positions_acked_idx", table_name="positions", schema="pushsvc")
    op.drop_table("positions", schema="pushsvc")
