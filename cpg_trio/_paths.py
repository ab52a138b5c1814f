"""The check of paths for traversal, for every edge that takes a path from a stranger. No I/O."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes


def has_traversal(path: bytes) -> bool:
    """Whether some reader could take a relative path for one outside of the place that it is relative to.

    `path` is as it travels, without the slash before it. It has traversal if it has

    - an empty segment, except for one at its end: some servers merge slashes;
    - a segment `.` or `..` (RFC 3986, section 3.3) once it is decoded, even twice. `%2F` and backslashes end
      segments, as some servers have it, and what follows a `;` is a parameter of its segment;
    - a `#`: what follows it is no part of the path to some readers.

    An encoded slash by itself does no harm.
    """
    if path.startswith(b"/") or b"//" in path or b"#" in path:
        return True
    if b"." not in path and b"%" not in path:
        return False
    segments = re.split(rb"[/\\]", unquote_to_bytes(unquote_to_bytes(path)))
    return any(segment.partition(b";")[0] in (b".", b"..") for segment in segments)
