"""Servers of `gcnet demo` in processes of their own, and an HTTP client."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gcnet

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_COMMAND = "import sys; from gcnet import cli; sys.exit(cli.main())"


@dataclass(frozen=True)
class DemoServer:
    """A running server."""

    process: subprocess.Popen[str]
    address: str

    def post(self, path: str, body: bytes, content_type: str = "application/json") -> tuple[int, str]:
        """Status and text of an answer."""
        return self.get(path, data=body, headers={"Content-Type": content_type})

    def get(self, path: str, **options: Any) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.address}{path}", **options)
        try:
            with _DIRECT.open(request, timeout=300) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def upload(self, name: str, content: bytes) -> str:
        """The path that an upload gets on the server."""
        status, text = self.send_file(name, content)
        assert status == 200, text
        return json.loads(text)[0]

    def send_file(self, name: str, content: bytes) -> tuple[int, str]:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        return self.post("/gradio_api/upload", head + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")

    def call(self, endpoint: str, *data: Any) -> Any:
        """The result of an endpoint, or its error as a string."""
        status, text = self.post(f"/gradio_api/call/{endpoint}", json.dumps({"data": data}).encode())
        assert status == 200, text
        _, events = self.get(f"/gradio_api/call/{endpoint}/{json.loads(text)['event_id']}")
        content = json.loads(events.split("data: ", 1)[1].splitlines()[0])
        return content["error"] if "event: error" in events else content[0]

    def send_event(self, function: int, data: list[Any], event: Any = None) -> Any:
        """The result of an event of the page, by the number of its function, or its error as a string."""
        session = uuid.uuid4().hex
        body = {"fn_index": function, "data": data, "event_data": event, "session_hash": session}
        status, text = self.post("/gradio_api/queue/join", json.dumps(body).encode())
        if status != 200:
            return json.loads(text)["detail"]
        _, events = self.get(f"/gradio_api/queue/data?session_hash={session}")
        (completed,) = (line for line in events.splitlines() if "process_completed" in line)
        output = json.loads(completed.removeprefix("data: "))["output"]
        return output["error"] if "error" in output else output["data"]

    def predict(self, name: str, content: bytes, model: str, **options: float) -> Any:
        path = self.upload(name, content)
        return self.call("predict", {"path": path}, model, options.get("topk", 5), options.get("threshold", 0.5))


@contextmanager
def served(*arguments: object, code: str = _COMMAND) -> Generator[DemoServer]:
    """A server of `gcnet demo` on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "demo", *map(str, arguments), "--port", "0"],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("gcnet demo: "):
                break
        else:
            raise AssertionError("".join(lines))
        yield DemoServer(process, lines[-1].split()[2])
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def write_models(folder: Path) -> dict[str, Path]:
    """A classifier with GC blocks, another with a non-local block, and a detector."""
    torch.manual_seed(5)
    paths = {name: folder / f"{name}.safetensors" for name in ("gc", "nl", "detector")}
    for name, block in (("gc", "gc"), ("nl", "nl_embedded_gaussian")):
        model = gcnet.create_model(f"{block}_scenes_resnet")
        for _, parameter in gcnet.context_parameters(model):  # attention that differs between positions
            parameter.data *= 4
        gcnet.save_model(model, paths[name], preprocessing={"image_size": 64, "resize": 73})
    gcnet.save_model(gcnet.create_model("mask_rcnn_gc_scenes_resnet", num_classes=3), paths["detector"])
    return paths
