"""What processes do together: two of gloo on the CPU, and the rules about devices and launchers without any."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

import gcnet
from gcnet import cli
from gcnet.devices import choose_device, is_first_process
from gcnet.errors import Failure, UserError
from gcnet.tasks.results import EvaluationResult
from gcnet.training.checkpoint import random_states, restore_random_states
from gcnet.training.distributed import Processes, agreed_start, processes_joined
from gcnet.training.run_folder import RunFolder
from gcnet.training.settings import override
from training import together
from training.photos import call_as_two, exit_codes, settings_for, write_photos
from training.toy import tiny_network, toy_trainer

PATIENCE = 200  # on a busy machine; processes that wait for each other wait for half an hour


def by_two(work, folder, *arguments):
    """What two processes wrote, by rank; both must have ended well."""
    folder.mkdir(exist_ok=True)
    assert exit_codes(call_as_two(work, *arguments), PATIENCE) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_reported_numbers_are_those_of_the_saved_weights_to_the_bit(tmp_path):
    photos = write_photos(tmp_path / "photos", train_images=9, val_images=7)
    settings = settings_for(photos, tmp_path, mixup=0.0, cutmix=0.0, epochs=2.0, batch_size=6)
    for recomputed in by_two(together.train_and_evaluate, tmp_path, settings, tmp_path):
        for name, metrics in recomputed.items():
            reported = RunFolder(tmp_path / name).evaluations()[-1]
            assert {metric: reported[metric] for metric in metrics} == metrics
    for name in ("weights", "average"):
        alone = together.metrics_of_saved(override(settings, output=str(tmp_path / name)), Processes())
        reported = RunFolder(tmp_path / name).evaluations()[-1]
        assert reported["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("user", ["UserError", "the folder is not empty", True], ["UserError", "the folder is not empty", True]),
        ("network", ["RemoteError", "no answer", True], ["Failure", "no answer", True]),
        ("other", ["KeyError", "'a'", None], ["RankFailure", "rank 0 failed: KeyError: 'a'", False]),
        ("stop", ["KeyboardInterrupt", "", None], ["RankFailure", "rank 0 failed: interrupted", False]),
    ],
)
def test_an_error_in_the_work_of_the_first_process_ends_the_wait_of_the_others(kind, first, second, tmp_path):
    assert by_two(together.fail_in_the_first, tmp_path, tmp_path, kind) == [first, second]


def test_other_images_on_another_machine_are_an_error_in_all_processes(tmp_path):
    first, second = by_two(together.find_other_data, tmp_path, tmp_path)
    assert first == second
    assert re.search(r"rank 0 has 2 images \(.*\), and rank 1 1 images \(.*\): give all machines the same files", first)


def test_a_gpu_in_one_process_only_is_an_error_in_all_processes(tmp_path):
    sentence = "all processes need the same kind of `device`; rank 0 uses cpu, and rank 1 cuda"
    assert by_two(together.join_on_other_devices, tmp_path, tmp_path) == [[sentence, False], [sentence, True]]


@pytest.mark.slow
def test_a_model_that_another_machine_lacks_ends_all_processes(tmp_path):
    model = tmp_path / "model.safetensors"
    gcnet.save_model(gcnet.create_model("gc_scenes_resnet"), model, preprocessing={"image_size": 32})
    first, second = by_two(together.evaluate_with_model_on_one_machine, tmp_path, str(model), tmp_path)
    assert first[0] == "RankFailure" and second[0] == "UserError"
    assert "model.safetensors-gone" in first[1] and "model.safetensors-gone" in second[1]


def test_values_are_gathered_in_the_first_process_only(tmp_path):
    assert by_two(together.gather_ranks, tmp_path, tmp_path) == [[[0], [1, 1]], []]


def test_a_process_that_is_gone_is_one_sentence_in_the_others(tmp_path):
    kind, sentence = by_two(together.wait_for_a_process_that_ends, tmp_path, tmp_path)[0]
    assert kind == "RankFailure"
    assert re.fullmatch(r"rank 1 \(process \d+ on .+\) ended without a message; it may have been killed", sentence)


def test_processes_agree_on_a_name_that_no_earlier_start_has_used():
    store, patience = torch.distributed.HashStore(), timedelta(seconds=20)
    agreed_start(store, 0, 1, patience)  # a start of one process
    store.add("starts of rank 1", 1)  # another, in which the first process was killed before it joined
    names = set()
    for world in (2, 3, 3, 2):
        with ThreadPoolExecutor(world) as pool:
            starts = [pool.submit(agreed_start, store, rank, world, patience) for rank in reversed(range(world))]
            (name,) = {start.result() for start in starts}
        names.add(name)
    assert len(names) == 4


def test_a_process_that_does_not_start_is_named():
    store = torch.distributed.HashStore()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(agreed_start, store, 1, 3, timedelta(seconds=1))
        with pytest.raises(Failure, match="rank 2 has not started within 0 minutes"):
            agreed_start(store, 0, 3, timedelta(seconds=1))
        with pytest.raises(Failure, match="not all 3 processes have started within 0 minutes"):
            other.result()
    with pytest.raises(Failure, match="not all 2 processes have started within 0 minutes"):
        agreed_start(torch.distributed.HashStore(), 1, 2, timedelta(seconds=1))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the names of threads from /proc")
def test_no_thread_of_a_process_group_outlives_it(tmp_path):
    code = f"from training import together; together.threads_left(together.Path({str(tmp_path)!r}))"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])}
    subprocess.run([*launch, sys.executable, "-c", code], check=True, timeout=PATIENCE, env=environment)
    for rank in range(2):
        threads = json.loads((tmp_path / f"{rank}.json").read_text())
        assert threads
        assert not [name for name in threads if "gloo" in name]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_tries_to_write_into_the_output(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    tried = []
    monkeypatch.setattr("gcnet.cli.files.check_outputs", lambda *_: tried.append(rank))
    monkeypatch.setattr("gcnet.cli.train.run", lambda _: 0)
    assert cli.main(["train", "--output", str(tmp_path / "run")]) == 0
    assert tried == [0][rank:]


MISTYPED = [["train", "--modle", "resnet18"], ["trian"], ["--versoin"], ["train", "--device", "gpu"]]


@pytest.mark.parametrize("arguments", [*MISTYPED, ["train", "--resume", "missing"]], ids=" ".join)
def test_one_process_of_a_machine_reports_a_usage_error_and_torchrun_gets_it_of_all(
    arguments, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(cli, "_PATIENCE", 0.0)
    printed = []
    for rank in (1, 0, 2):
        place = {"WORLD_SIZE": 6, "RANK": 3 + rank, "LOCAL_RANK": rank}
        file = tmp_path / str(rank) / "error.json"
        file.parent.mkdir()
        for name, value in (place | {"TORCHELASTIC_ERROR_FILE": file}).items():
            monkeypatch.setenv(name, str(value))
        assert cli.main(arguments) == 2
        printed.append(capsys.readouterr().err)
        failure = ProcessFailure(local_rank=rank, pid=1, exitcode=2, error_file=str(file))
        assert f"gcnet: {failure.message}\n" == printed[0]
    assert printed[0] and not any(printed[1:])


@pytest.mark.parametrize("rank", [0, 1])
def test_without_torchrun_the_first_process_of_a_machine_reports(rank, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_PATIENCE", 0.0)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert cli.main(["train", "--modle", "resnet18"]) == 2
    assert capsys.readouterr().err.count("gcnet: ") == 1 - rank


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], ["train", "--help"], ["predict", "help"]], ids=" ".join
)
@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_prints_the_help(arguments, rank, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    assert cli.main(arguments) == 0
    assert bool(capsys.readouterr().out) == (rank == 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_writes_the_result_of_an_evaluation(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    result = Mock(spec=EvaluationResult)
    monkeypatch.setattr("gcnet.workflows.evaluate.run_evaluation", lambda _: result)
    assert gcnet.evaluate("model.safetensors", output=tmp_path) is result
    assert result.write.call_args_list == [call(tmp_path)][rank:]


def test_processes_that_torchrun_did_not_start_are_one_sentence(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    sentence = "WORLD_SIZE is 2, but RANK is not set: start several processes by torchrun"
    with pytest.raises(UserError, match=sentence), processes_joined(torch.device("cpu")):
        pass


@pytest.mark.parametrize("grad_accumulation", [1, 3])
def test_with_synchronized_norms_unreadable_images_make_no_process_wait(grad_accumulation, tmp_path):
    # Of 12 images a step, even ones belong to the first process. Step 1: the second one has none. Step 2: it has one.
    dropped = {1: list(range(1, 12, 2)), 2: list(range(3, 12, 2)), 3: [0]}
    one, other = by_two(together.train_synchronized, tmp_path, tmp_path, dropped, grad_accumulation)
    assert one["images"] == other["images"] == [12, 0, 7, 11]
    assert one["bits"] == other["bits"]


@pytest.mark.parametrize("frozen", [False, True])
def test_processes_exchange_statistics_of_batch_norms_only_where_these_are_trained(frozen, tmp_path):
    one, other = by_two(together.train_with_norms, tmp_path, tmp_path, frozen)
    assert one["weights"] == other["weights"]
    assert (one["broadcast"], one["views"]) == (not frozen, True)
    if frozen:  # without statistics of the own images, two processes train as one
        trainer = toy_trainer(network=tiny_network(batch_norm=True), freeze_bn_stats=True)
        batches = trainer.task.batches(0, torch.device("cpu"))
        for _ in range(3):
            trainer.train_step(next(batches))
        for parameter, values in zip(trainer.network.parameters(), one["weights"], strict=True):
            torch.testing.assert_close(parameter.detach(), torch.tensor(values))


def test_a_step_exchanges_numbers_of_images_and_then_losses_and_votes_together(tmp_path):
    assert by_two(together.count_exchanges, tmp_path, tmp_path) == [[2, 2]] * 2


def test_gradients_of_other_strides_are_no_warning_to_the_user(tmp_path):
    assert by_two(together.train_pointwise, tmp_path, tmp_path) == [[], []]


def test_processes_exchange_the_buffers_of_other_modules(tmp_path):
    one, other = by_two(together.train_with_own_buffers, tmp_path, tmp_path)
    assert one == other
    assert len(set(one)) == 3


def test_a_weight_that_is_not_finite_in_one_process_stops_all(tmp_path):
    first, second = by_two(together.check_weights_of_one, tmp_path, tmp_path)
    assert first == second
    assert "a weight" in first


def test_processes_join_within_a_group_and_anew_after_it(tmp_path):
    assert by_two(together.join_twice, tmp_path, tmp_path) == ["2", "2"]


@pytest.mark.parametrize("rank", [0, 1])
def test_no_process_waits_for_one_that_failed(rank, tmp_path):
    assert by_two(together.fail_at_the_end, tmp_path, tmp_path, rank) == [0, 1]


@pytest.mark.parametrize("name", ["cuda:0", "cuda:3"])
def test_one_gpu_for_several_processes_is_refused(name, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=f"`device={name}`: under torchrun every process needs a GPU of its own"):
        choose_device(name)


def test_the_first_process_is_known_before_any_has_joined(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert is_first_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_first_process()


def test_a_random_state_saved_on_a_gpu_is_restored_without_one():
    states = random_states() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
    expected = torch.rand(3)
    restore_random_states(states)
    assert torch.equal(torch.rand(3), expected)


def torchrun(arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gcnet"]
    return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.mark.slow
def test_under_torchrun_a_command_that_is_not_parallel_works_and_prints_once():
    output, errors = torchrun(["blocks"], text=True).communicate(timeout=PATIENCE)
    alone = subprocess.run([sys.executable, "-m", "gcnet", "blocks"], capture_output=True, text=True, timeout=PATIENCE)
    assert output == alone.stdout, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "missing.safetensors", "--data", "photos"],
        ["predict", "photos", "--model", "missing.safetensors"],
        ["analyze", "missing.safetensors", "--statistics", "--data", "photos"],
        ["train", "--data", "photos"],
    ],
    ids=" ".join,
)
def test_under_torchrun_an_error_of_all_processes_is_reported_once(command, tmp_path):
    launcher = torchrun([*command, "--device", "cpu"], text=True, cwd=tmp_path)
    errors = launcher.communicate(timeout=PATIENCE)[1]
    assert launcher.returncode
    assert len(re.findall(r"^gcnet: .*(missing\.safetensors|photos)", errors, re.MULTILINE)) == 1, errors
    assert "To enable traceback" not in errors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the process table of Linux")
def test_processes_whose_torchrun_was_killed_save_and_stop(tmp_path):
    photos = write_photos(tmp_path / "photos")
    options = ["--model", "cifar_resnet20", "--data", photos, "--epochs", 10000, "--batch-size", 4]
    launcher = torchrun(["train", *options, "--output", tmp_path / "run"])
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + PATIENCE
    while not folder.evaluations() and time.monotonic() < deadline:
        time.sleep(0.2)
    children = _children(launcher.pid)
    assert len(children) == 2
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    deadline = time.monotonic() + PATIENCE
    while any(map(_is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [child for child in children if _is_running(child)]
    for child in left:
        os.kill(child, signal.SIGKILL)
    launcher.stdout.close()
    launcher.stderr.close()
    assert not left
    assert folder.checkpoint.exists()


def _children(parent: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
