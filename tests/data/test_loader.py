import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.data.dataset import ClassificationDataset, Skipped
from gcnet.data.decode import ImageError
from gcnet.data.images.folders import FolderImages
from gcnet.data.images.sources import ImageSource
from gcnet.data.loader import Batch, Loader, LoadingError, build_loader, choose_workers, collate
from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.data.seeding import mix_seed
from gcnet.data.settings import IMAGENET_MEAN, IMAGENET_STD, AugmentSettings, Preprocessing
from gcnet.data.transforms import Normalize, build_eval_transform, build_train_transform

STRONG = AugmentSettings(random_crop="resized", auto_augment="randaugment", color_jitter=0.3, erasing=0.5)


class Noise(ImageSource):
    """Random images; the indices in `damaged` cannot be read; `act` is called before each is read."""

    classes = ("a", "b", "c")

    notes = ()

    def __init__(
        self, length: int, *, damaged: tuple[int, ...] = (), act: Callable[[int], object] | None = None
    ) -> None:
        self.length, self.damaged, self.act = length, damaged, act

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"noise/{index}.png"

    def label(self, index: int) -> int:
        return index % 3

    def file(self, index: int) -> None:
        """None."""

    def read(self, index: int) -> Image.Image:
        if self.act is not None:
            self.act(index)
        if index in self.damaged:
            raise ImageError(self.name(index), "truncated")
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (19, 23, 3), dtype=np.uint8))


def train_images(source: Noise, seed: int = 5) -> ClassificationDataset:
    return ClassificationDataset(source, build_train_transform(Preprocessing(17), STRONG), seed=seed)


def eval_images(source: Noise) -> ClassificationDataset:
    return ClassificationDataset(source, build_eval_transform(Preprocessing(17)))


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def content(batches: list[Batch]) -> list[tuple[bytes, list[int], list[str], list[Skipped]]]:
    return [(b.inputs().numpy().tobytes(), b.labels.tolist(), b.names, b.skipped) for b in batches]


def test_a_batch_holds_images_labels_and_names_of_its_keys() -> None:
    source = Noise(7)
    batches = list(build_loader(eval_images(source), EvaluationSampler(7, batch_size=3)))
    assert [batch.names for batch in batches] == [
        [f"noise/{i}.png" for i in keys] for keys in ((0, 1, 2), (3, 4, 5), (6,))
    ]
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2], [0, 1, 2], [0]]
    assert batches[1].images.dtype == torch.uint8 and batches[1].images.shape == (3, 3, 17, 17)
    assert torch.equal(batches[1].inputs()[2], build_eval_transform(Preprocessing(17))(source.read(5)))
    assert [len(batch) for batch in batches] == [3, 3, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batches_hold_pixels_and_give_the_bits_of_the_transform(
    workers: int, memory_format: torch.memory_format
) -> None:
    images = train_images(Noise(12))
    sampler = EpochSampler(12, batch_size=4, seed=0)
    for batch in build_loader(images, sampler, workers):
        assert batch.images.dtype == torch.uint8
        assert any(batch.erased) and not all(batch.erased)  # random erasing is applied after normalization
        inputs = batch.inputs(memory_format=memory_format)
        assert inputs.is_contiguous(memory_format=memory_format)
        for name, found in zip(batch.names, inputs, strict=True):
            index = int(name.removeprefix("noise/").removesuffix(".png"))
            torch.manual_seed(mix_seed(images.seed, 0, index))
            assert torch.equal(found, images.transform(images.images.read(index)))


def test_damaged_images_are_named_once_and_replaced_by_nothing() -> None:
    loader = build_loader(eval_images(Noise(11, damaged=(0, 4, 5))), EvaluationSampler(11, batch_size=4), image_size=17)
    batches = list(loader)
    assert [skip for batch in batches for skip in batch.skipped] == [
        Skipped(f"noise/{i}.png", "truncated") for i in (0, 4, 5)
    ]
    assert [name for batch in batches for name in batch.names] == [f"noise/{i}.png" for i in (1, 2, 3, 6, 7, 8, 9, 10)]
    assert [len(batch.labels) for batch in batches] == [3, 2, 3]


def test_the_main_process_loads_alone_without_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(multiprocessing, "RawArray", refuse)
    assert len(list(build_loader(eval_images(Noise(3)), EvaluationSampler(3, batch_size=3)))) == 1


def test_a_batch_of_damaged_images_only_is_empty() -> None:
    loader = build_loader(eval_images(Noise(3, damaged=(0, 1, 2))), EvaluationSampler(3, batch_size=3), image_size=17)
    (batch,) = list(loader)
    assert batch.images.shape == (0, 3, 17, 17)
    assert batch.labels.shape == (0,) and batch.labels.dtype == torch.int64
    assert len(batch) == 0 and len(batch.skipped) == 3
    assert collate([], Normalize(IMAGENET_MEAN, IMAGENET_STD)).images.shape == (0, 3, 0, 0)


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    images = train_images(Noise(5))
    first = images[(2, 3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    images[(0, 0)]
    assert torch.equal(images[(2, 3)]["image"], first["image"])
    assert torch.equal(images.load([(1, 1), (2, 3)])[1]["image"], first["image"])
    assert not torch.equal(images[(1, 3)]["image"], first["image"])
    assert not torch.equal(train_images(Noise(5), seed=6)[(2, 3)]["image"], first["image"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("unchecked_shapes")  # the checker itself draws from python's generator
def test_loading_leaves_the_programs_random_states_untouched(workers: int) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), torch.rand(()).item()

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
    loader = build_loader(train_images(Noise(8)), EpochSampler(8, batch_size=4, seed=0), workers)
    for _ in range(2):
        assert len(list(loader)) == 2
    assert draw() == expected


def run_epochs(workers: int, *, start: int = 0, epochs: int = 3) -> list[Batch]:
    sampler = EpochSampler(29, batch_size=4, seed=7)
    sampler.start(start)
    loader = build_loader(train_images(Noise(29, damaged=(11,))), sampler, workers)
    return [batch for _ in range(epochs) for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_any_number_of_workers_gives_the_same_bits() -> None:
    expected = content(run_epochs(0))
    assert len(expected) == 21
    for workers in (1, 2, 4):
        assert content(run_epochs(workers)) == expected


def test_resumed_at_any_step_the_batches_are_the_same_bits() -> None:
    expected = content(run_epochs(0))
    for step in range(21):
        assert content(run_epochs(0, start=step, epochs=3 - step // 7)) == expected[step:]
    for step in (3, 7, 13):
        assert content(run_epochs(2, start=step, epochs=3 - step // 7)) == expected[step:]


def test_an_epoch_left_in_the_middle_does_not_reach_into_the_next_iteration() -> None:
    sampler = EpochSampler(29, batch_size=4, seed=7)
    loader = build_loader(train_images(Noise(29, damaged=(11,))), sampler, 2)
    for _ in loader:
        break
    sampler.start(1)
    assert content(list(loader)) == content(run_epochs(0, epochs=1))[1:]


def test_the_shares_of_two_processes_make_up_the_batches_of_one() -> None:
    def batches(rank: int, world: int) -> list[Batch]:
        sampler = EpochSampler(13, batch_size=4, seed=3, rank=rank, world=world)
        return list(build_loader(train_images(Noise(13)), sampler))

    for whole, even, odd in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(whole.images[0::2], even.images) and torch.equal(whole.images[1::2], odd.images)
        assert whole.names[0::2] == even.names and whole.names[1::2] == odd.names


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_our_own_code_is_not_swallowed_names_the_image_and_ends_the_workers(workers: int) -> None:
    def fail(index: int) -> None:
        if index == 4:
            raise ZeroDivisionError("a mistake of ours")

    images = eval_images(Noise(7, act=fail))
    loader = build_loader(images, EvaluationSampler(7, batch_size=2), workers, persistent=True)
    with pytest.raises(ZeroDivisionError) as caught:
        list(loader)
    assert multiprocessing.active_children() == []
    told = str(caught.value) + " ".join(getattr(caught.value, "__notes__", []))
    assert 'while loading the image "noise/4.png" (index 4)' in told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_dead_worker_is_one_sentence_with_its_image(number: signal.Signals) -> None:
    def die(index: int) -> None:
        if index == 5:
            time.sleep(0.3)  # so that the earlier batches are out
            os.kill(os.getpid(), number)

    loader = build_loader(eval_images(Noise(8, act=die)), EvaluationSampler(8, batch_size=2), 2)
    begin = time.perf_counter()
    with pytest.raises(
        LoadingError, match=f'was killed by {number.name} while reading "noise/5.png" .index 5.'
    ) as caught:
        for _ in loader:
            pass
    assert time.perf_counter() - begin < 100  # not the 300 seconds after which workers count as hanging
    assert ("--shm-size" in str(caught.value)) == (number == signal.SIGBUS)
    assert "\n" not in str(caught.value)


def test_full_shared_memory_is_one_sentence_with_the_remedy() -> None:
    def fill(index: int) -> None:
        if index == 5:  # as torch words it
            raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left (28)")

    loader = build_loader(eval_images(Noise(8, act=fill)), EvaluationSampler(8, batch_size=2), 2)
    with pytest.raises(LoadingError, match="no memory for its batch; there is .* shared memory.*--shm-size") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_a_worker_without_memory_to_send_a_batch_is_one_sentence() -> None:
    def refuse(_: int) -> None:
        raise RuntimeError("can't start new thread")

    def exhaust(index: int) -> None:
        if index == 5:
            reduction.DupFd = refuse  # in the worker, as sending a tensor for the first time starts a thread

    loader = build_loader(eval_images(Noise(8, act=exhaust)), EvaluationSampler(8, batch_size=2), 2, timeout=20)
    with pytest.raises(LoadingError, match=r"worker ended \(12\) .*; it was out of memory: try a smaller"):
        list(loader)


def test_a_hanging_worker_is_detected_and_terminated() -> None:
    def hang(index: int) -> None:
        if index == 3:
            time.sleep(600)

    loader = build_loader(eval_images(Noise(4, act=hang)), EvaluationSampler(4, batch_size=2), 1, timeout=4)
    begin = time.perf_counter()
    with pytest.raises(LoadingError, match='responded for 4 s, while reading "noise/3.png"'):
        list(loader)
    del loader
    assert time.perf_counter() - begin < 100
    deadline = time.perf_counter() + 10
    while multiprocessing.active_children() and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_processes_that_were_stopped_for_longer_than_the_timeout_continue() -> None:
    source = Noise(12, act=lambda _: time.sleep(0.5))
    program = os.fork()
    if not program:  # a process group of its own, as a shell starts it
        os.setpgid(0, 0)
        try:
            assert len(list(build_loader(eval_images(source), EvaluationSampler(12, batch_size=1), 1, timeout=4))) == 12
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(2.25)
    os.killpg(program, signal.SIGSTOP)
    time.sleep(5)
    os.killpg(program, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) == 0


def test_ctrl_c_and_sigterm_to_all_processes_do_not_take_the_workers_away() -> None:
    loader = build_loader(eval_images(Noise(12)), EvaluationSampler(12, batch_size=2), 2)
    batches = iter(loader)
    names = [name for _ in range(2) for name in next(batches).names]  # one batch of each: both workers are up
    pids = " ".join(str(child.pid) for child in multiprocessing.active_children())
    subprocess.run(
        ["sh", "-c", f"kill -INT {pids}; kill -TERM {pids}"], check=True
    )  # a sender that is not their parent
    time.sleep(0.2)
    names += [name for batch in batches for name in batch.names]
    assert names == [f"noise/{i}.png" for i in range(12)]


@pytest.mark.slow
def test_a_program_with_live_workers_ends_at_once(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    program.write_text(
        "import sys\n"
        "from gcnet.data.images.folders import FolderImages\n"
        "from gcnet.data.loader import ClassificationDataset, build_loader\n"
        "from gcnet.data.sampler import EvaluationSampler\n"
        "from gcnet.data.settings import Preprocessing\n"
        "from gcnet.data.transforms import build_eval_transform\n"
        "if __name__ == '__main__':\n"
        "    images = ClassificationDataset(FolderImages(sys.argv[1]), build_eval_transform(Preprocessing(9)))\n"
        "    loader = build_loader(images, EvaluationSampler(10, batch_size=1), 2)\n"
        "    batches = iter(loader)\n"
        "    print(next(batches).names)\n"
    )
    command = [sys.executable, str(program), str(tmp_path / "images")]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (out.stdout, out.stderr) == ("['a/0.png']\n", "")


def test_a_loader_has_the_number_of_remaining_batches() -> None:
    sampler = EpochSampler(29, batch_size=4, seed=7)
    loader: Loader = build_loader(train_images(Noise(29)), sampler)
    assert len(loader) == 7
    sampler.start(12)
    assert len(loader) == 2 == len(list(loader))


GPU = torch.device("cuda")  # a device that is only named


@pytest.mark.parametrize(
    ("cores", "processes", "batches", "expected"),
    [(96, 8, 1000, 8), (16, 8, 1000, 2), (4, 8, 1000, 1), (2, 1, 1000, 2), (96, 1, 3, 3)],
)
def test_workers_on_a_gpu_are_the_cores_of_the_process_up_to_eight_and_the_batches(
    cores: int, processes: int, batches: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert choose_workers(None, GPU, batches=batches) == expected


def test_a_cpu_and_images_in_memory_need_no_workers_and_settings_take_precedence() -> None:
    assert choose_workers(None, torch.device("cpu")) == 0
    assert choose_workers(None, GPU, in_memory=True) == 0
    assert choose_workers(3, torch.device("cpu"), batches=1, in_memory=True) == 3


@pytest.mark.parametrize(("persistent", "left"), [(True, 2), (False, 0)])
def test_only_persistent_workers_outlive_an_iteration(persistent: bool, left: int) -> None:
    loader = build_loader(eval_images(Noise(8)), EvaluationSampler(8, batch_size=2), 2, persistent=persistent)
    batches = iter(loader)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    assert len(list(batches)) == 3
    assert len(multiprocessing.active_children()) == left


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork workers")
def test_workers_are_forked_on_linux_whatever_the_default_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: None if allow_none else "spawn")
    loader = build_loader(eval_images(Noise(8)), EvaluationSampler(8, batch_size=2), 1)
    context = loader._loader.multiprocessing_context
    assert context is not None and context.get_start_method() == "fork"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_of_every_start_method_load_and_end(method: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, sys, time\n"
        "from gcnet.data.dataset import ClassificationDataset\n"
        "from gcnet.data.images.folders import FolderImages\n"
        "from gcnet.data.loader import build_loader\n"
        "from gcnet.data.sampler import EvaluationSampler\n"
        "from gcnet.data.settings import Preprocessing\n"
        "from gcnet.data.transforms import build_eval_transform\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method(sys.argv[2])\n"
        "    images = ClassificationDataset(FolderImages(sys.argv[1]), build_eval_transform(Preprocessing(9)))\n"
        "    loader = build_loader(images, EvaluationSampler(6, batch_size=3), 1, persistent=True)\n"
        "    print([name for batch in loader for name in batch.names])\n"
        "    (worker,) = multiprocessing.active_children()\n"
        "    worker.terminate()\n"
        "    worker.join(20)\n"
        "    print(worker.exitcode)\n"
    )
    command = [sys.executable, str(program), str(tmp_path / "images"), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    names = [f"{name}/{number}.png" for name in ("a", "b") for number in range(3)]
    assert (done.stdout, done.stderr) == (f"{names}\n0\n", "")


def test_real_images_load_the_same_with_and_without_workers(data_root: Path) -> None:
    source = FolderImages(data_root / "imagenette224" / "val")
    transform = build_train_transform(Preprocessing(64, 73), STRONG)

    def load(workers: int) -> list[Batch]:
        sampler = EpochSampler(len(source), batch_size=16, seed=1)
        sampler.start(sampler.steps_per_epoch - 4)
        return list(build_loader(ClassificationDataset(source, transform, seed=1), sampler, workers))

    first = load(0)
    assert len(first) == 4 and not any(batch.skipped for batch in first)
    assert content(first) == content(load(2))
