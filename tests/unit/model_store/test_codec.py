"""A state survives the two files exactly, and a byte that changes in them is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch

from model_store import codec
from model_store.types import CorruptVersionError, DatasetRecord, HeldOutRecord, InvalidStateError, Manifest
from segp_cl.odds import MULTIPLIERS, SHARES
from segp_cl.statistics import ClassSums
from segp_cl.types import (
    Calibration,
    Familiarity,
    HeldOutSummary,
    LearnedClass,
    LearnerState,
    LoraFactors,
    LoraState,
    ModelSpec,
    Path,
)

VERSION = "000002-0123456789ab"


def learned(seed: int = 0, *, classes: int = 3, rank: int | None = 2) -> LearnerState:
    generator = torch.Generator().manual_seed(seed)

    def rows(count: int, width: int) -> torch.Tensor:
        return torch.randn(count, width, generator=generator)

    lora = None
    if rank is not None:
        targets = ("visual.blocks.1.attn.qkv.weight[v]", "visual.blocks.0.fc1.weight", "text.ключ.weight")
        lora = LoraState(rank, 0.5, {name: LoraFactors(rows(rank, 8), rows(6, rank)) for name in targets})
    return LearnerState(
        model=ModelSpec("compact"),
        weights_digest="0" * 64,
        classes=tuple(LearnedClass(f"käse {n}", f"a photo of käse {n}.", 1, 20 + n) for n in range(classes)),
        prototypes=rows(classes, 8),
        text_features=rows(classes, 4),
        lora=lora,
        fusion_weight=2.5,
        tasks=1,
    )


def manifest_of(state: LearnerState, **changes: Any) -> Manifest:
    tensors, fields = codec.encode_state(state)
    said: dict[str, Any] = {
        "version_id": VERSION,
        "number": 2,
        "parent": "000001-ba9876543210",
        "parent_content_digest": "c" * 64,
        "created_at": datetime(2026, 3, 1, tzinfo=UTC),
        "preprocessing": None,
        "strategy": "segp",
        "settings": {"learning_rate": 0.003},
        "seed": 7,
        "job_id": "job-1",
        "dataset": DatasetRecord(name="cheese", digest="d" * 64, images_per_class={"a": 20}),
        "evaluation": {"accuracy": 0.5, "seconds": 2.0},
        "report": {"seconds": {"train": 3.0}},
        "libraries": {"torch": "2.6.0"},
        "tensors_sha256": codec.sha256(codec.pack(tensors)),
        "content_digest": "",
        "manifest_sha256": "",
    }
    return Manifest(**fields, **(said | changes))


def digest_of(state: LearnerState, **changes: Any) -> str:
    return codec.content_digest(codec.encode_state(state)[0], manifest_of(state, **changes))


def same(left: LearnerState, right: LearnerState) -> bool:
    factors = [state.lora.factors if state.lora else {} for state in (left, right)]
    plain = [
        replace(s, prototypes=torch.empty(0, 0), text_features=torch.empty(0, 0), lora=None) for s in (left, right)
    ]
    return (
        repr(plain[0]) == repr(plain[1])
        and torch.equal(left.prototypes, right.prototypes)
        and torch.equal(left.text_features, right.text_features)
        and (left.lora and (left.lora.rank, left.lora.scale)) == (right.lora and (right.lora.rank, right.lora.scale))
        and factors[0].keys() == factors[1].keys()
        and all(
            torch.equal(factors[0][name].a, factors[1][name].a) and torch.equal(factors[0][name].b, factors[1][name].b)
            for name in factors[0]
        )
    )


@pytest.mark.parametrize(("classes", "rank"), [(3, 2), (3, None), (0, 2), (0, None), (1, 1)])
def test_a_state_comes_back_exactly(classes: int, rank: int | None) -> None:
    state = learned(classes=classes, rank=rank)
    tensors, _ = codec.encode_state(state)
    back = codec.decode_state(codec.unpack(codec.pack(tensors), VERSION), manifest_of(state))
    assert same(back, state)
    assert not same(back, replace(state, prototypes=state.prototypes + 1) if classes else replace(state, tasks=9))


def test_tensors_that_are_views_half_precision_or_need_gradients_are_stored_as_plain_float32() -> None:
    both = torch.randn(6, 8, dtype=torch.float64)
    state = replace(
        learned(),
        prototypes=both[::2].bfloat16().float().requires_grad_(),
        text_features=torch.randn(4, 3).T,
        lora=LoraState(2, 1.0, {"x": LoraFactors(a=both[:2].float(), b=both[2:4].float().T)}),
    )
    tensors, _ = codec.encode_state(state)
    assert all(t.is_contiguous() and t.dtype == torch.float32 and not t.requires_grad for t in tensors.values())
    assert same(codec.decode_state(codec.unpack(codec.pack(tensors), VERSION), manifest_of(state)), state)


def test_factors_that_share_memory_can_be_stored() -> None:
    packed = torch.randn(4, 8)
    lora = LoraState(
        2, 1.0, {"k": LoraFactors(packed[:2], torch.ones(6, 2)), "v": LoraFactors(packed[2:], torch.ones(6, 2))}
    )
    tensors, _ = codec.encode_state(replace(learned(), lora=lora))
    assert torch.equal(codec.unpack(codec.pack(tensors), VERSION)["lora.v.a"], packed[2:])


def spoil(value: float) -> Callable[[LearnerState], LearnerState]:
    def spoiled(state: LearnerState) -> LearnerState:
        prototypes = state.prototypes.clone()
        prototypes[1, 2] = value
        return replace(state, prototypes=prototypes)

    return spoiled


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (spoil(float("nan")), "prototypes has values that are not finite"),
        (spoil(float("-inf")), "prototypes has values that are not finite"),
        (lambda s: replace(s, classes=s.classes[:2]), "prototypes has 3 rows, expected one for each of 2 classes"),
        (lambda s: replace(s, lora=replace(s.lora, rank=3)), "expected rank 3"),
    ],
)
def test_a_state_that_cannot_be_served_is_not_encoded(
    change: Callable[[LearnerState], LearnerState], said: str
) -> None:
    with pytest.raises(InvalidStateError, match=said):
        codec.encode_state(change(learned()))


def test_the_head_s_adapters_have_a_rank_of_their_own() -> None:
    state = learned(rank=2)
    assert state.lora is not None
    wide = LoraFactors(torch.ones(5, 8), torch.ones(6, 5))

    def adapting(target: str) -> LearnerState:
        assert state.lora is not None
        return replace(state, lora=replace(state.lora, factors={**state.lora.factors, target: wide}))

    headed = adapting("head.weight")
    tensors, _ = codec.encode_state(headed)
    assert same(codec.decode_state(tensors, manifest_of(headed)), headed)
    with pytest.raises(CorruptVersionError, match=r"head.weight.b has shape \(6, 3\), expected rank 5"):
        codec.decode_state(tensors | {"lora.head.weight.b": torch.ones(6, 3)}, manifest_of(headed))
    with pytest.raises(InvalidStateError, match="expected rank 2"):
        codec.encode_state(adapting("text.fc.weight"))


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert codec.canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        codec.canonical_json({"a": float("nan")})


def test_content_digest_does_not_cover_when_by_which_job_and_how_well() -> None:
    state = learned()
    assert digest_of(state) == digest_of(
        learned(),
        version_id="000009-0123456789ab",
        number=9,
        parent="000008-ba9876543210",
        created_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=1),
        job_id="job-2",
        evaluation=None,
        report={"seconds": {"train": 4.0}},
        dataset=DatasetRecord(name="other", digest="d" * 64, images_per_class={"a": 20}),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"parent_content_digest": "e" * 64},
        {"settings": {"learning_rate": 0.004}},
        {"seed": 8},
        {"strategy": "naive"},
        {"libraries": {"torch": "2.7.0"}},
        {"dataset": DatasetRecord(name="cheese", digest="e" * 64, images_per_class={"a": 20})},
        {"dataset": DatasetRecord(name="cheese", digest="d" * 64, images_per_class={"a": 19})},
        {"dataset": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_content_digest_covers_what_was_learned_from(changes: dict[str, Any]) -> None:
    assert digest_of(learned()) != digest_of(learned(), **changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, prototypes=s.prototypes * 1.0001),
        lambda s: replace(s, prototypes=s.text_features.repeat(1, 2), text_features=s.prototypes[:, :4]),
        lambda s: replace(s, classes=s.classes[::-1]),
        lambda s: replace(s, classes=(replace(s.classes[0], prompt="other"), *s.classes[1:])),
        lambda s: replace(s, classes=(replace(s.classes[0], images=99), *s.classes[1:])),
        lambda s: replace(s, lora=replace(s.lora, scale=0.25)),
        lambda s: replace(s, lora=None),
        lambda s: replace(s, fusion_weight=1.0),
        lambda s: replace(s, tasks=2),
        lambda s: replace(s, weights_digest="1" * 64),
        lambda s: replace(s, model=ModelSpec("compact", "openai")),
    ],
)
def test_content_digest_covers_all_that_was_learned(change: Callable[[LearnerState], LearnerState]) -> None:
    assert digest_of(learned()) != digest_of(change(learned()))


def test_a_manifest_comes_back_exactly() -> None:
    manifest = manifest_of(learned())
    back = codec.unpack_manifest(codec.pack_manifest(manifest), VERSION)
    assert back == manifest.model_copy(update={"manifest_sha256": back.manifest_sha256})
    assert codec.pack_manifest(back) == codec.pack_manifest(manifest)


def test_manifests_share_the_classes_that_they_have_in_common() -> None:
    first = codec.unpack_manifest(codec.pack_manifest(manifest_of(learned())), VERSION)
    renamed = first.classes[1].model_copy(update={"name": "another"})
    other = manifest_of(learned()).model_copy(update={"classes": (first.classes[0], renamed, first.classes[2])})
    second = codec.unpack_manifest(codec.pack_manifest(other), VERSION)
    assert second.classes == other.classes
    assert [one is two for one, two in zip(first.classes, second.classes, strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    "change",
    [{"images": "many"}, {"images": [1]}, {"colour": "red"}, {"name": None}],
    ids=["no number", "a list", "a field too many", "no name"],
)
def test_a_manifest_whose_classes_are_malformed_is_corrupt(change: dict[str, Any]) -> None:
    fields = json.loads(codec.pack_manifest(manifest_of(learned())))
    fields["classes"][1] |= change
    fields["manifest_sha256"] = "0" * 64
    blank = json.dumps(fields).encode()
    before, _, after = blank.rpartition(b"0" * 64)
    data = before + codec.sha256(blank).encode() + after
    with pytest.raises(CorruptVersionError, match="not a manifest"):
        codec.unpack_manifest(data, VERSION)


def test_a_manifest_is_json_a_person_can_read() -> None:
    text = codec.pack_manifest(manifest_of(learned())).decode()
    assert json.loads(text)["classes"][0]["name"] == "käse 0"
    assert '"name": "käse 0"' in text


def test_every_flipped_byte_of_a_manifest_is_noticed() -> None:
    data = codec.pack_manifest(manifest_of(learned(classes=1)))
    for position in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            flipped = bytearray(data)
            flipped[position] ^= mask
            with pytest.raises(CorruptVersionError, match=r"manifest\.json"):
                codec.unpack_manifest(bytes(flipped), VERSION)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b'{"manifest_sha256": 3}', b'{"manifest_sha256": ""}', b"\xff\xfe", b"[" * 100_000],
)
def test_what_is_no_manifest_is_named_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptVersionError, match=r"manifest\.json: not a manifest"):
        codec.unpack_manifest(data, VERSION)


def test_a_cut_manifest_is_corrupt() -> None:
    data = codec.pack_manifest(manifest_of(learned()))
    for end in range(0, len(data), 97):
        with pytest.raises(CorruptVersionError):
            codec.unpack_manifest(data[:end], VERSION)


def test_another_versions_manifest_is_corrupt() -> None:
    with pytest.raises(CorruptVersionError, match=f"it is the manifest of version {VERSION}"):
        codec.unpack_manifest(codec.pack_manifest(manifest_of(learned())), "000003-0123456789ab")


def test_a_manifest_of_another_format_is_refused() -> None:
    other = manifest_of(learned()).model_copy(update={"format": "keepsight-version/99"})
    with pytest.raises(CorruptVersionError, match=r"'keepsight-version/99'; this release reads .*/1 and"):
        codec.unpack_manifest(codec.pack_manifest(other), VERSION)


def test_a_manifest_of_the_first_release_is_read() -> None:
    first = manifest_of(learned()).model_copy(update={"format": "keepsight-version/1"})
    assert codec.unpack_manifest(codec.pack_manifest(first), VERSION).format == "keepsight-version/1"
    assert manifest_of(learned()).format == "keepsight-version/3"


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"{}", b"\x80\x04pickle"])
def test_what_is_not_safetensors_is_named_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptVersionError, match=r"tensors\.safetensors: not safetensors"):
        codec.unpack(data, VERSION)


def test_tensors_the_manifest_does_not_speak_of_are_corrupt() -> None:
    state = learned()
    tensors, _ = codec.encode_state(state)
    for wrong in (tensors | {"more": torch.ones(1, 1)}, {k: v for k, v in tensors.items() if k != "prototypes"}):
        with pytest.raises(CorruptVersionError, match="holds other tensors"):
            codec.decode_state(wrong, manifest_of(state))
    with pytest.raises(CorruptVersionError, match="prototypes has 2 rows"):
        codec.decode_state(tensors | {"prototypes": torch.ones(2, 8)}, manifest_of(state))
    factor = next(name for name in tensors if name.endswith(".b"))
    with pytest.raises(CorruptVersionError, match=r"has shape \(6, 3\), expected rank 2"):
        codec.decode_state(tensors | {factor: torch.ones(6, 3)}, manifest_of(state))


def test_a_covariance_survives_and_counts_for_the_digest() -> None:
    plain = learned()
    whitened = replace(plain, covariance=torch.eye(8))
    tensors, _ = codec.encode_state(whitened)
    back = codec.decode_state(codec.unpack(codec.pack(tensors), VERSION), manifest_of(whitened))
    assert back.covariance is not None
    assert torch.equal(back.covariance, torch.eye(8))
    assert codec.decode_state(codec.encode_state(plain)[0], manifest_of(plain)).covariance is None
    assert digest_of(whitened) != digest_of(plain)


def summed(state: LearnerState, *, scatter: bool = True) -> LearnerState:
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    counts = torch.tensor([known.images for known in state.classes])
    sums = ClassSums(
        counts,
        torch.randn(len(counts), 8, generator=generator, dtype=torch.float64),
        spread @ spread.T if scatter else None,
    )
    return replace(state, sums=sums, prototypes=sums.means, covariance=sums.covariance)


@pytest.mark.parametrize("scatter", [True, False])
def test_sums_survive_to_the_last_bit_and_the_covariance_follows_from_them(scatter: bool) -> None:
    state = summed(learned(), scatter=scatter)
    tensors, _ = codec.encode_state(state)
    assert "covariance" not in tensors
    back = codec.decode_state(codec.unpack(codec.pack(tensors), VERSION), manifest_of(state))
    assert back.sums is not None
    assert state.sums is not None
    assert torch.equal(back.sums.counts, state.sums.counts)
    assert torch.equal(back.sums.sums, state.sums.sums)
    if scatter:
        assert back.sums.scatter is not None
        assert state.sums.scatter is not None
        assert torch.equal(back.sums.scatter, state.sums.scatter)
        assert back.covariance is not None
        assert state.covariance is not None
        assert torch.equal(back.covariance, state.covariance)
    else:
        assert back.sums.scatter is None
        assert back.covariance is None


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("sums", torch.zeros(3, 7, dtype=torch.float64), "sums has shape"),
        ("sums", torch.zeros(3, 8), "expected a float64 matrix"),
        ("scatter", torch.zeros(1, 35, dtype=torch.float64), "upper triangle of 8 squared"),
        ("scatter", torch.full((1, 36), float("nan"), dtype=torch.float64), "not finite"),
    ],
)
def test_sums_of_another_size_or_kind_are_refused(name: str, tensor: torch.Tensor, problem: str) -> None:
    state = summed(learned())
    tensors = codec.encode_state(state)[0] | {name: tensor}
    with pytest.raises(CorruptVersionError, match=problem):
        codec.decode_state(tensors, manifest_of(state))


def test_a_calibration_survives_and_counts_for_the_digest() -> None:
    plain = learned()
    calibrated = replace(
        plain,
        calibration=Calibration(text=12.5, visual=30.0, fused=28.0, images=40),
        familiarity=Familiarity(visual=0.7, text=0.4, offset=-1.5, images=40),
    )
    tensors, _ = codec.encode_state(calibrated)
    assert codec.decode_state(tensors, manifest_of(calibrated)).calibration == calibrated.calibration
    assert codec.decode_state(tensors, manifest_of(calibrated)).familiarity == calibrated.familiarity
    assert codec.decode_state(codec.encode_state(plain)[0], manifest_of(plain)).calibration is None
    assert digest_of(calibrated) != digest_of(plain)


def with_held_out(strangeness: torch.Tensor | None) -> LearnerState:
    generator = torch.Generator().manual_seed(3)
    names: tuple[Path, ...] = ("text", "visual", "fused")
    odds = {
        path: torch.randn(MULTIPLIERS, SHARES, generator=generator, dtype=torch.float64).sort().values for path in names
    }
    return replace(learned(), held_out=HeldOutSummary(odds, strangeness, images=12, classes=3, nobody_spread=1.25))


@pytest.mark.parametrize("strangeness", [None, torch.linspace(-1, 1, SHARES, dtype=torch.float64)])
def test_what_is_kept_of_held_out_images_survives(strangeness: torch.Tensor | None) -> None:
    state = with_held_out(strangeness)
    tensors, _ = codec.encode_state(state)
    found = codec.decode_state(tensors, manifest_of(state)).held_out
    assert found is not None
    assert state.held_out is not None
    assert (found.images, found.classes, found.nobody_spread) == (12, 3, 1.25)
    assert all(torch.equal(found.odds[path], odds) for path, odds in state.held_out.odds.items())
    assert (found.strangeness is None) is (strangeness is None)
    if strangeness is not None:
        assert found.strangeness is not None
        assert torch.equal(found.strangeness, strangeness)
    assert digest_of(state) != digest_of(learned())


def test_a_version_from_before_has_the_digest_and_the_unknowns_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    state = with_held_out(None)
    said: list[Any] = []
    manifest = manifest_of(state).model_copy(update={"held_out": HeldOutRecord(images=12, classes=3)})
    tensors, _ = codec.encode_state(state)
    plain = codec.canonical_json

    def listened(value: Any) -> bytes:
        said.append(value)
        return plain(value)

    monkeypatch.setattr(codec, "canonical_json", listened)
    codec.content_digest(tensors, manifest)
    assert said[0]["held_out"] == {"images": 12, "classes": 3}
    found = codec.decode_state(tensors, manifest).held_out
    assert found is not None
    assert found.nobody_spread == 1.0


def test_quantiles_of_another_size_or_without_a_path_are_refused() -> None:
    state = with_held_out(None)
    tensors, _ = codec.encode_state(state)
    with pytest.raises(CorruptVersionError, match=rf"held_out.text has shape \(2, {SHARES}\)"):
        codec.decode_state(tensors | {"held_out.text": tensors["held_out.text"][:2]}, manifest_of(state))
    with pytest.raises(CorruptVersionError, match="other tensors"):
        codec.decode_state({name: t for name, t in tensors.items() if name != "held_out.text"}, manifest_of(state))
    with pytest.raises(CorruptVersionError, match="other tensors"):
        codec.decode_state(tensors, manifest_of(learned()))


def test_a_manifest_without_the_field_has_the_digest_that_it_had() -> None:
    """As an earlier release computed it: over the fields that it knew."""
    state = learned()
    manifest = manifest_of(state)
    tensors, _ = codec.encode_state(state)
    known = {
        name: value
        for name, value in manifest.model_dump(mode="json").items()
        if name
        not in codec._NOT_LEARNED
        | {"calibration", "familiarity", "held_out", "made", "other_parent_content_digest", "edit"}
    }
    assert manifest.dataset is not None
    known["dataset"] = manifest.dataset.model_dump(mode="json", exclude={"name"})
    digest = hashlib.sha256(codec.canonical_json(known))
    for name, tensor in sorted(tensors.items()):
        digest.update(codec.canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.numpy().tobytes())
    assert codec.content_digest(tensors, manifest) == digest.hexdigest()


def test_a_covariance_of_another_size_is_refused() -> None:
    tensors = codec.encode_state(learned())[0] | {"covariance": torch.eye(7)}
    with pytest.raises(CorruptVersionError, match="8 squared"):
        codec.decode_state(tensors, manifest_of(learned()))
