"""The text that names an object store: a server's URL or a folder.

The command line, `TUNEYARD_STORE`, values and Python are all parsed here. A text that is neither a URL nor clearly a
path is refused: `minio:9000` would otherwise become a folder of that name. Nothing is contacted, and the disk is read
only to check whether a folder of a bare name exists. `store.location` opens the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.whereabouts import setting

ALLOWED = (
    "https://host:port or http://host:port (any S3 server), s3:// (AWS, or AWS_ENDPOINT_URL), file:///folder, "
    "or a path: /folder, ./folder, ~/folder"
)

_BROKEN_SCHEME = re.compile(r"(https?|s3|file)(?::/?|//)(?!/)", re.IGNORECASE)
_HOST = re.compile(r"localhost|\[[0-9a-f:]+\]|[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9._-]+):\d{1,5}", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """The address of a store.

    Attributes:
        folder: The folder, absolute; None for a server.
        endpoint: `https://host:port` or `http://host:port`; empty for a folder, and for `s3://`, whose endpoint the
            environment defines.
    """

    folder: Path | None = None
    endpoint: str = ""


def parse_address(text: str, *, named_by: str = "store") -> StoreAddress:
    """Parse the text that names a store.

    Args:
        text: `https://host:port`, `http://host:port`, `s3://`, `file:///folder`, or a path that begins with `/`, `./`,
            `../` or `~` or is the name of an existing folder.
        named_by: The option, variable or key that holds the text, for messages.

    Returns:
        The store's address; a relative path is resolved against the current folder.

    Raises:
        InvalidValuesError: The text is none of these, or contains credentials, which no message repeats.
    """
    if text != text.strip() or _CONTROL.search(text):
        raise _refused(text, named_by, "has control characters, or spaces around it", text.strip())
    if "://" in text:
        return _of_url(text, named_by)
    if _is_clearly_a_path(text):
        return StoreAddress(folder=_absolute(text, named_by))
    if re.fullmatch(r"[^/]+:[^/]*@.+", text):
        raise _with_credentials(text, named_by)
    raise _refused(text, named_by, "is neither a URL nor clearly a path" if text else "is empty", _meant(text))


def _of_url(text: str, named_by: str) -> StoreAddress:
    try:
        parts = urlsplit(text)
        has_credentials = "@" in parts.netloc
        _ = parts.port
    except ValueError:
        parts, has_credentials = None, "@" in text
    if has_credentials:
        raise _with_credentials(text, named_by)
    if parts is None or any(character.isspace() for character in parts.netloc):
        raise _refused(text, named_by, "is not a URL")
    more = bool(parts.path not in {"", "/"} or parts.query or parts.fragment)
    if parts.scheme == "file":
        if parts.netloc in {"", "localhost"} and parts.path.startswith("/") and not (parts.query or parts.fragment):
            return StoreAddress(folder=Path(unquote(parts.path)))
        rest = text.partition("://")[2]
        meant = rest if rest.startswith(("~", ".")) else Path(rest).absolute().as_uri()
        raise _refused(text, named_by, "is not the URL of a local folder", meant)
    if parts.scheme == "s3":
        if parts.netloc or more:
            raise _refused(text, named_by, "names a bucket instead of a store", "s3://")
        return StoreAddress()
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _refused(text, named_by, "is not the URL of a store")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    server = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    if more:
        raise _refused(text, named_by, "names more than a server", server)
    return StoreAddress(endpoint=server)


def _is_clearly_a_path(text: str) -> bool:
    if text in {".", ".."} or text.startswith(("./", "../", "~")):
        return True
    if text.startswith("/"):
        return not text.startswith("//")  # a URL without its scheme
    return bool(text) and ":" not in text and Path(text).is_dir()


def _absolute(text: str, named_by: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise _refused(text, named_by, "names the home of an unknown user", f"./{text}") from None


def _meant(text: str) -> str:
    """Guess the intended URL or path of a bare text; empty for an empty text."""
    if broken := _BROKEN_SCHEME.match(text):
        scheme, rest = broken[1].lower(), text[broken.end() :]
        return Path("/", rest).as_uri() if scheme == "file" else f"{scheme}://{'' if scheme == 's3' else rest}"
    host = text.lstrip("/").partition("/")[0]
    if text.startswith("//") or _HOST_AND_PORT.fullmatch(host) or _HOST.fullmatch(host):
        return f"https://{host}"
    return f"./{text}" if text else ""


def _refused(text: str, named_by: str, what: str, meant: str = "") -> InvalidValuesError:
    problem = Problem(named_by, what, repr(text)[:200], ALLOWED, meant)
    hint = "The bucket is not part of the store: it is the first part of each key."
    if meant.startswith("https://") and "http" not in text.lower():
        hint = f"For a server without TLS, write http{meant[5:]}; for a folder, ./{text.lstrip('/')}."
    elif meant.startswith("./"):
        hint = "For a server, write https://HOST:PORT."
    end = "" if meant else "."
    return InvalidValuesError(f"The object store can't be used: {problem}{end}", hint=hint, problems=[problem])


def _with_credentials(text: str, named_by: str) -> InvalidValuesError:
    host = text.rpartition("@")[2].partition("/")[0]
    return InvalidValuesError(
        f"The object store can't be used: {named_by} contains credentials, before '{host}'.",
        hint=f"Remove them: keys come from {setting('AWS_ACCESS_KEY_ID')} and {setting('AWS_SECRET_ACCESS_KEY')}.",
    )
