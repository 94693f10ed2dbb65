"""What a source is called in messages, names and results, and which addresses may be opened.

A camera's address holds its password: as user name, in the query (`?token=...`), in the fragment, or in the
path (`/user=admin&password=...`). Everything that prints an address prints what `public_name` makes of it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from edgedet.contract.errors import SourceError

PROTOCOLS = (
    "rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "http", "https", "srt", "udp", "tcp", "rtp", "file",
)  # fmt: skip
"""What a source's address may begin with. FFmpeg knows more (`subfile:`, `concat:`, `cache:`, ...), some of
which read other files than the one that is named."""

_HIDDEN = "***"
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\[\]:@\s\\]+)?(?::\d{0,5})?")
_SECRET_KEY = re.compile(
    r"pass|pwd|psw|token|auth|secret|session|user|login|cred|(?<![a-z])(?:pw|key|code|pin|sig|sid|usr)(?![a-z])",
    re.I,
)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.~-]{20,}")


def is_url(text: str) -> bool:
    """Whether a source's name is an address rather than a path."""
    return "://" in text


def scheme(url: str) -> str:
    """What stands before "://", in lower case."""
    return url.partition("://")[0].lower()


def check_url(url: str) -> None:
    """Raises SourceError: the protocol may not be opened, or the address is malformed."""
    if scheme(url) not in PROTOCOLS:
        raise SourceError(
            f"The protocol of {public_name(url)} cannot be opened.",
            hint=f"What can be opened: {', '.join(f'{p}://' for p in PROTOCOLS)}.",
        )
    host = _authority(url.partition("://")[2]).rpartition("@")[2]
    nobody = not host.partition(":")[0] and scheme(url) not in ("file", "udp", "rtp", "tcp", "srt")
    if nobody or (scheme(url) != "file" and not _HOST.fullmatch(host)):
        raise SourceError(
            f"{public_name(url)} is not a valid address.",
            hint="Write / ? # @ : [ ] in a user name or password as %2F %3F %23 %40 %3A %5B %5D.",
        )


def public_name(location: object) -> str:
    """An address without anything that may be secret, fit for logs and results; a path as it is.

    User names, passwords, fragments, and the values in queries and paths are left out, but for short numbers
    ("channel=1"). Of an address that is malformed, so that its password cannot be told from its host, only
    the protocol is left.
    """
    text = str(location)
    if not is_url(text):
        return re.sub(r"^/*[^/@]*:[^@]*@", f"{_HIDDEN}@", text)  # user:password@host, its protocol forgotten
    start, _, rest = text.partition("://")
    start = start if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", start) else _HIDDEN
    if start.lower() == "file":
        return text
    host = _host(text)
    if host is None:
        return f"{start}://{_HIDDEN}"
    tail = rest[len(_authority(rest)) :]
    path, query, fragment = re.fullmatch(r"([^?#]*)(\?[^#]*)?(#.*)?", tail, re.S).groups(default="")  # type: ignore[union-attr]
    shown = f"{start}://{host}{_public_path(unquote(path))}{_public_query(unquote(query))}"
    shown += f"#{_HIDDEN}" if len(fragment) > 1 else ""
    return "".join(c if c.isprintable() else "?" for c in shown)


def _authority(rest: str) -> str:
    return re.split(r"[/?#]", rest, maxsplit=1)[0]


def _host(url: str) -> str | None:
    """host[:port]; None where it cannot be told from a password that was not percent-encoded."""
    rest = url.partition("://")[2]
    authority = _authority(rest)
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host):
        return None
    # user:12/34@host: "user:12" is no host
    later = "@" in re.split(r"\?\w+=", rest[len(authority) :], maxsplit=1)[0]
    return None if later and ":" in authority else host


def _public_path(path: str) -> str:
    shown: list[str] = []
    key = ""
    for part in path.split("/"):
        if _SECRET_KEY.search(key) or _RANDOM.fullmatch(part):
            shown.append(_HIDDEN if part else "")
        elif "=" in part:
            shown.append("&".join(_public_pair(pair) for pair in re.split(r"[&;]", part)))
        else:  # user:password
            shown.append(_HIDDEN if ":" in part else part)
        key = part
    return "/".join(shown)


def _public_query(query: str) -> str:
    return query[:1] + "&".join(_public_pair(pair) for pair in re.split(r"[&;]", query[1:]))


def _public_pair(pair: str) -> str:
    key, equals, value = pair.partition("=")
    if not equals:
        return _HIDDEN if pair else ""
    harmless = re.fullmatch(r"\d{1,3}", value) and not _SECRET_KEY.search(key)
    return f"{key}={value if harmless else _HIDDEN}"
