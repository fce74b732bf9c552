"""For the operator: health."""

from .health import Health

__all__ = ["Health"]
