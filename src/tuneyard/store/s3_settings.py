"""An S3 server's settings from the environment: endpoint, region, credentials, certificate authorities, proxy.

obstore reads most `AWS_*` names by itself. What it does not read and other clients do (`AWS_PROFILE`, `AWS_CA_BUNDLE`,
`AWS_MAX_ATTEMPTS`) is translated here, and the authorities in `TUNEYARD_CA_FILE` are trusted where that file exists.
Unsupported settings that would change where bytes are sent are refused by name. Nothing is contacted.
"""

from __future__ import annotations

import configparser
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from tuneyard.address import parse_address
from tuneyard.errors import DeniedError, InvalidValuesError, NotFoundError, Problem
from tuneyard.whereabouts import assignment, fitting, setting

_TRUE = {"1", "true", "yes", "on"}

# each would send bytes elsewhere or unprotected, or has no meaning for a server with buckets in its path
_REFUSED = (
    "AWS_S3_EXPRESS",
    "AWS_UNSIGNED_PAYLOAD",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
)
_READ_BY_OBSTORE = (
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_NOT_STATIC = ("credential_process", "credential_source", "role_arn", "sso_account_id", "sso_session", "sso_start_url")


@dataclass(frozen=True, slots=True)
class AccessKeys:
    """Static credentials, left out of every repr."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False, default=None)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach one S3 server.

    Attributes:
        endpoint: `https://host:port` or `http://host:port`; empty for AWS.
        region: The region that requests are signed for.
        keys: Static credentials; None where obstore finds others (web identity, container, instance).
        ca: Certificate authorities to trust besides the system's, as PEM.
        proxy_url: The environment's proxy where the endpoint must bypass it; empty where the environment's own rules
            apply.
        max_retries: How often a request is retried once the server has been reached.
    """

    endpoint: str
    region: str
    keys: AccessKeys | None
    ca: bytes | None = field(repr=False)
    proxy_url: str
    max_retries: int

    @property
    def host(self) -> str:
        """The endpoint's host, without its port."""
        return urlsplit(self.endpoint).hostname or ""


def read_settings(endpoint: str, environ: Mapping[str, str], ca_bundle: Path | None) -> S3Settings:
    """Read an S3 server's settings.

    Args:
        endpoint: `https://host:port` or `http://host:port`; empty to take it from `environ`.
        environ: The environment.
        ca_bundle: A PEM file that takes precedence over `AWS_CA_BUNDLE`.

    Raises:
        InvalidValuesError: A setting is not supported, or can't be read.
        DeniedError: There are no credentials, or half of them.
        NotFoundError: The CA bundle or the profile does not exist.
    """
    _refuse(environ)
    profile = _profile(environ)
    endpoint = endpoint or _endpoint(environ, profile)
    return S3Settings(
        endpoint=endpoint,
        region=environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or profile.get("region")
        or "us-east-1",  # the default of servers other than AWS
        keys=_keys(environ, profile, endpoint),
        ca=_authorities(ca_bundle or environ.get("AWS_CA_BUNDLE") or profile.get("ca_bundle"), environ),
        proxy_url=_proxy_to_bypass(endpoint),
        max_retries=_retries(environ),
    )


def _refuse(environ: Mapping[str, str]) -> None:
    wrong = [name for name in _REFUSED if environ.get(name, "").lower() in _TRUE]
    if environ.get("AWS_CONDITIONAL_PUT", "etag") != "etag":
        wrong.append("AWS_CONDITIONAL_PUT")
    if wrong:
        raise InvalidValuesError(
            f"Tuneyard does not support {' and '.join(wrong)} for its object store.",
            hint=fitting(
                f"Unset it: unset {' '.join(wrong)}", f"Remove it from the values: {', '.join(map(setting, wrong))}."
            ),
            problems=[Problem(where=name, what="is not supported", value=environ[name]) for name in wrong],
        )


def _endpoint(environ: Mapping[str, str], profile: Mapping[str, str]) -> str:
    """Return the endpoint that the environment names for `s3://`; empty for AWS."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    named = [(name, environ.get(name, "")) for name in names]
    for name, text in (*named, ("the AWS profile's endpoint_url", profile.get("endpoint_url", ""))):
        if text:
            endpoint = parse_address(text, named_by=name).endpoint
            if not endpoint:
                raise InvalidValuesError(
                    f"{name} is '{text}', which is not the endpoint of an S3 server.",
                    hint="Set it to https://HOST:PORT.",
                )
            return endpoint
    return ""


def _keys(environ: Mapping[str, str], profile: Mapping[str, str], endpoint: str) -> AccessKeys | None:
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return AccessKeys(key, secret, environ.get("AWS_SESSION_TOKEN") or None)
    if key or secret:
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise DeniedError(
            f"{missing} is not set, but the other half of the credentials for '{endpoint or 'AWS'}' is.",
            hint=f"Set it: {assignment(missing, '…')}",
        )
    if any(environ.get(name) for name in _READ_BY_OBSTORE) or environ.get("AWS_SKIP_SIGNATURE", "").lower() in _TRUE:
        return None
    key, secret = profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")
    if key and secret:
        return AccessKeys(key, secret, profile.get("aws_session_token") or None)
    if any(profile.get(name) for name in _NOT_STATIC):
        name = profile["name"]
        raise DeniedError(
            f"The AWS profile '{name}' has no static keys, and Tuneyard reads no others.",
            hint=f'Export them as keys: eval "$(aws configure export-credentials --profile {name} --format env)"',
        )
    if not endpoint and environ.get("AWS_EC2_METADATA_DISABLED", "").lower() not in _TRUE:
        return None  # on AWS, the machine itself may have a role
    raise DeniedError(
        f"There are no credentials for the object store '{endpoint or 'AWS'}'.",
        hint=fitting(
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
            f"Name the Secret with its keys: {assignment('AWS_ACCESS_KEY_ID', '')}",
        ),
    )


def _profile(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Read the profile from both AWS files; `name` is added."""
    named = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    name = named or "default"
    folder = Path(environ.get("HOME") or os.path.expanduser("~")) / ".aws"  # noqa: PTH111  (Path.home raises)
    config = Path(environ.get("AWS_CONFIG_FILE") or folder / "config").expanduser()
    credentials = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials").expanduser()
    in_config = _section(config, name if name == "default" else f"profile {name}")
    in_credentials = _section(credentials, name)
    if in_config is None and in_credentials is None:
        if named:
            raise NotFoundError(
                f"There is no AWS profile '{named}' in '{credentials}' or '{config}'.",
                hint=f"List them: aws configure list-profiles; or remove {setting('AWS_PROFILE')}.",
                profile=named,
            )
        return {}
    return {**(in_config or {}), **(in_credentials or {}), "name": name}


def _section(path: Path, name: str) -> Mapping[str, str] | None:
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DeniedError(f"The file '{path}' is not readable.", hint=f"Check it: ls -l {path}") from error
    except (configparser.Error, UnicodeDecodeError):
        # from None: the parser's own message quotes the line, and that may be a secret
        raise InvalidValuesError(
            f"The file '{path}' does not hold AWS profiles.", hint="Correct or remove it."
        ) from None
    return dict(parser[name]) if parser.has_section(name) else None


def _authorities(bundle: str | Path | None, environ: Mapping[str, str]) -> bytes | None:
    """Return the authorities that the user configured, and the site's where their file exists."""
    site = environ.get("TUNEYARD_CA_FILE")
    known = [_certificates(bundle), _certificates(site) if site and Path(site).is_file() else None]
    return b"\n".join(pem for pem in known if pem) or None


def _certificates(path: str | Path | None) -> bytes | None:
    if not path:
        return None
    path = Path(path).expanduser()
    try:
        pem = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(
            f"There is no CA bundle '{path}'.", hint=f"Correct or remove {setting('AWS_CA_BUNDLE')}.", path=str(path)
        ) from error
    except PermissionError as error:
        raise DeniedError(f"The CA bundle '{path}' is not readable.", hint=f"Check it: ls -l {path}") from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise InvalidValuesError(
            f"The CA bundle '{path}' contains no PEM certificate.", hint="Use a file with BEGIN CERTIFICATE lines."
        )
    return pem


def _proxy_to_bypass(endpoint: str) -> str:
    """Return the environment's proxy where the endpoint is this machine, which no proxy can reach."""
    parts = urlsplit(endpoint)
    if not parts.hostname or not is_loopback(parts.hostname):
        return ""
    proxies = getproxies_environment()  # of the process, since that is what the HTTP client reads
    return proxies.get(parts.scheme, "") or proxies.get("all", "")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name or address alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retries(environ: Mapping[str, str]) -> int:
    text = environ.get("AWS_MAX_ATTEMPTS")
    if not text:
        return 10
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise InvalidValuesError(f"AWS_MAX_ATTEMPTS is '{text}'.", hint="Set it to a number from 1 to 100.")
    return int(text) - 1
