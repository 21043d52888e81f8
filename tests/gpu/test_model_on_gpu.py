"""The model, its adapters and an update on a GPU, each beside the same on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import gc
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.anchors import drive
from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.errors import ModelLoadError
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.passes import ImagePass, PassSettings
from segp_cl.types import LearnedClass, LearnerState, LoraFactors, LoraState, ModelSpec, Task, TaskClass

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FLOAT32, BFLOAT16 = 0.99999, 0.999
"""Least cosines to the CPU's float32 features: convolutions on a GPU round to TF32, bfloat16 has 8 bits."""
SETTINGS = LearnerConfig(
    rank=4, epochs=6, batch_size=8, anchor_batch_size=4, k_adv=2, k_seed=2, min_anchors=0, learning_rate=0.004
)
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "black": (0.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def gpu(tiny_spec: ModelSpec) -> Backbone:
    return load_backbone(tiny_spec, device="cuda")


def noise(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def coloured(name: str, count: int, seed: int) -> Tensor:
    drawn = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    colour = torch.tensor(COLOURS[name]).view(1, 3, 1, 1)
    return ((0.6 * colour + 0.4 * drawn) * 255).to(torch.uint8)


def task_of(*names: str, per_class: int = 12, seed: int = 0) -> Task:
    pixels = torch.cat([coloured(name, per_class, seed + i) for i, name in enumerate(names)])
    labels = [i for i in range(len(names)) for _ in range(per_class)]
    return Task("+".join(names), tuple(TaskClass(n, f"a photo of {n}.") for n in names), TensorImages(pixels, labels))


def adapters(base: Backbone, seed: int) -> LoraState:
    generator = torch.Generator().manual_seed(seed)
    fresh = base.shared_copy().adapt(LearnerConfig(rank=4), None, generator=generator).state()
    factors = {
        key: LoraFactors(a=f.a.cpu(), b=0.05 * torch.randn(f.b.shape, generator=generator))
        for key, f in fresh.factors.items()
    }
    return replace(fresh, factors=factors)


def made_up(base: Backbone, *, seed: int, lora: LoraState | None = None, classes: int = 3) -> LearnerState:
    generator = torch.Generator().manual_seed(seed)
    prototypes = F.normalize(torch.randn(classes, base.raw_dim, generator=generator), dim=-1)
    text = F.normalize(torch.randn(classes, base.joint_dim, generator=generator), dim=-1)
    return replace(
        initial_state(base),
        classes=tuple(LearnedClass(f"c{i}", f"c{i}", 1, 5) for i in range(classes)),
        prototypes=prototypes,
        text_features=text,
        covariance=torch.eye(base.raw_dim) * 0.5 / base.raw_dim,
        lora=lora,
        tasks=1,
    )


def least_cosine(ours: Tensor, reference: Tensor) -> float:
    assert ours.device.type == "cuda"
    return float(F.cosine_similarity(ours.float().cpu(), reference, dim=-1).min())


@pytest.mark.parametrize("lora", [False, True])
def test_features_are_those_of_the_cpu(gpu: Backbone, tiny_backbone: Backbone, lora: bool) -> None:
    pixels, words = noise(9) / 255, ["a photo of a cat.", "ein Haus"]
    state = adapters(tiny_backbone, 1) if lora else None
    ours, reference = gpu.with_lora(state), tiny_backbone.with_lora(state)
    with torch.inference_mode():
        assert least_cosine(ours.raw_features(pixels.cuda()), reference.raw_features(pixels)) > FLOAT32
        assert least_cosine(ours.image_features(pixels.cuda()), reference.image_features(pixels)) > FLOAT32
        assert least_cosine(ours.text_features(words), reference.text_features(words)) > FLOAT32


def test_scores_are_those_of_the_cpu(gpu: Backbone, tiny_backbone: Backbone) -> None:
    state = made_up(tiny_backbone, seed=0, lora=adapters(tiny_backbone, 0))
    ours = Classifier(gpu, state).scores(noise(9))
    reference = Classifier(tiny_backbone, state).scores(noise(9))
    for path in ("text", "visual", "fused"):
        found, expected = getattr(ours, path), getattr(reference, path)
        assert found.device.type == "cuda"
        assert float((found.cpu() - expected).abs().max()) < 0.02


def test_bfloat16_passes_give_float32_features_near_the_exact_ones(gpu: Backbone) -> None:
    exact = ImagePass(gpu, PassSettings())(noise(9))
    rounded = ImagePass(gpu, PassSettings(torch.bfloat16))(noise(9))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert least_cosine(rounded, exact.cpu()) > BFLOAT16


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_cuda_graphs_replay_what_the_pass_computes(gpu: Backbone, precision: torch.dtype) -> None:
    settings = PassSettings.of(gpu.device, max_batch_size=6, precision=precision, graphs=True)
    recorded = ImagePass(gpu, settings)
    plain = ImagePass(gpu, PassSettings(precision))
    for count in (1, 3, 6, 7, 3):
        images = noise(count, seed=count)
        with torch.inference_mode():
            assert least_cosine(recorded(images), plain(images).cpu()) > BFLOAT16


def test_many_threads_replay_graphs_without_mixing_images(gpu: Backbone) -> None:
    recorded = ImagePass(gpu, PassSettings.of(gpu.device, max_batch_size=4, graphs=True))
    given = [noise(2, seed=seed) for seed in range(40)]

    def answer(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return recorded(images).cpu()

    expected = [answer(images) for images in given]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(answer, given), expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-3)


def test_a_version_is_recorded_while_another_answers(gpu: Backbone, tiny_backbone: Backbone) -> None:
    settings = PassSettings.of(gpu.device, max_batch_size=4, graphs=True)
    first = Classifier(gpu, made_up(tiny_backbone, seed=0), engine=TorchEngine(settings))
    expected = first.scores(noise(3)).fused.cpu()
    with ThreadPoolExecutor(1) as pool:
        answering = [pool.submit(lambda: first.scores(noise(3)).fused.cpu()) for _ in range(60)]
        second = Classifier(
            gpu, made_up(tiny_backbone, seed=1, lora=adapters(tiny_backbone, 1)), engine=TorchEngine(settings)
        )
        other = [second.scores(noise(size)).fused.cpu() for size in (1, 2, 4)]
        for answer in answering:
            assert torch.allclose(answer.result(60), expected, atol=1e-3)
    assert all(torch.isfinite(each).all() for each in other)


def test_compiled_towers_give_the_same_features(tiny_spec: ModelSpec, gpu: Backbone) -> None:
    compiled = load_backbone(tiny_spec, device="cuda")
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        with pytest.raises(ModelLoadError, match="is too old to compile towers"):
            compiled.compile_towers()
        pytest.skip("this torch is too old to compile towers")
    compiled.compile_towers()
    run = ImagePass(compiled, PassSettings.of(gpu.device, max_batch_size=4, compiled=True))
    with torch.inference_mode():
        assert least_cosine(run(noise(3)), ImagePass(gpu, PassSettings())(noise(3)).cpu()) > FLOAT32


def test_two_versions_share_the_base_and_give_back_what_is_theirs(
    tiny_spec: ModelSpec, tiny_backbone: Backbone
) -> None:
    base = load_backbone(tiny_spec, device="cuda")

    def held() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    def bytes_of(model: Backbone) -> int:
        return sum(each.numel() * each.element_size() for each in model.parameters())

    images = noise(5)
    first = Classifier(base, made_up(tiny_backbone, seed=0, lora=adapters(tiny_backbone, 0)))
    of_first = first.scores(images).fused.cpu()
    before = held()
    second = Classifier(base, made_up(tiny_backbone, seed=1, lora=adapters(tiny_backbone, 1)))
    of_second = second.scores(images).fused.cpu()
    assert held() - before < bytes_of(base), "what no adapter touches is shared"
    assert not torch.allclose(of_first, of_second, atol=0.01)
    assert torch.allclose(first.scores(images).fused.cpu(), of_first, atol=1e-4)
    del second
    assert held() <= before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_anchors_are_driven_within_their_bound(gpu: Backbone, dtype: torch.dtype) -> None:
    config = gpu.resolve(LearnerConfig(k_adv=6))
    seeds = (noise(8) / 255).cuda()
    targets = torch.arange(8, device="cuda") % 3
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(3, gpu.joint_dim, generator=generator), dim=-1).cuda()
    prototypes = F.normalize(torch.randn(3, gpu.raw_dim, generator=generator), dim=-1).cuda()

    def driven(steps: int) -> tuple[Tensor, float | None]:
        settings = config.model_copy(update={"k_adv": steps})
        return drive(gpu, seeds, targets, old_text=text, prototypes=prototypes, config=settings, dtype=dtype)

    pixels, last = driven(6)
    _, first = driven(1)
    assert pixels.device.type == "cuda"
    assert float((pixels - seeds).abs().max()) <= config.epsilon_pixels + 1e-6
    assert first is not None
    assert last is not None
    assert last < first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_tasks_are_learned_and_both_are_answered(
    gpu: Backbone, tiny_backbone: Backbone, dtype: torch.dtype
) -> None:
    def learned(base: Backbone, arithmetic: torch.dtype) -> LearnerState:
        state = initial_state(tiny_backbone)
        for task in (task_of("red", "green"), task_of("blue", "black", seed=5)):
            generator = torch.Generator().manual_seed(0)
            state = learn_task(state, task, config=SETTINGS, generator=generator, backbone=base, dtype=arithmetic).state
        return state

    state, again = learned(gpu, dtype), learned(tiny_backbone, torch.float32)
    assert all(each.device.type == "cpu" for each in (state.prototypes, state.text_features))
    assert state.lora is not None
    assert all(f.a.device.type == f.b.device.type == "cpu" for f in state.lora.factors.values())
    cosines = F.cosine_similarity(state.prototypes, again.prototypes, dim=-1)
    assert float(cosines.min()) > 0.99
    images = torch.cat([coloured(name, 10, 90 + i) for i, name in enumerate(COLOURS)])
    right = torch.arange(4).repeat_interleave(10)
    for base in (gpu, tiny_backbone):  # what a GPU learned is answered on the CPU too
        found = Classifier(base, state).scores(images).fused.argmax(dim=1).cpu()
        assert float((found == right).float().mean()) > 0.9
