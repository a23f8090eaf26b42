"""Rewrite source distributions so that the same sources give the same bytes: sorted, with one time and one owner.

``python .ci/same_bytes.py dist/*.tar.gz``. For wheels ``SOURCE_DATE_EPOCH`` does the same; setuptools ignores it for
source distributions.
"""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path


def rewrite(path: Path, epoch: int) -> None:
    """Rewrite the file in place. ``epoch``: the time of every member, in seconds since 1970."""
    content = io.BytesIO()
    with tarfile.open(path) as before, tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as after:
        for member in sorted(before.getmembers(), key=lambda each: each.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() else 0o644
            member.pax_headers = {}
            after.addfile(member, before.extractfile(member) if member.isfile() else None)
    path.write_bytes(gzip.compress(content.getvalue(), mtime=epoch))


for name in sys.argv[1:]:
    rewrite(Path(name), int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")))
