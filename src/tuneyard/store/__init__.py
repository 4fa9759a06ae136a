"""Object stores: bytes under keys, in a folder or on any S3 server, with manifests that say what is whole.

The room's public face; everything else in it is private. It sits above `errors`, `progress` and `address` alone, and
knows nothing of models, runs or values.
"""

from tuneyard.store.keys import check_relative, split_key, split_prefix
from tuneyard.store.location import STORE_VARIABLE, default_store_url, find_store, open_store
from tuneyard.store.manifest import FileEntry, Kind, Manifest, read_manifest, write_manifest
from tuneyard.store.objects import Digest, ObjectInfo, Store, Stored
from tuneyard.store.transfer import download, hash_file, link_named, pull, upload, upload_tree, verify, verify_folder

__all__ = [
    "STORE_VARIABLE",
    "Digest",
    "FileEntry",
    "Kind",
    "Manifest",
    "ObjectInfo",
    "Store",
    "Stored",
    "check_relative",
    "default_store_url",
    "download",
    "find_store",
    "hash_file",
    "link_named",
    "open_store",
    "pull",
    "read_manifest",
    "split_key",
    "split_prefix",
    "upload",
    "upload_tree",
    "verify",
    "verify_folder",
    "write_manifest",
]
