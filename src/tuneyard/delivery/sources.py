"""The sources of a delivery: the Hub, a local folder, or another place in a store.

All three look alike to the rest of the room: files with their declared sizes and hashes, and their bytes as streams.
Nothing is copied to this machine. A source neither selects files (`selection` does) nor hashes them (`checks` does).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from tuneyard.errors import DeniedError, InvalidValuesError, NotFoundError, Problem
from tuneyard.store import OWN_FOLDER, Store, find_model_manifest, open_store, place_of_model

if TYPE_CHECKING:
    from tuneyard.hub import Hub, HubFile, HubModel

_CHUNK_BYTES = 1024 * 1024
_NOT_CONTENT = frozenset({OWN_FOLDER, ".git", ".cache"})  # folders of tools at the top of a folder or prefix


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a source offers.

    Attributes:
        path: Its path in the source, with `/` between the parts.
        size: Its size in bytes.
        sha256: Its SHA-256 where the source declares it.
        git_blob: Its git blob id where the source declares that instead.
        etag: Its ETag where the source declares neither.
    """

    path: str
    size: int
    sha256: str = ""
    git_blob: str = ""
    etag: str = ""

    @property
    def version(self) -> str:
        """A text that is equal only for equal bytes; empty where the source declares nothing."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        if self.git_blob:
            return f"git:{self.git_blob}"
        return f"etag:{self.etag}" if self.etag else ""


class Source(Protocol):
    """A source of files."""

    @property
    def name(self) -> str:
        """The source, for messages."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """Facts about the source, for the manifest."""
        ...

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Its files, sorted by path."""
        ...

    def read(self, file: SourceFile) -> Iterator[bytes]:
        """Stream one of its files. May be called from several threads."""
        ...


class HubSource:
    """A model on the Hub, pinned to a commit.

    Args:
        hub: The Hub.
        model: The model that `Hub.resolve` returned.
    """

    def __init__(self, hub: Hub, model: HubModel) -> None:
        self._hub, self._model = hub, model
        self._by_path: dict[str, HubFile] = {file.path: file for file in model.files}
        self.name = f"{model.model_id} at {model.commit[:12]}"
        self.about: dict[str, Any] = {
            "kind": "hub",
            "modelID": model.model_id,
            "revision": model.revision,
            "commit": model.commit,
        }
        self.files = tuple(
            SourceFile(path=file.path, size=file.size, sha256=file.sha256 or "", git_blob=file.git_blob or "")
            for file in model.files
            if not is_tool_path(file.path)
        )

    def read(self, file: SourceFile) -> Iterator[bytes]:
        """Stream a file from the pinned commit."""
        return self._hub.read(self._model, self._by_path[file.path])


class FolderSource:
    """A local folder.

    Links to files are followed within the folder and into the Hub's cache, which consists of them. Others are refused:
    with them, a model made by somebody else could copy any file of this machine to a store. Links to folders are not
    followed.

    Args:
        folder: The folder.
        only: Offer only these paths; all where None.
        name: The source, for messages; the folder where empty.
    """

    def __init__(self, folder: Path, *, only: tuple[str, ...] | None = None, name: str = "") -> None:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise NotFoundError(
                f"The source folder '{folder}' {what}.",
                hint="A modelID that begins with ./, ../, ~ or / is a folder; one on the Hub is organisation/name.",
                path=str(folder),
            )
        self._folder = folder
        real = folder.resolve()
        self._within = (real, *([real.parents[1] / "blobs"] if real.parent.name == "snapshots" else []))
        self.name = name or str(folder)
        self.about: dict[str, Any] = {"kind": "folder", "folder": folder.name}
        found = only if only is not None else tuple(_walk(folder))
        for path in found:
            self._check_within(folder / path, (folder / path).resolve())
        self.files = tuple(SourceFile(path=path, size=(folder / path).stat().st_size) for path in sorted(found))

    def read(self, file: SourceFile) -> Iterator[bytes]:
        """Stream a file of the folder."""
        path = self._folder / file.path
        try:
            stream = path.open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(
                f"The file '{path}' no longer exists.", hint="Deliver again.", path=str(path)
            ) from error
        except PermissionError as error:
            raise DeniedError(
                f"The file '{path}' is not readable.", hint=f"Check its owner and mode: ls -l {path}", path=str(path)
            ) from error
        with stream:
            self._check_within(path, _opened(stream, path))
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def _check_within(self, path: Path, real: Path) -> None:
        if not any(place in real.parents for place in self._within):
            raise DeniedError(
                f"The file '{path}' is a link out of its folder, to '{real}'; it was not delivered.",
                hint="If you trust the link, replace it with a copy: cp -L",
                path=str(path),
                target=str(real),
            )


class StoreSource:
    """Another place in a store; where it has a manifest, only the files that it names, with their hashes.

    Args:
        store: The store.
        prefix: The place; ends with a `/`.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self.name = f"{prefix} in {store.url}"
        self.about: dict[str, Any] = {"kind": "store", "store": store.url, "prefix": prefix}
        manifest = find_model_manifest(store, prefix.rstrip("/"))
        if manifest is not None:
            self.about["content_sha256"] = manifest.content_sha256
            files = [SourceFile(path=entry.path, size=entry.size, sha256=entry.sha256) for entry in manifest.files]
        else:
            files = list(self._listed())
        if not files:
            raise NotFoundError(
                f"There is nothing to deliver at '{self.name}'.",
                hint="Check the bucket and the prefix. The form of this modelID is 's3://bucket/prefix'.",
                key=prefix,
            )
        self.files = tuple(sorted((file for file in files if not is_tool_path(file.path)), key=lambda file: file.path))

    def read(self, file: SourceFile) -> Iterator[bytes]:
        """Stream an object."""
        return self._store.read(self._prefix + file.path)

    def _listed(self) -> Iterator[SourceFile]:
        for info in self._store.list(self._prefix):
            path = info.key.removeprefix(self._prefix)
            if info.key == place_of_model(self._prefix.rstrip("/")).journal_key:
                raise NotFoundError(
                    f"The delivery to '{self.name}' has not finished, so the model there is incomplete.",
                    hint="Wait until it has finished, or run that delivery again, then deliver from there.",
                    key=self._prefix,
                )
            yield SourceFile(path=path, size=info.size, etag=info.etag)


def open_source(model_id: str, revision: str, *, store: Store, hub: Callable[[], Hub]) -> Source:
    """Open the source that a `modelID` names.

    Args:
        model_id: `organisation/name` on the Hub; a folder (`./x`, `../x`, `~/x`, `/x`, `file:///x`); `s3://bucket/prefix`
            in the store to deliver to; or `https://host:port/bucket/prefix` on another S3 server.
        revision: A branch, tag or commit on the Hub; empty for the newest one, and for every other source.
        store: The store to deliver to.
        hub: Opens the Hub where it is needed.

    Returns:
        The source, with its files listed.

    Raises:
        InvalidValuesError: The id has none of these forms.
        NotFoundError, DeniedError, UnavailableError: The source is missing, denied or unreachable.
    """
    scheme, separator, rest = model_id.partition("://")
    folder = not separator and model_id.startswith((".", "/", "~"))
    if not separator and not folder:
        opened = hub()
        return HubSource(opened, opened.resolve(model_id, revision))
    if revision:
        raise InvalidValuesError(
            f"The modelRevision '{revision}' pins a model on the Hub, but the modelID '{model_id}' names none.",
            hint="Leave modelRevision empty.",
            problems=[Problem(where="modelRevision", what="applies to models on the Hub alone", value=revision)],
        )
    if folder:
        return FolderSource(Path(os.path.abspath(Path(model_id).expanduser())))  # noqa: PTH100  (links are kept)
    if scheme == "file" and rest.startswith("/"):
        return FolderSource(Path(unquote(rest)))
    if scheme == "s3" and "/" in rest.strip("/"):
        return StoreSource(store, f"{rest.strip('/')}/")
    if scheme in {"http", "https"}:
        parts = urlsplit(model_id)
        prefix = unquote(parts.path).strip("/")
        if parts.hostname and "/" in prefix:
            return StoreSource(open_store(f"{scheme}://{parts.netloc}"), f"{prefix}/")
    allowed = (
        "organisation/name, ./folder, /folder, file:///folder, s3://bucket/prefix, https://host:port/bucket/prefix"
    )
    problem = Problem(where="modelID", what="names no model", value=model_id, allowed=allowed)
    raise InvalidValuesError(
        f"The modelID '{model_id}' names no model.", hint=f"Allowed: {allowed}.", problems=[problem]
    )


def _opened(stream: BinaryIO, path: Path) -> Path:
    """Return the path of the open file where the system reports it; its name may lead elsewhere by now."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{stream.fileno()}"))  # noqa: PTH115  (not a path of ours)
    except OSError:
        return path.resolve()


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        top = Path(parent)
        folders[:] = [name for name in folders if not is_tool_path((top / name).relative_to(folder).as_posix())]
        for name in names:
            path = top / name
            if not path.exists():
                raise NotFoundError(f"The link '{path}' is broken.", hint="Remove it, or restore its target.")
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def is_tool_path(path: str) -> bool:
    """Return whether a path lies in a folder of tools (`.tuneyard`, `.git`), which is not content."""
    return path.partition("/")[0] in _NOT_CONTENT
