"""Channel to connections, with recovery."""

from .hub import Attached, Hub
from .listener import Listener

__all__ = ["Attached", "Hub", "Listener"]
