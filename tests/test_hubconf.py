"""`torch.hub.load` loads networks from a clone, in a process without gcnet installed elsewhere."""

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = {
    *("create_model", "predictor", "gc_resnet50", "gc_resnet101", "nl_resnet50", "se_resnet50"),
    "mask_rcnn_gc_resnet50",
}
PROGRAM = """
import sys, torch
torch.manual_seed(0)
path = sys.argv[1]
model = torch.hub.load(path, "gc_resnet50", source="local", num_classes=7)
assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)
other = torch.hub.load(path, "create_model", "eca_cifar_resnet20", source="local")
assert other(torch.rand(2, 3, 32, 32)).shape == (2, 10)
import gcnet
assert gcnet.__file__.startswith(path)
gcnet.save_model(model, "net.safetensors", preprocessing={"image_size": 64})
again = torch.hub.load(path, "gc_resnet50", source="local", num_classes=7, weights="net.safetensors")
assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
predictor = torch.hub.load(path, "predictor", "net.safetensors", source="local", device="cpu")
assert len(predictor(torch.rand(3, 64, 64)).images) == 1
"""


def test_every_entry_point_has_a_docstring_with_its_arguments() -> None:
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    points = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    assert set(points) == ENTRY_POINTS
    assert all("Args:" in (inspect.getdoc(function) or "") for function in points.values())
    assert all(importlib.util.find_spec(name) for name in module.dependencies)


@pytest.mark.slow
def test_torch_hub_loads_networks_from_a_clone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # The clone comes before an installed gcnet, as on a machine without one.
    environment |= {"PYTHONPATH": str(ROOT / "src"), "TORCH_HOME": str(tmp_path)}
    words = [sys.executable, "-c", PROGRAM, str(ROOT)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
