"""What the kinds of questions have in common: they are asked of a database, which gives a promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from ..promise import Promise
from .question import Question

T = TypeVar("T")


class Asking(ABC):
    """Something questions can be asked of."""

    @abstractmethod
    def _ask(self, question: Question[T]) -> Promise[T]:
        """Schedule it, and give its promise."""
