"""Connection strings as they may be printed: what is known to be harmless is shown, all else is `***`.

Not by parsing alone: passwords that should have been percent-encoded or quoted, and were not, are masked too.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"

_SHOWN = re.compile(
    r"""host|hostaddr|port|dbname|database|user|username|service|ssl|sslmode|sslnegotiation|sslrootcert|sslcert|sslkey
    |sslcrl|target_session_attrs|connect_timeout|(fallback_)?application_name|keepalives(_idle|_interval|_count)?
    |tcp_user_timeout|channel_binding|gssencmode|load_balance_hosts
    |db|protocol|client_name|socket_(connect_)?timeout|socket_keepalive|health_check_interval|max_connections
    |retry_on_timeout|ssl_cert_reqs|ssl_ca_certs|ssl_certfile|ssl_keyfile|ssl_check_hostname|sentinel_username""",
    re.VERBOSE,
)
"""Parameters that are no secrets, of libpq and of redis-py."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)
# The user ends at the first colon, the password at the last @: whatever stands between is not shown.
_LOGIN = re.compile(r"([^:?]*):.*@", re.DOTALL)
_PORTS = re.compile(r"((?:\[[0-9A-Fa-f:.%]*\]|:[0-9]{1,5}(?=[,/]|$)|[^:\[])*)(.*)", re.DOTALL)
_PAIR = re.compile(r"(\s*)([^\s=']+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)", re.DOTALL)


def mask_url(text: str) -> str:
    """A URL, or `host=… password=…`, that shows no password wherever one stands."""
    match = _URL.fullmatch(text.strip())
    if match is None:
        return _pairs(text.strip())
    scheme, rest = match.groups()
    login = _LOGIN.match(rest)
    if login is None:
        return scheme + _place(rest)
    user, rest = f"{login[1]}:{MASK}@", rest[login.end() :]
    if "?" in login[0]:
        # The @ may as well have been in a parameter: then what goes on here is the rest of its value.
        _, more, query = rest.partition("&")
        return scheme + user + MASK + more + _parameters(query)
    return scheme + user + _place(rest)


def _place(rest: str) -> str:
    """Hosts, database and parameters; where a port should stand, no password does."""
    place, mark, query = rest.partition("?")
    match = _PORTS.fullmatch(place)
    assert match is not None
    return match[1] + (f":{MASK}" if match[2] else "") + mark + _parameters(query)


def _parameters(query: str) -> str:
    return "&".join(_parameter(part) for part in query.split("&"))


def _parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    if not part or (equals and _SHOWN.fullmatch(unquote(name).lower())):
        return part
    return f"{name}={MASK}" if re.fullmatch(r"[a-z_]{1,30}", name) and "pass" in name else MASK


def _pairs(text: str) -> str:
    """libpq's other form. From the first thing on that is no pair, nothing is shown."""
    shown = ""
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None or (at and not match[1]):
            return f"{shown} {MASK}".strip()
        name = match[2].lower()
        harmless = _SHOWN.fullmatch(name)
        known = harmless or re.fullmatch(r"[a-z_]{0,20}pass[a-z_]{0,10}", name)
        shown += match[0] if harmless else f"{match[1]}{name}={MASK}" if known else f"{match[1]}{MASK}"
        at = match.end()
    return shown
