"""What is measured with: photographs, made-up versions, converted weights, and the other servers' command lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.serving.bare import ENGINES, Bare
from benchmarks.serving.contenders import FOLDER, PEERS
from benchmarks.serving.figures import least_centred_cosine
from benchmarks.serving.photos import LONGEST, SHORTEST, PhotosError, crops, prepare
from benchmarks.serving.servers import keepsight
from benchmarks.serving.stores import build, made_up_state
from benchmarks.serving.weights import converted
from model_store.store import Store
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import ModelSpec


def picture(width: int, height: int) -> Image.Image:
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


class TestPhotos:
    def test_crops_are_of_mixed_sizes_never_larger_than_their_picture_and_the_same_each_time(self) -> None:
        pictures = [picture(640, 427), picture(500, 700)]
        found = crops(pictures, count=12, seed=1)
        sizes = [Image.open(io.BytesIO(content)).size for content in found]
        assert len(set(sizes)) > 6
        assert all(SHORTEST <= max(size) <= LONGEST for size in sizes)
        assert all(any(w <= p.width and h <= p.height for p in pictures) for w, h in sizes)
        assert crops(pictures, count=12, seed=1) == found
        assert crops(pictures, count=12, seed=2) != found

    def test_one_s_own_photographs_are_taken_as_they_are(self, tmp_path: Path) -> None:
        own = tmp_path / "own"
        own.mkdir()
        picture(40, 30).save(own / "a.JPG", "JPEG")
        (own / "notes.txt").write_text("no photograph")
        found = prepare(tmp_path / "set", work=tmp_path, count=5, data=own)
        assert (tmp_path / "set" / "000.jpg").read_bytes() == (own / "a.JPG").read_bytes()
        assert (found["files"], found["longer_side_px"]) == (1, [40, 40, 40])
        small = prepare(tmp_path / "small", work=tmp_path, count=5, data=own, longest=20)
        assert small["longer_side_px"] == [20, 20, 20]

    def test_a_folder_without_photographs_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PhotosError, match="holds no"):
            prepare(tmp_path / "set", work=tmp_path, count=5, data=tmp_path)


class TestStores:
    def test_a_chain_of_versions_that_can_be_told_apart(self, tmp_path: Path, tiny_backbone: Backbone) -> None:
        ids = build(tmp_path / "store", tiny_backbone, versions=3, first_adapted=False, classes=4)
        store = Store(tmp_path / "store")
        assert store.current() == ids[0]
        assert [manifest.parent for manifest in store.list()] == [None, ids[0], ids[1]]
        states = [store.open(version, verify=True) for version in ids]
        assert states[0].lora is None
        assert states[1].lora is not None
        pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        visual = [Classifier(tiny_backbone, state).scores(pixels).visual for state in states]
        assert float((visual[0] - visual[1]).abs().max()) > 0.01

    def test_adapters_change_what_the_model_sees(self, tiny_backbone: Backbone) -> None:
        pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        plain, adapted = (
            Classifier(tiny_backbone, made_up_state(tiny_backbone, seed=0, adapted=adapted, classes=2)).features(pixels)
            for adapted in (False, True)
        )
        assert not torch.equal(plain.raw, adapted.raw)


class TestBare:
    def test_the_loop_and_single_images_answer(
        self, tmp_path: Path, tiny_spec: ModelSpec, tiny_backbone: Backbone
    ) -> None:
        build(tmp_path / "store", tiny_backbone, versions=1, first_adapted=True, classes=8)
        (tmp_path / "photos").mkdir()
        picture(60, 40).save(tmp_path / "photos" / "000.jpg")
        bare = Bare(tiny_spec, tmp_path / "store", tmp_path / "photos", threads=1)
        for engine in ENGINES:
            found = bare.loop(seconds=0.0, batch=4, decoders=2, engine=engine)
            assert found["answered"] == 4
            assert found["per_s"] > 0
            alone = bare.single(seconds=0.0, engine=engine)
            assert alone["answered"] == len(alone["latencies_ms"]) == 1


class TestWeights:
    def test_a_converted_model_gives_the_same_vectors(self) -> None:
        import open_clip
        from transformers import CLIPConfig, CLIPModel

        vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
        text = {"context_length": 77, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ours = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
        towers = {
            "vision_config": {"image_size": 32, "patch_size": 8},
            "text_config": {"vocab_size": 100, "eos_token_id": 99, "bos_token_id": 98, "pad_token_id": 0},
        }
        for tower in towers.values():
            tower |= {
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "hidden_act": "gelu",  # type: ignore[dict-item]
                "projection_dim": 16,
            }
        theirs = CLIPModel(CLIPConfig(projection_dim=16, **towers)).train(False)  # type: ignore[arg-type]
        missing, unexpected = theirs.load_state_dict(
            converted(ours.state_dict(), vision_layers=2, text_layers=2), strict=False
        )
        assert unexpected == []
        assert all("position_ids" in name for name in missing)
        pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            a, found = ours.encode_image(pixels), theirs.get_image_features(pixel_values=pixels)
        b = getattr(found, "pooler_output", found)
        assert least_centred_cosine(a.numpy(), b.numpy()) > 0.9999


class TestContenders:
    def test_every_peer_has_pinned_requirements_and_several_settings(self) -> None:
        for peer in PEERS:
            lines = (FOLDER / f"{peer.environment}.txt").read_text().splitlines()
            pinned = [line for line in lines if line and not line.startswith("#")]
            assert any(line.startswith("torch==") for line in pinned)
            assert all("==" in line for line in pinned)
            assert len(peer.tries) >= 4

    def test_all_peers_run_on_as_many_threads_and_say_nothing_home(self, tmp_path: Path) -> None:
        for peer in PEERS:
            launch = peer.launch(tmp_path, peer.tries[0], tmp_path, 2)
            assert launch.environment["OMP_NUM_THREADS"] == "2"
            assert launch.environment["DO_NOT_TRACK"] == "1"
            assert any("{port}" in word for word in launch.command)

    def test_litserve_s_settings_stay_json_when_the_port_is_known(self, tmp_path: Path) -> None:
        peer = next(peer for peer in PEERS if peer.name == "litserve")
        text = peer.launch(tmp_path, peer.tries[0], tmp_path, 2).command[-1].replace("{port}", "9000")
        assert json.loads(text)["port"] == 9000

    def test_keepsight_is_started_as_it_ships(self, tmp_path: Path) -> None:
        one = keepsight(tmp_path / "store", model="compact", pretrained=None, threads=2, api_processes=1)
        two = keepsight(tmp_path / "store", model="ViT-B-32", pretrained="x.pt", threads=2, api_processes=2)
        assert "--api-processes" not in one.command
        assert list(two.command)[-2:] == ["--api-processes", "2"]
        assert "--pretrained" in two.command
