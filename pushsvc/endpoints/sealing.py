"""What of a request is kept at rest is sealed: AES-256-GCM under keys derived from the service's secret (HKDF,
RFC 5869), each piece bound to its job and its place, so that none can be put elsewhere, left out or read.

The secrets before the present one still open what they have sealed (PUSHSVC_PREVIOUS_SECRETS); what another has
sealed stays closed, and says so.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import JobFailed

_VERSION = b"\x01"
_ID = 8
_NONCE = 12


class Sealed(JobFailed):
    """What was kept of the request can't be opened."""

    code = "sealed"


class Seals:
    """Seals with the first of the secrets; opens with any."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = {_derived(secret, b"id", _ID): AESGCM(_derived(secret, b"seal", 32)) for secret in secrets}
        self._current = _derived(secrets[0], b"id", _ID)
        self._digest_keys = [_derived(secret, b"digest", 32) for secret in secrets]

    def __repr__(self) -> str:
        return f"<Seals of {len(self._keys)} secrets>"

    def seal(self, data: bytes, *place: str) -> bytes:
        """The data, readable only to who has the secret and names the same place."""
        nonce = os.urandom(_NONCE)
        return _VERSION + self._current + nonce + self._keys[self._current].encrypt(nonce, data, _bound(place))

    def open(self, sealed: bytes, *place: str) -> bytes:
        """What was sealed for this place. Raises Sealed, saying why it can't be opened."""
        key = self._keys.get(sealed[1 : 1 + _ID])
        if sealed[:1] != _VERSION or key is None:
            raise Sealed("it was sealed with another secret: PUSHSVC_PREVIOUS_SECRETS lacks it, or never had it")
        start = 1 + _ID + _NONCE
        try:
            return key.decrypt(sealed[1 + _ID : start], sealed[start:], _bound(place))
        except InvalidTag:
            raise Sealed("it was changed, or belongs elsewhere") from None

    def digest(self, *parts: bytes) -> str:
        """A digest by which equal values are known, and from which nobody without the secret can tell them."""
        return _digest(self._digest_keys[0], parts)

    def matches(self, digest: str, *parts: bytes) -> bool:
        """Whether it is the digest of these, under any of the secrets."""
        return any(hmac.compare_digest(digest, _digest(key, parts)) for key in self._digest_keys)


def _digest(key: bytes, parts: Sequence[bytes]) -> str:
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8) + part)
    return mac.hexdigest()


def _derived(secret: str, what: bytes, length: int) -> bytes:
    info = b"pushsvc recorded requests, " + what
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret.encode())


def _bound(place: Sequence[str]) -> bytes:
    return "\x1f".join(place).encode()
