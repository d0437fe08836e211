"""Model cards: every number is that of the file, of its run or of an evaluation."""

import ast
import hashlib
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

import gcnet
from gcnet.cli import main
from gcnet.errors import Failure, UserError

CLASSES = ("circle", "square", "star", "moon", "sun", "dot")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scenes.safetensors"
    gcnet.save_model(
        gcnet.create_model("gc_scenes_resnet"), path, preprocessing={"image_size": 64}, class_names=CLASSES
    )
    return path


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text())


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n")[1].partition("\n## ")[0].strip()


def test_the_card_has_the_facts_of_the_file_and_invents_none(file: Path, tmp_path: Path) -> None:
    written = gcnet.write_card(file, output=tmp_path / "card")
    assert [path.name for path in written] == ["README.md", "attention.png"]
    card = card_of(tmp_path / "card")
    model = gcnet.load_model(file)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    added = sum(parameter.numel() for _, parameter in gcnet.context_parameters(model))
    assert f"{parameters:,}" in section(card, "Cost")
    assert f"{added:,}" in section(card, "Blocks")
    assert ", ".join(CLASSES) in section(card, "Data")
    assert "not recorded in the file" in section(card, "Data")
    assert section(card, "Metrics") == "None in the file."
    assert section(card, "License") == "Not stated."
    assert card.data.license is None
    assert card.data.eval_results is None
    assert card.data.tags is not None
    assert "gc" in card.data.tags
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card.text
    with Image.open(tmp_path / "card" / "attention.png") as picture:
        assert picture.width > 300


def test_the_code_of_the_card_runs_as_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcnet.write_card(file, output=tmp_path / "card")
    (code,) = re.findall(r"```python\n(.*?)```", card_of(tmp_path / "card").text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.slow
def test_a_run_has_its_best_metric_with_the_interval_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = gcnet.train(
        model="gc_scenes_resnet", data="scenes", limit_train=32, limit_val=20, steps=2, output="runs/first"
    )
    assert run.best is not None
    gcnet.write_card("runs/first", output="card")
    card = card_of(tmp_path / "card")
    (result,) = card.data.eval_results or []
    assert result.metric_value == pytest.approx(run.best["top1_fraction"])
    correct, images, z = round(run.best["top1_fraction"] * 20), 20, 1.959964
    share, scale = correct / images, 1 + z * z / images
    half = z * (share * (1 - share) / images + z * z / (4 * images * images)) ** 0.5
    low, high = ((share + z * z / (2 * images) + sign * half) / scale for sign in (-1, 1))
    assert f"{low:.2%} to {high:.2%}" in section(card, "Metrics")
    assert re.search(r"\| +20 \| scenes \(generated\) \|", section(card, "Metrics").replace("  ", " "))
    assert "selected" in section(card, "Metrics")
    assert "scenes (generated)" in section(card, "Data")
    assert "- steps: 2" in section(card, "Training")
    assert str(tmp_path) not in card.text


def test_published_scores_and_license_of_a_converted_checkpoint_are_marked_as_such(tmp_path: Path) -> None:
    from dataclasses import replace

    from gcnet.models.card import card_of as metadata_of
    from gcnet.models.card import set_card

    model = gcnet.create_model("mask_rcnn_gc_scenes_resnet", num_classes=3)
    provenance = {
        "source": "mmdet",
        "name": "mmdet/some_network",
        "dataset": "COCO val2017",
        "scores": {"box AP": 39.7},
        "scores_from": "mmdet's README",
        "license": "Apache-2.0",
    }
    set_card(model, replace(metadata_of(model), provenance=provenance))
    gcnet.save_model(model, tmp_path / "net.safetensors", class_names=("a", "b", "c"))
    gcnet.write_card(tmp_path / "net.safetensors", output=tmp_path / "card")
    card = card_of(tmp_path / "card")
    assert card.data.pipeline_tag == "object-detection"
    assert card.data.license == "apache-2.0"
    metrics = section(card, "Metrics")
    assert "39.7" in metrics
    assert "published (mmdet's README), not measured here" in metrics


def test_results_of_another_model_and_existing_cards_are_refused(file: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"top1_fraction": 0.5, "images": 10, "classes": ["a", "b"]}))
    with pytest.raises(UserError, match="is of other classes than the model"):
        gcnet.write_card(file, output=tmp_path / "card", results=results)
    results.write_text(json.dumps([1]))
    with pytest.raises(UserError, match="`results` takes results.json of gcnet evaluate for a classifier"):
        gcnet.write_card(file, output=tmp_path / "card", results=results)
    with pytest.raises(UserError, match="`results`: cannot read"):
        gcnet.write_card(file, output=tmp_path / "card", results=tmp_path / "missing.json")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"`images`: .*damaged.png cannot be read"):
        gcnet.write_card(file, output=tmp_path / "card", images=[tmp_path / "damaged.png"])
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="`overwrite` replaces it"):
        gcnet.write_card(file, output=tmp_path / "card")
    assert (tmp_path / "card" / "README.md").read_text() == "mine"


def test_the_command_draws_the_given_images(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        Image.effect_noise((90, 70), 40).convert("RGB").save(tmp_path / f"{number}.png")
    images = [str(tmp_path / f"{number}.png") for number in range(2)]
    assert main(["card", str(file), "--output", str(tmp_path / "card"), "--images", *images]) == 0
    assert "wrote README.md, attention-1.png, attention-2.png" in capsys.readouterr().out
    text = (tmp_path / "card" / "README.md").read_text()
    assert text.count("](attention-") == 2
    assert "0.png" not in text.replace("attention", "")


def test_names_cannot_add_metadata_markdown_or_html(tmp_path: Path) -> None:
    names = ("<script>", "![](http://x/y.png)", "a\n---\nlicense: mit", "*b* `c` [d](e)", "f|g", "h\n# Metrics")
    path = tmp_path / "name <b>\n---\nlicense: mit.safetensors"
    model = gcnet.create_model("gc_scenes_resnet")
    gcnet.save_model(model, path, preprocessing={"image_size": 64}, class_names=names)
    gcnet.write_card(path, output=tmp_path / "card")
    card = card_of(tmp_path / "card")
    assert card.data.license is None
    html = MarkdownIt("commonmark").enable("table").render(card.text)
    assert "<script>" not in html and "<b>" not in html and "x/y.png" not in html.replace("](http://x/y.png)", "")
    assert html.count("<h1>") == 1 and html.count("<h2>Metrics</h2>") == 1
    assert html.count("<img ") == 1 and "<a href" not in html.split("<h2>Metrics</h2>")[0]
    assert "&lt;script&gt;, ![](http://x/y.png), a\\n---\\nlicense: mit, *b* `c` [d](e), f|g" in html
    (code,) = re.findall(r"load\((.*)\)\n", card.text)
    assert ast.literal_eval(code) == path.name


@pytest.mark.parametrize("license", ["mit\nmodel_name: x", "not a license", "<b>"])
def test_a_license_is_an_identifier(file: Path, license: str) -> None:
    with pytest.raises(UserError, match="`license` must be an identifier such as apache-2.0"):
        gcnet.write_card(file, license=license)


@pytest.mark.parametrize(("name", "ratio"), [("gc_resnet18", "16"), ("gc_cifar_resnet20", "4"), ("eca_resnet18", "-")])
def test_the_ratio_is_that_of_the_blocks(tmp_path: Path, name: str, ratio: str) -> None:
    gcnet.save_model(gcnet.create_model(name), tmp_path / "m.safetensors", preprocessing={"image_size": 64})
    gcnet.write_card(tmp_path / "m.safetensors", output=tmp_path / "card")
    row = section(card_of(tmp_path / "card"), "Blocks").splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")][1:3] == [name.split("_")[0], ratio]


def test_a_network_whose_cost_cannot_be_counted_has_a_card(tmp_path: Path) -> None:
    model = gcnet.create_model("gc_resnet18", num_classes=3)  # at 32 pixels, it cannot train with one image
    gcnet.save_model(model, tmp_path / "m.safetensors", preprocessing={"image_size": 32})
    gcnet.write_card(tmp_path / "m.safetensors", output=tmp_path / "card")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"{parameters:,} parameters" in section(card_of(tmp_path / "card"), "Cost")


def test_there_is_no_readme_if_a_picture_cannot_be_written(file: Path, tmp_path: Path) -> None:
    (tmp_path / "card" / "attention.png").mkdir(parents=True)
    with pytest.raises(Failure):
        gcnet.write_card(file, output=tmp_path / "card")
    assert not (tmp_path / "card" / "README.md").exists()
