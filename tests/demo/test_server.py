"""The server of `gcnet demo` in a process of its own: HTTP API, refused requests, end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import gcnet
from demo.demo_server import DemoServer, served
from demo.hostile_files import READABLE, REFUSED, encoded, photo
from gcnet.demo.server import running_server
from gcnet.demo.settings import DemoSettings
from gcnet.errors import UserError

pytest.importorskip("gradio")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DOCS = (Path(__file__).parents[2] / "docs" / "demo.md").read_text()
NO_UPLOAD = "the server opens neither URLs nor other files"
PHOTO = encoded(photo(96, 64), "PNG")


def test_the_api_gives_the_prediction_of_the_library(server: DemoServer, models: dict[str, Path]) -> None:
    result = server.predict("my photo.png", PHOTO, "nl.safetensors", topk=3)
    (expected,) = gcnet.load(models["nl"], device="cpu")(photo(96, 64), topk=3).images
    assert result == {"model": "nl.safetensors", "image": "my photo.png", "classes": expected.to_dict()["classes"]}


def test_the_api_gives_the_attention_of_a_point(server: DemoServer) -> None:
    image = {"path": server.upload("photo.png", PHOTO)}
    shared = server.call("attention", image, "gc.safetensors", 0.5, 0.5)
    assert shared["layers"] == server.call("attention", image, "gc.safetensors", 0.3, 0.6)["layers"] or all(
        layer["shared"] for layer in shared["layers"]
    )
    (layer,) = server.call("attention", image, "nl.safetensors", 0.25, 0.5)["layers"]
    assert not layer["shared"] and layer["grid"] == [16, 16]
    values = [value for row in layer["attention"] for value in row]
    assert sum(values) / len(values) == pytest.approx(1, rel=1e-3)  # ratios to uniform attention
    assert "the network sees x from 0.202" in server.call("attention", image, "nl.safetensors", 0.0, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model", 5, 0.5), 'unknown model "model"'),
        (("gc.safetensors", "many", 0.5), "topk must be a number, found 'many'"),
        (("gc.safetensors", 0, 0.5), "topk must be at least 1, found 0"),
    ],
)
def test_an_invalid_argument_is_one_sentence(server: DemoServer, arguments: tuple, message: str) -> None:
    assert message in server.call("predict", {"path": server.upload("photo.png", PHOTO)}, *arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_one_sentence(server: DemoServer, name: str) -> None:
    content, reason = REFUSED[name]
    image = {"path": server.upload(name, content)}
    for endpoint, options in (("predict", (5, 0.5)), ("attention", (0.5, 0.5))):
        message = server.call(endpoint, image, "gc.safetensors", *options)
        assert isinstance(message, str) and reason in message and "gcnet-demo-" not in message


@pytest.mark.parametrize("name", READABLE)
def test_an_unusual_image_has_a_prediction(server: DemoServer, name: str) -> None:
    assert len(server.predict(name, READABLE[name], "gc.safetensors")["classes"]) == 5


def test_an_image_over_the_limits_is_one_sentence(server: DemoServer) -> None:
    status, text = server.send_file("large.png", encoded(photo(400, 300), "PNG"))
    assert status == 413 and "over the limit of 200,000 bytes" in text
    plain = encoded(photo(2, 2).resize((1001, 1000)), "PNG", optimize=True)
    assert "1001x1000 pixels, over the limit of 1 megapixels" in server.predict("wide.png", plain, "gc.safetensors")


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/a.png", "file:///etc/passwd"])
def test_paths_and_urls_of_clients_are_not_opened(server: DemoServer, path: str) -> None:
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "gc.safetensors", 5, 0.5]}
    for route in ("call/predict", "call/attention", "queue/join"):
        status, text = server.post(f"/gradio_api/{route}", json.dumps(data).encode())
        assert status == 400 and NO_UPLOAD in text
    status, text = server.get(f"/gradio_api/file={path}")
    assert status in (403, 404) and "root:" not in text


def test_a_url_in_place_of_a_path_is_not_opened(server: DemoServer) -> None:
    image = {"path": None, "url": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}
    answer = server.call("predict", image, "gc.safetensors", 5, 0.5)
    assert answer is None or "no such upload" in answer


def test_a_request_cannot_pass_the_queue(server: DemoServer) -> None:
    data = json.dumps({"data": [{"path": server.upload("photo.png", PHOTO)}, 5, 0.5], "fn_index": 2}).encode()
    status, text = server.post("/gradio_api/run/predict", data)
    assert status == 404 and "does not accept direct HTTP POST requests" in text


def test_model_files_and_other_routes_of_gradio_are_not_served(server: DemoServer, models: dict[str, Path]) -> None:
    assert server.get(f"/gradio_api/file={models['gc']}")[0] == 403
    for path in ("/gradio_api/proxy=http://127.0.0.1:9/", "/monitoring", "/docs", "/gradio_api/deep_link"):
        assert server.get(path)[0] == 404


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_documented_commands_run(server: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(photo(), "JPEG"))
    commands = [line for line in DOCS.splitlines() if line.startswith("curl ")]
    values = {"http://127.0.0.1:7860": server.address, "MODEL": "gc.safetensors"}
    output, environment = "", os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    for command in commands:
        for word, value in values.items():
            command = command.replace(word, value)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        output = done.stdout
        if "upload" in command:
            values["UPLOADED"] = json.loads(output)[0]
        elif "event_id" in output:
            values["EVENT_ID"] = json.loads(output)["event_id"]
    assert len(commands) == 3 and "event: complete" in output and '"probability"' in output


def test_the_documented_python_example_runs(server: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(photo(), "JPEG"))
    (example,) = re.findall(r"```python[^\n]*\n(.*?)```", DOCS, re.DOTALL)
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    code = example.replace("http://127.0.0.1:7860", server.address)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "probability" in done.stdout and "layer1.0" in done.stdout


def test_a_full_queue_is_one_sentence(models: dict[str, Path]) -> None:
    with served(models["detector"], "--queue", 1) as server:
        data = {"data": [{"path": server.upload("photo.png", PHOTO)}, "detector.safetensors", 5, 0.5]}

        def send(_: int) -> tuple[int, str]:
            return server.post("/gradio_api/call/predict", json.dumps(data).encode())

        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(send, range(24)))
    refused = {text for status, text in answers if status == 503}
    assert refused == {'{"detail": "the server has too many requests; try again in a minute"}'}
    assert {status for status, _ in answers} == {200, 503}


def test_forged_events_are_one_sentence_without_a_traceback(models: dict[str, Path]) -> None:
    with served(models["gc"]) as server:
        functions = json.loads(server.get("/config")[1])["dependencies"]
        (click,) = (entry["id"] for entry in functions if entry["targets"][0][1] == "select")
        (load_example,) = (entry["id"] for entry in functions if entry["api_name"] == "load_example")
        image = {"path": server.upload("photo.png", PHOTO), "meta": {"_type": "gradio.FileData"}}
        for event in (None, 5, "x", [1], {}, {"index": None}, {"index": [1]}, {"index": {"a": 1}}):
            assert server.send_event(click, [image], event) == "the click has no coordinates; click the picture again"
        assert server.send_event(click, [image], {"index": ["a", True]}) == "x must be a number, found 'a'"
        for data in ([], ["x"], [[1]], [5], [{"path": image["path"], "size": "x"}]):
            assert "the request is invalid" in server.send_event(click, data, {"index": [1, 1]})
            assert "the request is invalid" in server.call("predict", *data)
        for example in ("x", None, 99):
            assert "the request is invalid" in server.send_event(load_example, [example])
        assert "the request is invalid" in server.send_event(999, [])
        assert "found -4, 1e+308" in server.call("attention", image, "gc.safetensors", -4, 1e308)
        assert server.call("predict", image, "gc.safetensors", 1, 0.5)["image"] == "photo.png"
        status, text = server.get("/gradio_api/call/predict/of-another-day")
        assert status == 200 and text.startswith("event: error")
        server.process.terminate()
        output, _ = server.process.communicate(timeout=60)
        assert "Traceback" not in output


@pytest.mark.parametrize("pause", [0, 0.05])
def test_a_second_interrupt_leaves_no_uploads(models: dict[str, Path], pause: float) -> None:
    with served(models["gc"]) as server:
        folder = Path(server.upload("photo.png", PHOTO)).parents[1]
        for _ in range(2):
            server.process.send_signal(signal.SIGINT)
            time.sleep(pause)
        server.process.communicate(timeout=60)
        assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_without_traceback_and_files(models: dict[str, Path], number: int) -> None:
    with (
        served(models["gc"]) as server,
        socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1]))) as open_page,
    ):
        open_page.sendall(b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: x\r\n\r\n")
        folder = Path(server.upload("photo.png", PHOTO)).parents[1]
        assert folder.exists()
        server.process.send_signal(number)
        output, _ = server.process.communicate(timeout=120)  # 1 to 2 seconds on a quiet machine, if it ends at all
        assert server.process.returncode == 0 and output.endswith("stopped\n") and "Traceback" not in output
        assert not folder.exists()


def test_a_port_in_use_is_one_sentence(models: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"`port` {port} is in use; choose another, or 0 for a free one"):
            running_server(DemoSettings((str(models["gc"]),), port=port)).__enter__()


@pytest.mark.parametrize("wrong", ["port", "examples"])
def test_the_port_and_the_examples_are_checked_before_torch_is_imported(tmp_path: Path, wrong: str) -> None:
    code = "import sys; from gcnet import cli; code = cli.main(sys.argv[1:]); sys.exit('torch' in sys.modules or code)"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if wrong == "port" else 0
        command = [sys.executable, "-c", code, "demo", "m.safetensors", "--port", str(port), "--examples", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (f"--port {port} is in use" if wrong == "port" else "no image files") in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "example.invalid"}, '`host` must be an address of this machine, found "example.invalid"'),
        ({"examples": Path("missing")}, "`examples` takes a folder, but there is none at missing"),
        ({"weights": "pretrained"}, "`weights` requires a model given by name"),
    ],
)
def test_a_setting_that_does_not_fit_the_machine_or_the_models_is_one_sentence(
    models: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        running_server(DemoSettings((str(models["gc"]),), port=0, **options)).__enter__()
    assert str(error.value).startswith(message)


_GUARDED = """
import socket, sys
seen, connect, look_up = open(sys.argv.pop(), "a", buffering=1), socket.socket.connect, socket.getaddrinfo
def noted(self, address):
    print("connect", address, file=seen)
    return connect(self, address)
def noted_look_up(host, *rest, **options):
    print("look up", (host,), file=seen)
    return look_up(host, *rest, **options)
socket.socket.connect, socket.getaddrinfo = noted, noted_look_up
from gcnet import cli
sys.exit(cli.main())
"""


def test_the_server_connects_to_no_other_host(models: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "connections"
    code = _GUARDED.replace("sys.argv.pop()", repr(str(log)))
    with served(models["gc"], code=code) as server:
        assert server.get("/")[0] == server.get("/config")[0] == server.get("/gradio_api/info")[0] == 200
        assert server.predict("photo.png", PHOTO, "gc.safetensors")["classes"]
    lines = log.read_text().splitlines()
    assert lines  # of Gradio, which asks itself whether it has started
    assert [line for line in lines if "'127.0.0.1'" not in line and "b'127.0.0.1'" not in line] == []
