"""Settings of an S3 server from the environment: used, translated, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.errors import DeniedError, InvalidValuesError, NotFoundError
from tuneyard.store import open_store
from tuneyard.store.s3_settings import S3Settings, read_settings

KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
URL = "https://store.example:9000"


def read(home: Path, endpoint: str = URL, ca_bundle: Path | None = None, **environ: str) -> S3Settings:
    return read_settings(endpoint, {"HOME": str(home), **environ}, ca_bundle)


def write_profiles(home: Path, credentials: str = "", config: str = "") -> None:
    (home / ".aws").mkdir()
    (home / ".aws/credentials").write_text(credentials)
    (home / ".aws/config").write_text(config)


def test_keys_and_region_come_from_the_environment(tmp_path: Path) -> None:
    settings = read(tmp_path, **KEYS, AWS_SESSION_TOKEN="a-token", AWS_REGION="eu-west-1")
    assert settings.keys
    assert (settings.keys.access_key_id, settings.keys.secret_access_key) == ("an-id", "hush-hush")
    assert settings.keys.session_token == "a-token"
    assert settings.region == "eu-west-1"
    assert read(tmp_path, **KEYS, AWS_DEFAULT_REGION="eu-west-2").region == "eu-west-2"
    assert read(tmp_path, **KEYS).region == "us-east-1"


def test_the_repr_of_settings_has_no_secret(tmp_path: Path) -> None:
    assert "hush-hush" not in repr(read(tmp_path, **KEYS))


def test_the_endpoint_of_s3_takes_precedence_over_the_general_one(tmp_path: Path) -> None:
    general = {"AWS_ENDPOINT_URL": "https://general.example"}
    special = {"AWS_ENDPOINT_URL_S3": "http://special.example:9000"}
    assert read(tmp_path, "", **KEYS, **general, **special).endpoint == "http://special.example:9000"
    assert read(tmp_path, "", **KEYS, **general).endpoint == "https://general.example"
    assert read(tmp_path, "", **KEYS).endpoint == ""
    assert read(tmp_path, URL, **KEYS, **general, **special).endpoint == URL


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://x", "https://", "https://x/path", "https://x?y=z", "https://x:port", "minio:9000", "/a/folder", "s3://"],
)
def test_an_invalid_endpoint_is_refused(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(InvalidValuesError, match="AWS_ENDPOINT_URL"):
        read(tmp_path, "", **KEYS, AWS_ENDPOINT_URL=endpoint)


def test_an_endpoint_with_credentials_is_refused_without_repeating_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidValuesError, match=r"store\.example") as caught:
        read(tmp_path, "", **KEYS, AWS_ENDPOINT_URL="https://me:hush-hush@store.example")
    assert "hush-hush" not in caught.value.message + caught.value.hint


def test_a_profile_sets_keys_region_and_endpoint(tmp_path: Path) -> None:
    write_profiles(
        tmp_path,
        "[lab]\naws_access_key_id = lab-id\naws_secret_access_key = 100%sure\naws_session_token = t\n",
        "[profile lab]\nregion = eu-north-1\nendpoint_url = https://lab.example\ns3 =\n  addressing_style = path\n",
    )
    settings = read(tmp_path, "", AWS_PROFILE="lab")
    assert settings.keys
    assert (settings.keys.access_key_id, settings.keys.secret_access_key) == ("lab-id", "100%sure")
    assert (settings.region, settings.endpoint) == ("eu-north-1", "https://lab.example")
    from_environment = read(tmp_path, "", AWS_PROFILE="lab", **KEYS)
    assert from_environment.keys
    assert from_environment.keys.access_key_id == "an-id"


def test_the_default_profile_is_used_without_a_variable(tmp_path: Path) -> None:
    write_profiles(tmp_path, "[default]\naws_access_key_id = i\naws_secret_access_key = s\n")
    settings = read(tmp_path)
    assert settings.keys
    assert settings.keys.access_key_id == "i"


def test_profiles_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("[lab]\naws_access_key_id = i\naws_secret_access_key = s\n")
    settings = read(tmp_path, AWS_PROFILE="lab", AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "mine"))
    assert settings.keys


def test_a_missing_profile_is_not_found(tmp_path: Path) -> None:
    write_profiles(tmp_path, "[lab]\naws_access_key_id = i\naws_secret_access_key = s\n")
    with pytest.raises(NotFoundError, match="no AWS profile 'lap' "):
        read(tmp_path, AWS_PROFILE="lap")


@pytest.mark.parametrize("kind", ["sso_session = x", "role_arn = arn:x", "credential_process = /bin/x"])
def test_a_profile_without_static_keys_hints_how_to_export_them(tmp_path: Path, kind: str) -> None:
    write_profiles(tmp_path, config=f"[profile lab]\n{kind}\n")
    with pytest.raises(DeniedError, match="profile 'lab' has no static keys") as caught:
        read(tmp_path, AWS_PROFILE="lab")
    assert "export-credentials --profile lab" in caught.value.hint


def test_an_invalid_file_of_profiles_is_reported_without_its_text(tmp_path: Path) -> None:
    write_profiles(tmp_path, "hush-hush\n")
    with pytest.raises(InvalidValuesError, match="does not hold AWS profiles") as caught:
        read(tmp_path, AWS_PROFILE="lab")
    assert "hush-hush" not in caught.value.message + caught.value.hint
    assert caught.value.__suppress_context__  # the parser's error quotes the line


@pytest.mark.parametrize("left_out", KEYS)
def test_half_of_the_credentials_is_reported_with_the_missing_name(tmp_path: Path, left_out: str) -> None:
    with pytest.raises(DeniedError, match=f"{left_out} is not set"):
        read(tmp_path, **{name: value for name, value in KEYS.items() if name != left_out})


def test_missing_credentials_are_denied_before_any_request(tmp_path: Path) -> None:
    with pytest.raises(DeniedError, match=r"no credentials for the object store .https://store\.example:9000"):
        open_store(URL, environ={"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"},
        {"AWS_SKIP_SIGNATURE": "true"},
    ],
)
def test_credentials_that_obstore_finds_itself_are_left_to_it(tmp_path: Path, environ: dict[str, str]) -> None:
    assert read(tmp_path, **environ).keys is None


def test_on_aws_the_machines_role_is_used_unless_disabled(tmp_path: Path) -> None:
    assert read(tmp_path, "").keys is None
    with pytest.raises(DeniedError):
        read(tmp_path, "", AWS_EC2_METADATA_DISABLED="true")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ("AWS_USE_FIPS_ENDPOINT", "1"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "TRUE"),
        ("AWS_UNSIGNED_PAYLOAD", "true"),
        ("AWS_S3_EXPRESS", "true"),
        ("AWS_CONDITIONAL_PUT", "disabled"),
        ("AWS_MAX_ATTEMPTS", "many"),
        ("AWS_MAX_ATTEMPTS", "0"),
    ],
)
def test_an_unsupported_setting_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidValuesError, match=name):
        read(tmp_path, **KEYS, **{name: value})


def test_unsupported_settings_that_are_off_are_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, **KEYS, AWS_USE_FIPS_ENDPOINT="false", AWS_CONDITIONAL_PUT="etag", AWS_MAX_ATTEMPTS="3")
    assert read(tmp_path, **KEYS, AWS_MAX_ATTEMPTS="3").max_retries == 2


def test_a_ca_bundle_comes_from_the_argument_or_the_environment(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.pem", tmp_path / "other.pem"
    mine.write_text("-----BEGIN CERTIFICATE-----\nmine")
    other.write_text("-----BEGIN CERTIFICATE-----\nother")
    assert read(tmp_path, **KEYS).ca is None
    assert read(tmp_path, **KEYS, AWS_CA_BUNDLE=str(other)).ca == other.read_bytes()
    assert read(tmp_path, ca_bundle=mine, **KEYS, AWS_CA_BUNDLE=str(other)).ca == mine.read_bytes()


def test_an_invalid_ca_bundle_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nothing\.pem"):
        read(tmp_path, **KEYS, AWS_CA_BUNDLE=str(tmp_path / "nothing.pem"))
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----")
    with pytest.raises(InvalidValuesError, match=r"key\.pem. contains no PEM certificate"):
        read(tmp_path, **KEYS, AWS_CA_BUNDLE=str(tmp_path / "key.pem"))


def test_a_proxy_of_the_environment_is_bypassed_only_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert read(tmp_path, **KEYS).proxy_url == ""
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert read(tmp_path, f"https://{host}:9000", **KEYS).proxy_url == "http://proxy.example:3128"
