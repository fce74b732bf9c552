"""Webhooks: a job's last event, POSTed to a URL until it is taken, signed by Standard Webhooks."""

from .courier import Courier
from .sender import Resolver, Sender
from .signature import SigningSecrets, sign, verify_webhook

__all__ = ["Courier", "Resolver", "Sender", "SigningSecrets", "sign", "verify_webhook"]
