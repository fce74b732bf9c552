"""Signatures: as Standard Webhooks has them, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc import verify_webhook
from pushsvc.errors import BadSignature, SettingsError
from pushsvc.webhooks import SigningSecrets, sign
from pushsvc.webhooks.signature import key_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "webhooks.json").read_text())
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
MASTER = "a secret for tests only, 32 chars"


def signed(body: bytes = b'{"a":1}', timestamp: int = 1000, secrets: tuple[str, ...] = (SECRET,)) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign("evt_1", timestamp, body, map(key_of, secrets)),
    }


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda vector: vector["title"])
def test_signatures_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    keys = [key_of(secret) for secret in vector["secrets"]]
    assert sign(vector["id"], vector["timestamp"], vector["body"].encode(), keys) == vector["signature"]


@pytest.mark.parametrize("text", VECTORS["malformed"])
def test_what_is_no_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        key_of(text)
    assert text.removeprefix("whsec_") not in str(caught.value) or not text.removeprefix("whsec_")


@given(st.binary(min_size=24, max_size=64), st.text(), st.integers(0, 2**40))
def test_what_was_signed_is_verified_whatever_it_says(key: bytes, text: str, timestamp: int) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps(text).encode()
    headers = {
        "Webhook-Id": "evt_1",
        "WEBHOOK-TIMESTAMP": str(timestamp),
        "webhook-signature": sign("evt_1", timestamp, body, [key]),
    }
    assert verify_webhook(headers, body, secret, now=timestamp) == text


@pytest.mark.parametrize("secrets", [[SECRET], [OTHER, SECRET], (SECRET, OTHER), {SECRET}])
def test_one_secret_in_common_is_enough_on_either_side(secrets: Any) -> None:
    assert verify_webhook(signed(), b'{"a":1}', secrets, now=1000) == {"a": 1}
    assert verify_webhook(signed(secrets=(OTHER, SECRET)), '{"a":1}', SECRET, now=1000) == {"a": 1}


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "evt_2"},
        {"webhook-timestamp": "1001"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1,\xe9"},
        {"webhook-signature": sign("evt_1", 1000, b'{"a":1}', [key_of(OTHER)])},
        {"webhook-signature": "v1a," + sign("evt_1", 1000, b'{"a":1}', [key_of(SECRET)])[3:]},
    ],
    ids=str,
)
def test_a_signature_that_does_not_fit_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        verify_webhook(signed() | changed, b'{"a":1}', SECRET, now=1000)


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify_webhook(signed(), b'{"a": 1}', SECRET, now=1000)


@pytest.mark.parametrize("lacking", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(lacking: str) -> None:
    headers = {name: value for name, value in signed().items() if name != lacking}
    with pytest.raises(BadSignature, match=lacking):
        verify_webhook(headers, b'{"a":1}', SECRET, now=1000)


@pytest.mark.parametrize("now", [1301, 699])
def test_an_attempt_of_another_time_is_refused(now: float) -> None:
    with pytest.raises(BadSignature, match="time"):
        verify_webhook(signed(), b'{"a":1}', SECRET, now=now)
    assert verify_webhook(signed(), b'{"a":1}', SECRET, now=now, tolerance=301) == {"a": 1}


@pytest.mark.parametrize("timestamp", ["", "x", "1e3", "nan"])
def test_a_time_that_is_none_is_refused(timestamp: str) -> None:
    with pytest.raises(BadSignature):
        verify_webhook(signed() | {"webhook-timestamp": timestamp}, b'{"a":1}', SECRET, now=1000)


# The service's secrets ----------------------------------------------------------------------------


def test_given_secrets_sign_everything_the_first_one_first() -> None:
    secrets = SigningSecrets([SECRET, OTHER], MASTER)
    assert secrets.shared
    assert secrets.keys("a", "me") == secrets.keys("", "") == (key_of(SECRET), key_of(OTHER))
    assert secrets.shown("a", "me") == [SECRET, OTHER]


def test_without_them_each_owner_has_one_of_its_own_that_stays_the_same() -> None:
    secrets = SigningSecrets([], MASTER)
    owners = [("", ""), ("a", ""), ("a", "me"), ("a", "you"), ("b", "me"), ("am", "e")]
    shown = [secrets.shown(*owner)[0] for owner in owners]
    assert len(set(shown)) == len(owners)
    assert shown == [SigningSecrets([], MASTER).shown(*owner)[0] for owner in owners]
    assert all(len(key_of(secret)) == 32 for secret in shown)
    assert SigningSecrets([], MASTER + "!").shown("a", "me") != secrets.shown("a", "me")
    assert MASTER not in repr(secrets)


@pytest.mark.parametrize("given", [["whsec_hunter2"], [SECRET, "hunter2"]])
def test_malformed_settings_are_named_and_not_shown(given: list[str]) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_WEBHOOK_SECRETS") as caught:
        SigningSecrets(given, MASTER)
    assert "hunter2" not in str(caught.value)


def test_nothing_to_sign_with_is_refused() -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_SECRET"):
        SigningSecrets([], None)
