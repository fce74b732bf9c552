"""deployments, the audiences of a shared job, gaps inside logs, and beats"""

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"

OWNED = ("jobs", "channels", "positions", "tickets", "webhooks", "disabled_endpoints")
"""What a deployment has for itself. Events, attempts and audiences belong to a row of these."""

_IN_FLIGHT = "status IN ('queued','running')"

INDEXES: dict[str, tuple[str, tuple[str, ...], bool, str | None]] = {
    "jobs_queued_idx": ("jobs", ("run_at", "id"), False, "status = 'queued'"),
    "jobs_lease_idx": ("jobs", ("lease_until",), False, "status = 'running'"),
    "jobs_deadline_idx": ("jobs", ("deadline",), False, f"{_IN_FLIGHT} AND deadline IS NOT NULL"),
    "jobs_expires_idx": ("jobs", ("expires_at",), False, "expires_at IS NOT NULL"),
    "jobs_owner_idx": ("jobs", ("tenant", "owner", "id DESC"), False, None),
    "jobs_key_idx": ("jobs", ("tenant", "coalesce(owner, '')", "key"), True, "key IS NOT NULL"),
    "jobs_coalesce_idx": ("jobs", ("tenant", "coalesce(owner, '')", "digest"), True, f"shared AND {_IN_FLIGHT}"),
    "events_id_idx": ("events", ("id",), True, "id IS NOT NULL"),
    "events_expires_idx": ("events", ("expires_at",), False, "expires_at IS NOT NULL"),
    "positions_acked_idx": ("positions", ("acked_at",), False, None),
    "tickets_expires_idx": ("tickets", ("expires_at",), False, None),
    "webhooks_host_idx": ("webhooks", ("host", "due_at"), False, "status = 'pending'"),
    "webhooks_due_idx": ("webhooks", ("due_at",), False, "status = 'pending'"),
    "webhooks_owner_idx": ("webhooks", ("tenant", "owner", "id DESC"), False, None),
    "disabled_endpoints_owner_idx": ("disabled_endpoints", ("tenant", "owner"), False, None),
}
"""As they were: the table, what was indexed, whether it was unique, and of which rows."""


def _index(name: str, *, deployment: bool, where: str | None = None) -> None:
    table, columns, unique, before = INDEXES[name]
    where = where or before
    op.drop_index(name, table_name=table, schema="pushsvc")
    op.create_index(
        name,
        table,
        [sa.text(column) for column in (("deployment", *columns) if deployment else columns)],
        unique=unique,
        schema="pushsvc",
        postgresql_where=None if where is None else sa.text(where),
    )


def upgrade() -> None:
    # Who upgrades says under which name: what there is was made by a service that had none.
    name = context.config.attributes.get("deployment", "arq:queue")
    for table in OWNED:
        op.add_column(
            table,
            sa.Column("deployment", sa.Text(), server_default=sa.literal(name), nullable=False),
            schema="pushsvc",
        )
        # From now on whoever writes says whose row it is.
        op.alter_column(table, "deployment", server_default=None, schema="pushsvc")
    op.add_column("events", sa.Column("deployment", sa.Text(), nullable=True), schema="pushsvc")
    op.execute(sa.text("UPDATE pushsvc.events SET deployment = :name WHERE body IS NOT NULL").bindparams(name=name))
    _published("(body IS NULL) = (deployment IS NULL)")
    for index in INDEXES:
        # A job that is being cancelled is not joined: beside it another may be made.
        joined = f"shared AND {_IN_FLIGHT} AND NOT cancel_requested" if index == "jobs_coalesce_idx" else None
        _index(index, deployment=True, where=joined)
    _unique(
        "channels", "channels_tenant_name_key", "channels_deployment_tenant_name_key", "deployment", "tenant", "name"
    )
    _primary("positions", "deployment", "tenant", "subject", "device", "channel")
    _primary("disabled_endpoints", "deployment", "id")
    _make_audiences()
    op.add_column(
        "channels", sa.Column("gone", sa.BigInteger(), server_default=sa.text("0"), nullable=False), schema="pushsvc"
    )
    op.execute("UPDATE pushsvc.channels SET gone = floor WHERE floor > 0")
    # No retention is longer by now, and beyond the year 9999 nobody could read the row.
    op.execute(
        "UPDATE pushsvc.jobs SET expires_at = now() + interval '100 years'"
        " WHERE expires_at > now() + interval '100 years'"
    )
    op.execute(
        "UPDATE pushsvc.events SET expires_at = now() + interval '100 years'"
        " WHERE expires_at > now() + interval '100 years'"
    )
    op.create_table(
        "beats",
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("overdue_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("grace_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("deployment", name=op.f("beats_pkey")),
        schema="pushsvc",
    )


def _make_audiences() -> None:
    op.add_column(
        "jobs", sa.Column("audience", sa.Integer(), server_default=sa.text("1"), nullable=False), schema="pushsvc"
    )
    op.create_table(
        "audiences",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["pushsvc.jobs.id"], name=op.f("audiences_job_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "mark", name=op.f("audiences_pkey")),
        schema="pushsvc",
    )
    op.create_index(
        "jobs_cancelled_idx",
        "jobs",
        ["deployment", "id"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text(f"cancel_requested AND {_IN_FLIGHT}"),
    )


def _published(*also: str) -> None:
    before = "(body IS NULL) = (id IS NULL) AND (body IS NULL) = (expires_at IS NULL)"
    op.drop_constraint(op.f("events_published_check"), "events", schema="pushsvc", type_="check")
    op.create_check_constraint(
        op.f("events_published_check"), "events", " AND ".join((before, *also)), schema="pushsvc"
    )


def _unique(table: str, before: str, after: str, *columns: str) -> None:
    op.drop_constraint(before, table, schema="pushsvc", type_="unique")
    op.create_unique_constraint(op.f(after), table, list(columns), schema="pushsvc")


def _primary(table: str, *columns: str) -> None:
    op.drop_constraint(f"{table}_pkey", table, schema="pushsvc", type_="primary")
    op.create_primary_key(op.f(f"{table}_pkey"), table, list(columns), schema="pushsvc")


def downgrade() -> None:
    """Of a database with one deployment: names that two of them have in common can't stand side by side."""
    op.drop_table("beats", schema="pushsvc")
    op.drop_column("channels", "gone", schema="pushsvc")
    op.drop_index(
        "jobs_cancelled_idx",
        table_name="jobs",
        schema="pushsvc",
        postgresql_where=sa.text(f"cancel_requested AND {_IN_FLIGHT}"),
    )
    op.drop_table("audiences", schema="pushsvc")
    op.drop_column("jobs", "audience", schema="pushsvc")
    _primary("disabled_endpoints", "id")
    _primary("positions", "tenant", "subject", "device", "channel")
    _unique("channels", "channels_deployment_tenant_name_key", "channels_tenant_name_key", "tenant", "name")
    for index in INDEXES:
        _index(index, deployment=False)
    _published()
    for table in ("events", *OWNED):
        op.drop_column(table, "deployment", schema="pushsvc")
