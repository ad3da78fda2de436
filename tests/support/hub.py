"""A stand-in for the Hugging Face Hub on the loopback interface, for the real `huggingface_hub` client.

Datasets and models: create, preupload, LFS upload and verify, commit, branches, tree, paths-info, resolve
with ranges. Uploaded LFS objects stay when no commit follows, as on the real Hub. `cut_next_upload` and
`cut_next_download` close the connection in the middle of a file.

```python
with StandInHub() as hub:
    subprocess.run([...], env=apply_environment(hub, os.environ))
    assert "README.md" in hub.repo("user/name").files()
```
`huggingface_hub` reads the endpoint when it is imported, so clients run in processes of their own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "StandInToken" * 3
"""A token of the usual form that this server accepts; requests that change something need it."""


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)}, "initial commit")

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        listing = sorted((path, blob.git) for path, blob in files.items())
        commit = hashlib.sha1(repr((self.name, len(self.commits), listing)).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        self.messages.append(message)
        return commit

    def resolve(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path to content at a branch or commit."""
        return {path: blob.data for path, blob in self.commits[self.resolve(revision) or ""].items()}


class StandInHub:
    """The server; a context manager. `requests` lists (method, path) of all that was asked."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploaded: list[str] = []
        self.sent = 0
        """Bytes of files that were sent."""
        self._busy: list[int] = []
        self.arrived = threading.Event()
        self.lock = threading.Lock()
        self._cuts: dict[str, list[int]] = {"PUT": [], "GET": []}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str | None]:
        """What a client needs in its environment; None means that the variable must not be there."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": None,
            "HF_DATASETS_OFFLINE": None,
            "TRANSFORMERS_OFFLINE": None,
        }

    def repo(self, name: str, kind: str = "dataset") -> Repo:
        return self.repos[kind, name]

    def publish(
        self, name: str, folder: Path, branch: str = "main", card: str = "", kind: str = "dataset"
    ) -> str:
        """A folder's files as a commit of a public dataset, as if somebody had uploaded them long ago."""
        repo = self.repos.setdefault((kind, name), Repo(kind, name))
        files = {
            path.relative_to(folder).as_posix(): Blob(path.read_bytes(), path.suffix in (".parquet", ".zip"))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        if card:
            files["README.md"] = Blob(f"---\n{card}\n---\n".encode(), False)
        return repo.commit(branch, files, "upload")

    def cut_next_upload(self, after: int, times: int = 1) -> None:
        """Close the connection of the next upload of a file larger than `after` bytes once they have come.

        Not before another file has arrived: uploads go side by side, in no certain order.
        """
        self._cuts["PUT"] += [after] * times

    def cut_next_download(self, after: int, times: int = 1) -> None:
        """The same for a download."""
        self._cuts["GET"] += [after] * times

    def be_busy(self, *statuses: int) -> None:
        """Answer the next requests with these states, and the wish to be asked again at once."""
        self._busy += statuses

    def take_busy(self) -> int | None:
        with self.lock:
            return self._busy.pop(0) if self._busy else None

    def mend(self) -> None:
        """No more cuts."""
        for cuts in self._cuts.values():
            cuts.clear()

    def take_cut(self, method: str, size: int) -> int | None:
        with self.lock:
            cuts = self._cuts[method]
            return cuts.pop(0) if cuts and size > cuts[0] else None


class _Failure(Exception):
    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class _Cut(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        self._received: bytes | None = None
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
        try:
            busy = self.hub.take_busy()
            if busy:
                raise _Failure(busy, "TooManyRequests", "come back later")
            for method, pattern, function in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split("|"):
                    return function(self, query=query, **match.groupdict())
            raise _Failure(404, "NotFound", f"no such endpoint: {self.command} {path}")
        except _Failure as failure:
            self._body()
            self._json({"error": str(failure)}, failure.status, {"X-Error-Code": failure.code})
        except _Cut:
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    # Requests

    def _body(self) -> bytes:
        """The whole body, read before any answer: the connection goes on after it."""
        if self._received is None:
            self._received = self._receive()
        return self._received

    def _receive(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _payload(self) -> Any:
        body = self._body()
        if self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            return parse_qs(body.decode())
        return json.loads(body or b"{}")

    def _authorise(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Failure(401, "Unauthorized", f"Invalid credentials: {self.headers.get('Authorization')}")

    def _find(self, kind: str, name: str) -> Repo:
        repo = self.hub.repos.get((kind.rstrip("s"), name))
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise _Failure(404, "RepoNotFound", "Repository not found")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.resolve(revision)
        if commit is None:
            raise _Failure(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # Answers

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, body: bytes, status: int, headers: dict[str, str], size: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.take_cut("GET", len(body)) if "X-Repo-Commit" in headers else None
        with self.hub.lock:
            self.hub.sent += len(body) if "X-Repo-Commit" in headers else 0
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            raise _Cut

    # Endpoints

    def who(self, query: Any) -> None:
        self._authorise()
        self._json({"type": "user", "name": "user", "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def create(self, query: Any) -> None:
        payload = self._payload()
        self._authorise()
        kind = payload.get("type") or "model"
        name = f"{payload.get('organization') or 'user'}/{payload['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        private = payload.get("private") or payload.get("visibility") == "private"
        self.hub.repos[kind, name] = Repo(kind, name, bool(private))
        self._json({"url": url, "name": name, "id": name})

    def yaml(self, query: Any) -> None:
        self._payload()
        self._json({"errors": [], "warnings": []})

    def info(self, kind: str, name: str, query: Any, revision: str = "main") -> None:
        repo = self._find(kind, name)
        commit = self._commit(repo, revision)
        files = repo.commits[commit]
        card = files["README.md"].data.decode().split("---\n") if "README.md" in files else []
        siblings = [
            {"rfilename": path, **({"size": len(b.data)} if query else {})} for path, b in files.items()
        ]
        self._json(
            {"_id": "0", "id": name, "modelId": name, "author": name.split("/")[0], "sha": commit}
            | {"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
            | {"tags": [], "siblings": siblings, "lastModified": "2026-01-01T00:00:00.000Z"}
            | {
                "createdAt": "2026-01-01T00:00:00.000Z",
                "cardData": yaml.safe_load(card[1]) if len(card) > 2 else {},
            }
        )

    def branch(self, kind: str, name: str, branch: str, query: Any) -> None:
        payload = self._payload()
        self._authorise()
        repo = self._find(kind, name)
        if branch in repo.branches:
            self._json({"error": "Reference already exists"}, 409)
            return
        repo.branches[branch] = self._commit(repo, payload.get("startingPoint") or "main")
        self._json({})

    def refs(self, kind: str, name: str, query: Any) -> None:
        repo = self._find(kind, name)
        heads = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
            for branch, commit in repo.branches.items()
        ]
        self._json({"branches": heads, "tags": [], "converts": []})

    def preupload(self, kind: str, name: str, revision: str, query: Any) -> None:
        payload = self._payload()
        self._authorise()
        files = self._find(kind, name).commits[self._commit(self._find(kind, name), revision)]
        answer = []
        for item in payload["files"]:
            binary = b"\0" in base64.b64decode(item["sample"])
            large = item["path"].endswith((".parquet", ".safetensors", ".bin")) or binary
            old = files.get(item["path"])
            oid = {"oid": old.sha256 if old.lfs else old.git} if old else {}
            mode = "lfs" if large or item["size"] > 10 << 20 else "regular"
            answer.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        self._json({"files": answer, "commitOid": self._find(kind, name).resolve(revision)})

    def lfs_batch(self, name: str, query: Any, kind: str | None = None) -> None:
        payload = self._payload()
        self._authorise()
        self._find(kind or "model", name)
        objects = []
        for item in payload["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/objects/{item['oid']}"},
                    "verify": {"href": f"{self.hub.url}/verify"},
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str, query: Any) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        cut = self.hub.take_cut("PUT", size)
        if cut is not None:
            self.rfile.read(cut)
            self.hub.arrived.wait(30)
            raise _Cut
        data = self._body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Failure(400, "BadRequest", "the content has another hash")
        self.hub.objects[oid] = data
        self.hub.uploaded.append(oid)
        self.hub.arrived.set()
        self._json({})

    def verify(self, query: Any) -> None:
        payload = self._payload()
        if len(self.hub.objects.get(payload["oid"], b"")) != payload["size"]:
            raise _Failure(422, "Unprocessable", "the object is not there")
        self._json({})

    def commit(self, kind: str, name: str, revision: str, query: Any) -> None:
        lines = [json.loads(line) for line in self._body().splitlines() if line]
        self._authorise()
        repo = self._find(kind, name)
        files = dict(repo.commits[self._commit(repo, revision)])
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Failure(400, "BadRequest", f"{value['path']} was not uploaded")
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                raise _Failure(400, "BadRequest", f"unknown operation {line['key']}")
        commit = repo.commit(revision, files, message)
        self._json(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"}
        )

    def tree(self, kind: str, name: str, revision: str, query: Any, path: str | None = None) -> None:
        repo = self._find(kind, name)
        files = repo.commits[self._commit(repo, revision)]
        prefix = f"{path}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        for file, blob in sorted(files.items()):
            rest = file.removeprefix(prefix)
            if not file.startswith(prefix):
                continue
            for depth in range(1, len(rest.split("/"))):
                folder = prefix + "/".join(rest.split("/")[:depth])
                found.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40})
            found[file] = _entry(file, blob)
        if prefix and not found:
            raise _Failure(404, "EntryNotFound", f"{path} does not exist on {revision}")
        if query.get("recursive", "false").lower() != "true":
            found = {name: entry for name, entry in found.items() if "/" not in name.removeprefix(prefix)}
        self._json(list(found.values()))

    def paths_info(self, kind: str, name: str, revision: str, query: Any) -> None:
        paths = self._payload().get("paths", [])
        repo = self._find(kind, name)
        files = repo.commits[self._commit(repo, revision)]
        answer = []
        for path in [paths] if isinstance(paths, str) else paths:
            if path in files:
                answer.append(_entry(path, files[path]))
            elif any(file.startswith(f"{path}/") for file in files):
                answer.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        self._json(answer)

    def content(self, name: str, revision: str, path: str, query: Any, kind: str | None = None) -> None:
        repo = self._find(kind or "model", name)
        commit = self._commit(repo, revision)
        blob = repo.commits[commit].get(path)
        if blob is None:
            raise _Failure(404, "EntryNotFound", f"{path} does not exist on {revision}")
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{blob.sha256 if blob.lfs else blob.git}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if blob.lfs:
            headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": headers["ETag"]}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            self._send(blob.data, 200, headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(blob.data) - 1), len(blob.data) - 1)
        if start >= len(blob.data):
            raise _Failure(416, "RangeNotSatisfiable", "the range is outside the file")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.data)}"
        self._send(blob.data[start : end + 1], 206, headers)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.git}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}
    return entry


_API = r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+/[^/]+)"
_PLAIN = r"/((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.who),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.yaml),
    ("GET", _API, _Handler.info),
    ("GET", _API + r"/revision/(?P<revision>.+)", _Handler.info),
    ("GET", _API + r"/refs", _Handler.refs),
    ("POST", _API + r"/branch/(?P<branch>.+)", _Handler.branch),
    ("POST", _API + r"/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", _API + r"/commit/(?P<revision>.+)", _Handler.commit),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", _Handler.tree),
    ("POST", _API + r"/paths-info/(?P<revision>.+)", _Handler.paths_info),
    ("POST", _PLAIN + r"\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/objects/(?P<oid>[0-9a-f]+)", _Handler.upload),
    ("POST", r"/verify", _Handler.verify),
    ("GET|HEAD", _PLAIN + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.content),
]


def apply_environment(hub: StandInHub, environ: dict[str, str]) -> dict[str, str]:
    """A copy of `environ` for a client process of this hub."""
    made = dict(environ)
    for name, value in hub.environment().items():
        made.pop(name, None)
        if value is not None:
            made[name] = value
    return made
