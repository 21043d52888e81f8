"""Passes by every setting beside plain float32 ones; CUDA graphs by a stand-in that is as strict as they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.passes import CPU_CHUNK, ImagePass, PassSettings, Run
from segp_cl.scores import text_scores
from tests.tolerances import FLOAT32_REORDERED

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = (1, 2, 4, 6)


class Tower:
    """Raw features are mean colours; remembers the batches it was run on."""

    device = CPU

    def __init__(self) -> None:
        self.batches: list[int] = []

    def raw_features(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.float32
        self.batches.append(len(pixels))
        return pixels.mean(dim=(2, 3))


class Graphs:
    """Replays as a CUDA graph does: from one input tensor into one output tensor, of one shape."""

    def __init__(self) -> None:
        self.recorded: list[int] = []

    def __call__(self, run: Run, example: Tensor) -> Run:
        inputs = example.clone()
        outputs = run(inputs)
        self.recorded.append(len(example))

        def replay(given: Tensor) -> Tensor:
            assert given.shape == inputs.shape
            inputs.copy_(given)
            outputs.copy_(run(inputs))
            return outputs.clone()

        return replay


def pixels(count: int, size: int = 4) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )


def test_eager_passes_on_a_cpu_are_cut_and_not_padded() -> None:
    tower = Tower()
    images = pixels(2 * CPU_CHUNK + 3)
    assert torch.allclose(ImagePass(tower, PassSettings())(images), (images / 255).mean(dim=(2, 3)))
    assert tower.batches == [CPU_CHUNK, CPU_CHUNK, 3]


@pytest.mark.parametrize(
    ("threads", "count", "batches"),
    [
        (2, 1, [1]),
        (2, 2, [1, 1]),
        (2, 3, [3]),
        (2, 5, [2, 3]),
        (2, CPU_CHUNK + 2, [1, 1, 4, 4]),
        (3, 3, [1, 1, 1]),
        (3, 5, [5]),
        (1, 8, [8]),
    ],
)
def test_threads_share_out_the_images_of_a_pass(threads: int, count: int, batches: list[int]) -> None:
    tower = Tower()
    images = pixels(count)
    raw = ImagePass(tower, PassSettings(threads=threads))(images)
    assert torch.equal(raw, ImagePass(Tower(), PassSettings())(images))
    assert sorted(tower.batches) == batches


@pytest.mark.parametrize(("threads", "shared"), [(1, False), (2, True), (4, True), (5, False), (8, True), (16, False)])
def test_a_full_pass_is_shared_out_if_that_keeps_all_threads_busy(threads: int, shared: bool) -> None:
    assert PassSettings.of(CPU, max_batch_size=32, threads=threads).shares_out(CPU_CHUNK) is shared


def test_what_is_made_for_its_sizes_is_not_shared_out() -> None:
    assert not PassSettings(sizes=SIZES, threads=2).shares_out(4)
    assert not PassSettings.of(GPU, max_batch_size=32, threads=2).shares_out(32)


def test_a_thread_that_shares_computes_alone_and_the_others_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []

    class Asks(Tower):
        def raw_features(self, pixels: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return super().raw_features(pixels)

    try:
        run = ImagePass(Asks(), PassSettings(threads=2))
        run(pixels(4))
        assert seen == [1, 1]
        run(pixels(1))
        assert seen[2:] == [2]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_in_a_thread_is_told() -> None:
    class Breaks(Tower):
        def raw_features(self, pixels: Tensor) -> Tensor:
            raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        ImagePass(Breaks(), PassSettings(threads=2))(pixels(4))


@pytest.mark.parametrize(
    ("count", "batches"), [(1, [1]), (2, [2]), (3, [4]), (5, [6]), (6, [6]), (7, [6, 1]), (15, [6, 6, 4])]
)
def test_batches_are_padded_to_the_next_size_and_cut_at_the_largest(count: int, batches: list[int]) -> None:
    tower = Tower()
    images = pixels(count)
    raw = ImagePass(tower, PassSettings(sizes=SIZES))(images)
    assert tower.batches == batches
    assert torch.equal(raw, ImagePass(Tower(), PassSettings())(images))


def test_each_size_is_recorded_once_and_replayed_for_what_comes() -> None:
    graphs = Graphs()
    run = ImagePass(Tower(), PassSettings(sizes=SIZES, graphs=True), capture=graphs)
    for count in (3, 4, 1, 13, 3):
        images = pixels(count)
        assert torch.equal(run(images), ImagePass(Tower(), PassSettings())(images))
    assert graphs.recorded == [4, 1, 6]


def test_an_answer_is_not_overwritten_by_the_next() -> None:
    run = ImagePass(Tower(), PassSettings(sizes=SIZES, graphs=True), capture=Graphs())
    first = run(pixels(2))
    kept = first.clone()
    run(255 - pixels(2))
    assert torch.equal(first, kept)


def test_many_threads_replay_one_graph_without_mixing_images() -> None:
    run = ImagePass(Tower(), PassSettings(sizes=SIZES, graphs=True), capture=Graphs())
    given = [torch.full((2, 3, 4, 4), value, dtype=torch.uint8) for value in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for value, raw in enumerate(pool.map(run, given)):
            assert torch.allclose(raw, torch.full((2, 3), value / 255))


@pytest.mark.parametrize(
    ("device", "compiled", "graphs", "sizes", "warm"),
    [
        (CPU, False, False, (), (1, 8)),
        (CPU, True, False, (1, 2, 4, 8), (1, 2, 4, 8)),
        (GPU, False, False, (), (1, 24)),
        (GPU, False, True, (1, 2, 4, 8, 16, 24), (1, 2, 4, 8, 16, 24)),
    ],
)
def test_sizes_follow_from_the_device_and_the_largest_batch(
    device: torch.device, compiled: bool, graphs: bool, sizes: tuple[int, ...], warm: tuple[int, ...]
) -> None:
    settings = PassSettings.of(device, max_batch_size=24, precision=torch.bfloat16, compiled=compiled, graphs=graphs)
    on_gpu = device == GPU
    assert settings == PassSettings(torch.bfloat16, sizes, graphs, warm, most=warm[-1], on_gpu=on_gpu)
    assert settings.ahead == (1 if on_gpu else 0)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 8])
def test_the_largest_batch_is_always_a_size(most: int) -> None:
    settings = PassSettings.of(GPU, max_batch_size=most, precision=torch.float32, compiled=True, graphs=False)
    assert settings.sizes == tuple(sorted({1, *(size for size in (2, 4, 8) if size < most), most}))


@pytest.mark.parametrize(
    ("passes", "tolerance"),
    [
        (PassSettings(sizes=(1, 4)), FLOAT32_REORDERED),
        (PassSettings(threads=2), FLOAT32_REORDERED),
        (PassSettings(torch.bfloat16, threads=2), 2e-2),
        (PassSettings(torch.bfloat16), 2e-2),
        (PassSettings(torch.bfloat16, (4,)), 2e-2),
    ],
)
def test_scores_are_float32_and_those_of_plain_passes(
    tiny_backbone: Backbone, passes: PassSettings, tolerance: float
) -> None:
    state = initial_state(tiny_backbone)
    images = pixels(6, tiny_backbone.preprocessing.size)
    plain, other = Classifier(tiny_backbone, state), Classifier(tiny_backbone, state, engine=TorchEngine(passes))
    labels = plain.encode_prompts(["a cat", "a dog"])
    features = other.features(images)
    assert features.raw.dtype == features.image.dtype == torch.float32
    assert torch.allclose(
        text_scores(features.image, labels), text_scores(plain.features(images).image, labels), atol=tolerance
    )
    if passes.precision == torch.bfloat16:  # it was really used
        assert not torch.equal(features.raw, plain.features(images).raw)


def test_channels_last_scores_are_those_of_the_default_layout(tiny_backbone: Backbone) -> None:
    state = initial_state(tiny_backbone)
    images = pixels(3, tiny_backbone.preprocessing.size)
    plain = Classifier(tiny_backbone, state)
    turned = tiny_backbone.shared_copy()
    turned.use_channels_last()
    labels = plain.encode_prompts(["a cat", "a dog"])
    of_turned = text_scores(Classifier(turned, state).features(images).image, labels)
    assert torch.allclose(of_turned, text_scores(plain.features(images).image, labels), atol=FLOAT32_REORDERED)
