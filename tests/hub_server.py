"""A Hugging Face Hub on this machine: repositories in memory, with the requests that huggingface_hub makes."""

import base64
import hashlib
import http.server
import json
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from file_server import running_server

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)")
_LFS = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repository:
    """Files by commit, the newest last.

    Attributes:
        private: whether it needs the token.
        commits: files by name, by commit.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files, and return the new commit."""
        before = list(self.commits.values())[-1] if self.commits else {}
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = before | files
        return name

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch or a commit."""
        return revision if revision in self.commits else list(self.commits)[-1] if revision == "main" else None


@dataclass
class HubServer:
    """State and answers of the server.

    Attributes:
        repositories: by name.
        token: that gives access.
        status: of all answers, if not 0.
        sent_bytes: of a file before the connection breaks; None for all.
        declared: size of files in the headers; None for the true one.
        requests: method and path of each request.
        url: of the server.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_right"
    status: int = 0
    sent_bytes: int | None = None
    declared: int | None = None
    requests: list[str] = field(default_factory=list)
    url: str = ""
    uploads: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Add a commit to a repository, which is created."""
        return self.repositories.setdefault(name, Repository(private)).commit(files)

    def fetched(self) -> list[str]:
        """Return the names of the files that were downloaded."""
        paths = [line.partition(" ")[2] for line in self.requests if line.startswith("GET ")]
        return [match[3] for path in paths if (match := _RESOLVE.fullmatch(path))]


class _Handler(http.server.BaseHTTPRequestHandler):
    state: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.state.sent_bytes if "ETag" in headers else None
        with suppress(ConnectionError):
            self.wfile.write(body[:limit])
        self.close_connection = True

    def _is_refused(self) -> bool:
        self.state.requests.append(f"{self.command} {self.path}")
        if self.state.status:
            self._answer(self.state.status)
        return bool(self.state.status)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.state.token}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._is_refused():
            return
        match = _RESOLVE.fullmatch(unquote(self.path))
        repository = self.state.repositories.get(match[1]) if match else None
        if match is None or repository is None or (repository.private and not self._has_token()):
            return self._answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        commit = repository.find(match[2])
        if commit is None:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        content = repository.commits[commit].get(match[3])
        if content is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        size = len(content) if self.state.declared is None else self.state.declared
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(200, content, ETag=etag, X_Repo_Commit=commit, Content_Length=str(size))

    def do_PUT(self) -> None:
        if self._is_refused():
            return
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.state.uploads[hashlib.sha256(content).hexdigest()] = content
        self._answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._is_refused():
            return
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._has_token():
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := _LFS.fullmatch(self.path):
            return self._answer(200, self._batch(json.loads(body)))
        match = _MODEL.fullmatch(self.path)
        if match is None or match[1] not in self.state.repositories:
            return self._answer(404, X_Error_Code="RepoNotFound")
        if match[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            return self._answer(200, {"files": modes})
        commit = self._commit(self.state.repositories[match[1]], body)
        url = f"{self.state.url}/{match[1]}/commit/{commit}"
        self._answer(200, {"commitUrl": url, "commitOid": commit, "success": True})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        status = 409 if name in self.state.repositories else 200
        is_private = wanted.get("private") or wanted.get("visibility") == "private"
        if status == 200:
            self.state.add(name, {".gitattributes": b""}, private=bool(is_private))
        self._answer(status, {"url": f"{self.state.url}/{name}", "name": name})

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.state.url}/upload/{item['oid']}"}}}
            for item in wanted["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repository: Repository, body: bytes) -> str:
        files: dict[str, bytes] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.state.uploads[value["oid"]]
        return repository.commit(files)


@contextmanager
def hub_served() -> Generator[HubServer]:
    """Run a Hub in a thread."""
    state = HubServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with running_server(handler) as state.url:
        yield state
