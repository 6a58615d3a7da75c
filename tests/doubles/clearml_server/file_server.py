"""The file server: POST takes the parts of a form, each named by its path; GET, with ranges, and DELETE."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .faults import Faults
from .web import Handler

ACTION_OF = {"POST": "upload", "PUT": "upload", "GET": "download", "HEAD": "download", "DELETE": "delete"}


def file_handler(folder: Path, faults: Faults) -> type[Handler]:
    root = folder.resolve()

    def inside(path: str) -> Path | None:
        """The file that a path means; None for one outside the folder."""
        target = (root / unquote(path).lstrip("/")).resolve()
        return target if target.is_relative_to(root) and target != root else None

    class FileHandler(Handler):
        def handle_any(self) -> None:
            """A fault strikes before the content is read: an upload that hangs is one that nobody takes."""
            fault = faults.take(f"files.{ACTION_OF[self.command]}")
            if fault:
                fault.wait()
                if fault.cut == "before":
                    self.cut()
                    return
            content = self.content()
            if fault and fault.status:
                self._text(fault.status)
                return
            self._asked(content, cut=bool(fault and fault.cut))

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def _asked(self, content: bytes, cut: bool) -> None:
            path = urlsplit(self.path).path
            if cut:
                if self.command == "POST":
                    self._store_parts(content)
                self.cut()
            elif self.command == "POST":
                self._upload(content)
            elif path == "/":
                self._text(200, b"OK")
            elif self.command == "PUT":
                self._text(200 if self._store(path, content) else 404)
            else:
                self._read_or_delete(inside(path))

        def _read_or_delete(self, target: Path | None) -> None:
            if target is None or not target.is_file():
                self._text(404)
            elif self.command == "DELETE":
                target.unlink()
                self._text(200, b"OK")
            else:
                self._download(target.read_bytes())

        def _download(self, data: bytes) -> None:
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if not asked:
                self.reply(200, data, "application/octet-stream")
                return
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            part = data[first : last + 1]
            self.reply(206, part, "application/octet-stream", Content_Range=f"bytes {first}-{last}/{len(data)}")

        def _upload(self, content: bytes) -> None:
            saved = self._store_parts(content)
            if saved is None:
                self._text(400, b"a multipart form with paths inside the folder is expected")
            else:
                self.reply(200, json.dumps(saved).encode(), "application/json")

        def _store_parts(self, content: bytes) -> list[str] | None:
            """Returns the paths that were written; None when this is no form or a path leaves the folder."""
            boundary = re.search(r'boundary="?([^";]+)', self.headers.get("Content-Type") or "")
            if not boundary:
                return None
            saved = []
            for part in content.split(b"--" + boundary[1].encode())[1:-1]:
                head, _, data = part.lstrip(b"\r\n").partition(b"\r\n\r\n")
                name = re.search(r'(?<!file)name="([^"]*)"', head.decode("utf-8", "replace"))
                if name and name[1]:
                    if not self._store(name[1], data[:-2]):
                        return None
                    saved.append(name[1].lstrip("/"))
            return saved

        def _store(self, path: str, data: bytes) -> bool:
            target = inside(path)
            if target is None:
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            return True

        def _text(self, status: int, data: bytes = b"") -> None:
            self.reply(status, data, "text/plain")

    return FileHandler
