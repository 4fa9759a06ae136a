"""Which places are private: by rules, tried on a home, a workspace and variables such as people have."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tuneyard.sandbox import private_places


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A home with a workspace in it: `work/project/inner`, where the user is."""
    (tmp_path / "home" / "work" / "project" / "inner").mkdir(parents=True)
    return tmp_path / "home"


def private(user: Path, environ: dict[str, str] | None = None, given: dict[str, str] | None = None) -> set[Path]:
    """Find the private places below the home's parent, for a user in `inner`."""
    known = {"HOME": str(user), **(given or {}), **(environ or {})}
    found = private_places(known, given or {}, current=user / "work" / "project" / "inner")
    return {path for path in found if user.parent in path.parents}


def write(path: Path, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("canary")
    path.chmod(mode)
    return path


def is_hidden(path: Path, places: set[Path]) -> bool:
    return any(place in (path, *path.parents) for place in places)


def test_hidden_entries_of_the_home_and_of_every_folder_above_the_current_one(user: Path) -> None:
    hidden = [write(user / name) for name in (".netrc", ".aws/credentials", "work/project/.env", "work/.git/config")]
    shown = [write(user / name) for name in ("notes.txt", "work/data.jsonl", "other/.env", "work/project/inner/a")]
    places = private(user)
    assert all(is_hidden(path, places) for path in hidden)
    assert not any(is_hidden(path, places) for path in shown)


NAMED = {
    "a path": "{place}",
    "a path with a slash": "{place}/",
    "one of several": "/nowhere:{place}:/elsewhere",
    "a URL": "file://{place}",
    "a URL of a database": "sqlite:///{place}",
    "a kind and a path": "FILE:{place}",
    "an option": "--key={place} --verbose",
    "a command": "ssh -i {place}/key -o X=y",
    "a setting": "unix:path={place},guid=1",
    "a quoted word": "-D'{place}'",
    "from here": "../../../secret place",
    "from here, of several": "nothing:../../../secret place",
}


@pytest.mark.parametrize("text", NAMED.values(), ids=list(NAMED))
def test_what_a_variable_names_in_whatever_form(user: Path, text: str) -> None:
    place = user / ("secret place" if "secret place" in text or "/nowhere" in text else "secret")
    write(place / "key")
    places = private(user, {"ANY_NAME": text.format(place=place)})
    assert is_hidden(place / "key", places)
    given = private(user, given={"ANY_NAME": text.format(place=place)})
    assert not is_hidden(place / "key", given)


@pytest.mark.parametrize(("name", "text"), [("HF_HOME", "hub"), ("KUBECONFIG", "kube.yaml"), ("TUNEYARD_HOME", "./s")])
def test_a_variable_that_names_a_place_of_the_current_folder(user: Path, name: str, text: str) -> None:
    here = user / "work" / "project" / "inner"
    place = write(here / text) if "." in Path(text).name else write(here / text / "token")
    assert is_hidden(place, private(user, {name: text}))


def test_a_word_that_happens_to_be_the_name_of_a_folder_hides_nothing(user: Path) -> None:
    data = write(user / "work" / "project" / "inner" / "data" / "rows.jsonl")
    assert not is_hidden(data, private(user, {"USER": "data", "MODE": "data", "STAGE": "other:data"}))


def test_a_place_around_the_current_folder_or_a_program_is_hidden_but_for_those(user: Path) -> None:
    """`HF_HOME=/scratch/me` while the user is in `/scratch/me/project`, with programs in `/scratch/me/bin`."""
    token = write(user / "work" / "token")
    beside = write(user / "work" / "project" / "state" / "api-key")
    kept = [write(user / "work" / name) for name in ("bin/tool", "project/inner/rows.jsonl")]
    places = private(user, {"HF_HOME": str(user / "work")}, given={"PATH": f"/usr/bin:{user}/work/bin"})
    assert is_hidden(token, places)
    assert is_hidden(beside, places)
    assert not any(is_hidden(path, places) for path in kept)


@pytest.mark.parametrize("name", ["HOME_OF_ALL", "PROJECT_ROOT"])
def test_a_variable_that_names_the_home_or_the_current_folder_hides_neither(user: Path, name: str) -> None:
    rows = write(user / "rows.jsonl"), write(user / "work" / "project" / "inner" / "rows.jsonl")
    for place in (user, user / "work" / "project" / "inner", Path("/"), Path("/tmp"), Path("/usr/lib")):
        places = private_places({"HOME": str(user), name: str(place)}, {}, current=rows[1].parent)
        assert not any(is_hidden(path, set(places)) for path in (*rows, Path("/usr/lib/x"), Path("/etc/hosts")))


def test_where_links_in_private_places_lead(user: Path) -> None:
    """As programs that keep dotfiles in a folder of their own make them."""
    kept = user / "dotfiles"
    netrc, aws, hosts = write(kept / "netrc"), write(kept / "aws-credentials"), write(kept / "gh" / "hosts.yml")
    (user / ".aws").mkdir()
    (user / ".config").mkdir()
    (user / ".netrc").symlink_to(netrc)
    (user / ".aws" / "credentials").symlink_to(aws)
    (user / ".config" / "gh").symlink_to(hosts.parent)
    (user / ".config" / "all").symlink_to("/")
    (user / ".here").symlink_to(user / "work" / "project" / "inner")
    (user / ".loop").symlink_to(user / ".loop")
    places = private(user)
    assert all(is_hidden(path, places) for path in (netrc, aws, hosts))
    assert not is_hidden(write(kept / "README"), places)
    assert not is_hidden(user / "work" / "project" / "inner" / "rows.jsonl", places)
    assert Path("/") not in private_places({"HOME": str(user)}, {}, current=user)


def test_the_certificates_of_authorities_stay_readable_whatever_names_them(user: Path) -> None:
    names = ("AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "GIT_SSL_CAINFO")
    environ = {**dict.fromkeys(names, "/etc/ssl/certs/ca-certificates.crt"), "HOME": str(user), "X": "/etc/ssl/private"}
    found = private_places(environ, {}, current=user)
    assert not [path for path in found if path.parts[:4] == ("/", "etc", "ssl", "certs")]
    assert Path("/etc/ssl/private") in found


def test_files_of_the_temporary_folder_that_only_their_owner_may_read(user: Path) -> None:
    with tempfile.TemporaryDirectory(dir=user.parent) as temporary:
        ticket, data = write(Path(temporary) / "krb5cc_1000", 0o600), write(Path(temporary) / "rows.jsonl")
        places = private(user, {"TMPDIR": temporary})
        assert (is_hidden(ticket, places), is_hidden(data, places)) == (True, False)
    with tempfile.NamedTemporaryFile(prefix="krb5cc_", dir="/tmp") as file:
        assert Path(file.name).resolve() in private_places({"HOME": str(user)}, {}, current=user)


def test_no_place_is_listed_that_lies_in_another(user: Path) -> None:
    write(user / ".config" / "gh" / "hosts.yml")
    environ = {"A": str(user / ".config" / "gh"), "B": str(user / ".config" / "gh" / "hosts.yml"), **os.environ}
    found = private_places({**environ, "HOME": str(user)}, {}, current=user)
    assert not [path for path in found if any(above in found for above in path.parents)]


def test_the_program_s_own_home_in_a_private_place_opens_nothing_beside_it(user: Path) -> None:
    """What comes to be there while the program runs is hidden too, since the whole place is."""
    write(user / ".local" / "share" / "tuneyard" / "work" / "home" / "x")
    found = private_places({"HOME": str(user)}, {"HOME": str(user / ".local/share/tuneyard/work/home")}, current=user)
    assert user / ".local" in found
