"""A hub on this machine: what huggingface_hub asks of one when a repository is written.

Written after the requests that huggingface_hub 2.4 makes (hf_api.py, _commit_api.py, lfs.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "hf_aTokenThatNobodyMaySee"
#: Files in one page of a listing; a real hub has 1000.
PAGE = 4


@dataclass
class Repo:
    private: bool
    sdk: str | None
    commits: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    #: The places that are large files.
    large: set[str] = field(default_factory=set)
    #: Title of the commit that made it.
    first: str = "initial commit"

    @property
    def card(self) -> Any:
        """What stands on top of its README.md."""
        parts = self.files.get("README.md", b"").decode().split("---\n")
        return yaml.safe_load(parts[1]) if len(parts) > 2 else None

    @property
    def head(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Hub:
    """Repositories by `spaces/ORG/NAME`, every request, and what is to go wrong."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    #: Answer a request that matches the pattern with this status, so many times.
    faults: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Answer a request that matches the pattern only after so many seconds.
    delays: dict[str, float] = field(default_factory=dict)
    message: str = "no, said the hub"
    #: Commits that somebody else makes right before ours.
    others: int = 0

    def asked(self, pattern: str) -> list[str]:
        return [r for r in self.requests if re.search(pattern, r)]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request("GET")

    def do_POST(self) -> None:
        self.handle_request("POST")

    def do_PUT(self) -> None:
        self.handle_request("PUT")

    def handle_request(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        request = f"{method} {url.path}"
        self.hub.requests.append(request)
        for pattern, seconds in self.hub.delays.items():
            if re.search(pattern, request):
                time.sleep(seconds)
        for pattern, (status, times) in list(self.hub.faults.items()):
            if re.search(pattern, request) and times:
                self.hub.faults[pattern] = status, times - 1
                return self.answer(status, {"error": self.hub.message})
        if method == "PUT":  # the storage behind the hub: its links need no token
            self.hub.blobs[hashlib.sha256(body).hexdigest()] = body
            return self.answer(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        return self.answer(*self.route(url.path, parse_qs(url.query), body))

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client did not wait

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[Any, ...]:
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            front = yaml.safe_load(content.split("---\n")[1])
            return 200, {"errors": [], "warnings": [] if isinstance(front, dict) else [{}]}
        batch = re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path)
        if batch:
            return 200, {"objects": [self.upload(o) for o in json.loads(body)["objects"]]}
        found = re.fullmatch(r"/api/((?:spaces|datasets)/[^/]+/[^/]+)(?:/(\w+)/(\w+))?", path)
        repo = self.hub.repos.get(found[1]) if found else None
        if repo is None or found is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        match found[2]:
            case None:
                name = found[1].partition("/")[2]
                told = {"id": name, "sha": repo.head, "private": repo.private}
                return 200, told | {"cardData": repo.card}
            case "commits":
                titles = [c["summary"] for c in reversed(repo.commits)] + [repo.first]
                return 200, [_commit_info(title) for title in titles]
            case "tree":
                return self.tree(repo, found[3], query)
            case "preupload":
                files = [self.mode(repo, f) for f in json.loads(body)["files"]]
                return 200, {"files": files}
            case "commit":
                return self.commit(found[1], repo, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": path}

    def create(self, wanted: dict[str, Any]) -> tuple[Any, ...]:
        key = f"{wanted['type']}s/{wanted['organization']}/{wanted['name']}"
        url = f"{self.hub.url}/{key}"
        if key in self.hub.repos:
            return 409, {"error": "You already created this repo", "url": url}
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        made = Repo(private, wanted.get("sdk"))
        made.files = {".gitattributes": b"*.gz filter=lfs\n", "README.md": b"---\n---\n"}
        if made.sdk == "static":
            made.files |= {"index.html": b"<p>hello", "style.css": b"p {}"}
        self.hub.repos[key] = made
        return 200, {"url": url}

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        told = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in self.hub.blobs:
            return told
        return told | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}

    def tree(self, repo: Repo, revision: str, query: dict[str, list[str]]) -> tuple[Any, ...]:
        if revision not in (repo.head, "main"):
            return 404, {"error": "no such revision"}
        start = int(query.get("cursor", ["0"])[0])
        every = sorted(repo.files)
        listed = [{"type": "directory", "path": "results", "oid": "0" * 40, "size": 0}]
        for place in every[start : start + PAGE]:
            data = repo.files[place]
            item = {"type": "file", "path": place, "size": len(data), "oid": _blob(data)}
            if place in repo.large:
                sha256 = hashlib.sha256(data).hexdigest()
                item |= {"oid": "1" * 40, "lfs": {"oid": sha256, "size": len(data)}}
                item["lfs"]["pointerSize"] = 130
            listed.append(item)
        if start + PAGE >= len(every):
            return 200, listed
        page = f"{self.hub.url}{self.path.partition('?')[0]}?cursor={start + PAGE}&recursive=True"
        return 200, listed, {"Link": f'<{page}>; rel="next"'}

    def mode(self, repo: Repo, wanted: dict[str, Any]) -> dict[str, Any]:
        large = wanted["path"].endswith(".gz")
        mode = "lfs" if large else "regular"
        return {"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False}

    def commit(self, key: str, repo: Repo, lines: list[dict[str, Any]]) -> tuple[Any, ...]:
        for _ in range(self.hub.others):
            repo.commits.append({"summary": "somebody else's"})
        head, *rest = lines
        if head["value"].get("parentCommit") not in (None, repo.head):
            return 412, {"error": "the branch has moved"}
        for line in rest:
            value = line["value"]
            match line["key"]:
                case "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.hub.blobs:
                        return 400, {"error": "no such object"}
                    repo.files[value["path"]] = self.hub.blobs[value["oid"]]
                    repo.large.add(value["path"])
                case "deletedFile":
                    del repo.files[value["path"]]
        repo.commits.append({**head["value"], "lines": rest})
        told = {"commitUrl": f"{self.hub.url}/{key}/commit/{repo.head}", "commitOid": repo.head}
        return 200, {**told, "pullRequestUrl": None}


def _commit_info(title: str) -> dict[str, Any]:
    moment = "2026-01-01T00:00:00.000Z"
    return {"id": "0" * 40, "title": title, "message": "", "authors": [], "date": moment}


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers on 127.0.0.1 until the block ends."""
    hub = Hub()
    handler = type("Own", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield hub
        server.shutdown()
