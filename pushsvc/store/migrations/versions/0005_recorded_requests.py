"""recorded requests, their pieces, and what is kept of answers beside a job's result"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "records",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("pieces", sa.Integer(), nullable=True),
        sa.Column("entered", sa.Text(), nullable=True),
        sa.Column("touched_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("records_pkey")),
        schema="pushsvc",
    )
    op.create_index("records_touched_idx", "records", ["deployment", "touched_at"], unique=False, schema="pushsvc")
    op.create_table(
        "record_pieces",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"], ["pushsvc.records.job"], name=op.f("record_pieces_job_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("record_pieces_pkey")),
        schema="pushsvc",
    )
    op.create_table(
        "answers",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("cookies", sa.LargeBinary(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("fresh_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["pushsvc.jobs.id"], name=op.f("answers_job_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", name=op.f("answers_pkey")),
        schema="pushsvc",
    )
    op.create_index(
        "answers_digest_idx",
        "answers",
        ["deployment", "tenant", "digest"],
        unique=False,
        schema="pushsvc",
        postgresql_where=sa.text("digest IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("answers", schema="pushsvc")
    op.drop_table("record_pieces", schema="pushsvc")
    op.drop_table("records", schema="pushsvc")
