"""Webhooks: a job's last event, POSTed to a URL until it is taken, signed by Standard Webhooks.

What sends them stands in `courier` and `sender`: who only verifies signatures needs neither.
"""

from .signature import SigningSecrets, sign, verify_webhook

__all__ = ["SigningSecrets", "sign", "verify_webhook"]
