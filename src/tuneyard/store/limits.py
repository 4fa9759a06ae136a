"""How much memory and how many connections a transfer uses.

A stream uses at most `STREAM_PARTS` x `PART_BYTES`, so `PARALLEL_FILES` files at once cost about 200 MiB. Parts of
16 MiB reach S3's limit of 10,000 parts at 156 GiB, more than any single file of a model.
"""

from __future__ import annotations

CHUNK_BYTES = 1024 * 1024
"""The size of a chunk of a stream."""

PART_BYTES = 16 * 1024 * 1024
"""The size of one part of a multipart upload."""

STREAM_PARTS = 3
"""How many parts of one stream are uploaded at once."""

PARALLEL_FILES = 4
"""How many files are transferred at once."""
