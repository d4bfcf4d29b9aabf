"""Training lists that cannot be read: left out, written down, and counted up to a limit."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from unirank_jax.content import ContentError


class Quarantine:
    """The lists that this process has left out; kept in a file, so that a resumed run counts on.

    May be used from several threads.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """path: a file of JSON lines {"qid", "error"}. limit: lists at most; 0 = none at all."""
        self.path, self.limit = path, limit
        self._lock = threading.Lock()
        self.qids: set[str] = set()
        if path.exists():
            whole, end, torn = path.read_text(encoding="utf-8").rpartition("\n")
            if torn:  # the process died while writing it
                path.write_text(whole + end, encoding="utf-8")
            self.qids = {json.loads(line)["qid"] for line in whole.splitlines()}

    def leave_out(self, qid: str, error: ContentError) -> None:
        """Count a list out.

        Raises:
            ContentError: the limit is passed; the error itself, with the setting that raises it.
        """
        with self._lock:
            if qid in self.qids:
                return
            if len(self.qids) >= self.limit:
                known = f"; {self.limit} are left out already, see {self.path}" * bool(self.limit)
                raise ContentError(
                    f"{error} (or let data.bad_lists lists like this one be left out{known})"
                ) from error
            self.qids.add(qid)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"qid": qid, "error": str(error)}) + "\n")
