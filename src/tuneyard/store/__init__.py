"""Object stores: bytes under keys, in a folder or on any S3 server, with manifests that list complete trees of files.

The room's public face; the rest of it is private. It sits above `errors`, `progress` and `address`, and knows nothing
of runs or values.
"""

from tuneyard.store.keys import check_relative, split_key, split_prefix
from tuneyard.store.location import STORE_VARIABLE, configured_store, default_store_url, find_store, open_store
from tuneyard.store.manifest import FileEntry, Kind, Manifest, read_manifest, write_manifest
from tuneyard.store.objects import Digest, ObjectInfo, Store, Stored
from tuneyard.store.parallel import in_parallel
from tuneyard.store.places import (
    MANIFEST,
    OWN_FOLDER,
    Place,
    find_model_manifest,
    place_of_dataset,
    place_of_model,
    place_of_result,
    place_with_journal,
    place_with_manifest,
    places_of_model,
)
from tuneyard.store.s3_settings import S3Settings, read_settings
from tuneyard.store.transfer import download, hash_file, link_named, pull, upload, upload_tree, verify, verify_folder

__all__ = [
    "MANIFEST",
    "OWN_FOLDER",
    "STORE_VARIABLE",
    "Digest",
    "FileEntry",
    "Kind",
    "Manifest",
    "ObjectInfo",
    "Place",
    "S3Settings",
    "Store",
    "Stored",
    "check_relative",
    "configured_store",
    "default_store_url",
    "download",
    "find_model_manifest",
    "find_store",
    "hash_file",
    "in_parallel",
    "link_named",
    "open_store",
    "place_of_dataset",
    "place_of_model",
    "place_of_result",
    "place_with_journal",
    "place_with_manifest",
    "places_of_model",
    "pull",
    "read_manifest",
    "read_settings",
    "split_key",
    "split_prefix",
    "upload",
    "upload_tree",
    "verify",
    "verify_folder",
    "write_manifest",
]
