"""Signatures of webhooks, by Standard Webhooks 1.0.0 (standardwebhooks.com): pure, for sender and receiver.

What is signed is `id.timestamp.body` with HMAC-SHA256; the header holds one `v1,<base64>` for each secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import BadSignature, SettingsError

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, as the specification has it."""


def key_of(secret: str) -> bytes:
    """The bytes of a `whsec_…` secret. Raises ValueError, without the secret in it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook secret is whsec_ and base64") from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"a webhook secret holds {SHORTEST} to {LONGEST} bytes")
    return key


def sign(message_id: str, timestamp: int, body: bytes, keys: Iterable[bytes]) -> str:
    """The `webhook-signature` header: one signature for each key, in order."""
    return " ".join(f"v1,{base64.b64encode(_mac(message_id, timestamp, body, key)).decode()}" for key in keys)


def _mac(message_id: str, timestamp: int, body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), timestamp, body), hashlib.sha256)


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secrets: str | Iterable[str],
    *,
    tolerance: float = 300.0,
    now: float | None = None,
) -> Any:
    """The event that a webhook brings, once it is sure that it comes from a holder of one of `secrets`.

    `headers` are those of the request, in whatever case; `body` its bytes just as they came: parsed and written
    again they would not be the same. `tolerance` is how many seconds the sender's clock may differ, and for how
    long an attempt can be replayed. Raises BadSignature; ValueError for a secret that is none.
    """
    known = {name.lower(): value for name, value in headers.items()}
    keys = [key_of(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    try:
        message_id, signatures = known["webhook-id"], known["webhook-signature"].split()
        timestamp = int(known["webhook-timestamp"])
    except KeyError as error:
        raise BadSignature(f"the header {error.args[0]} is missing") from None
    except ValueError:
        raise BadSignature("the header webhook-timestamp is no number") from None
    if abs((time.time() if now is None else now) - timestamp) > tolerance:
        raise BadSignature("the attempt's time is too far from now")
    data = body.encode() if isinstance(body, str) else body
    given = [value.encode() for version, _, value in (each.partition(",") for each in signatures) if version == "v1"]
    good = [base64.b64encode(_mac(message_id, timestamp, data, key)) for key in keys]
    # Each with each, whatever came out before: how long it takes says nothing about where a match was.
    if not any([hmac.compare_digest(one, other) for one in given for other in good]):
        raise BadSignature("no signature is by a secret known here")
    try:
        return json.loads(data)
    except ValueError:
        raise BadSignature("what was signed is not JSON") from None


class SigningSecrets:
    """Which secrets sign a webhook: the given ones sign every one; without them each owner has one of its own,
    derived from the service's secret, so that nobody can forge what another receives.

    Raises SettingsError when there is neither, or a given one is malformed.
    """

    def __init__(self, given: Sequence[str], secret: str | None) -> None:
        if not given and secret is None:
            raise SettingsError("webhooks are signed: set PUSHSVC_SECRET, or PUSHSVC_WEBHOOK_SECRETS")
        try:
            self._keys = tuple(key_of(each) for each in given)
        except ValueError as error:
            raise SettingsError(f"PUSHSVC_WEBHOOK_SECRETS: {error}") from None
        self._secret = (secret or "").encode()

    def __repr__(self) -> str:
        return "<SigningSecrets>"

    @property
    def shared(self) -> bool:
        """Whether all receivers have the same ones."""
        return bool(self._keys)

    def keys(self, tenant: str, owner: str) -> tuple[bytes, ...]:
        """The keys for what is sent for `owner`; both empty stand for the service's own callback URL.

        Derived as by HKDF's second step (RFC 5869): an HMAC of what the key is for. Neither name has a newline.
        """
        if self._keys:
            return self._keys
        return (hmac.digest(self._secret, f"pushsvc webhooks\n{tenant}\n{owner}\n\x01".encode(), hashlib.sha256),)

    def shown(self, tenant: str, owner: str) -> list[str]:
        """The same as text, for whoever is to verify."""
        return [PREFIX + base64.b64encode(key).decode() for key in self.keys(tenant, owner)]
