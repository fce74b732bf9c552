"""Whether row-level security holds for the role by which a database is asked."""

from __future__ import annotations

from dataclasses import dataclass

from .servers import Connection

MOST_TABLES = 5
"""How many tables are named at most."""

# Whoever is a member of the owner's role counts as the owner.
ROW_SECURITY = """
SELECT rolname AS role, rolsuper AS superuser, rolbypassrls AS bypasses,
    (SELECT count(*) FROM pg_class WHERE relrowsecurity) AS secured,
    ARRAY(SELECT oid::regclass::text FROM pg_class
        WHERE relrowsecurity AND NOT relforcerowsecurity AND pg_has_role(relowner, 'USAGE')
        ORDER BY 1 LIMIT $1) AS owned
FROM pg_roles WHERE rolname = current_user
"""


@dataclass(frozen=True, slots=True)
class RowSecurity:
    """The role, how many tables have policies in force, and for which of them they don't hold for this role.

    `owned` names at most MOST_TABLES tables whose policies hold for others than their owner.
    """

    role: str
    superuser: bool
    bypasses: bool
    secured: int
    owned: tuple[str, ...]

    @property
    def why_not(self) -> str | None:
        """Why policies don't hold for the role; None where they do, or where there are none."""
        if not self.secured:
            return None
        if self.superuser:
            return "is a superuser"
        if self.bypasses:
            return "has BYPASSRLS"
        return f"owns {', '.join(self.owned)}" if self.owned else None


async def read_row_security(connection: Connection) -> RowSecurity | None:
    """Ask; None where the role is not in the catalog. Raises asyncpg's errors."""
    row = await connection.fetchrow(ROW_SECURITY, MOST_TABLES)
    if row is None:
        return None
    return RowSecurity(row["role"], row["superuser"], row["bypasses"], row["secured"], tuple(row["owned"]))
