"""Networks: grey images in, logits out; ImageNet weights or a clear refusal; what is saved loads
exactly."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch

from edge.contract.errors import ConfigError, CorpusError
from trainer.networks.checkpoint import (
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)
from trainer.networks.model import (
    NetworkSpec,
    build_network,
    check_architecture,
    check_clips,
    find_weights,
    normalise_bands,
    normalise_standard,
)
from trainer.recipe import Normalise, find_recipe

TINY = "test_efficientnet"


def grey(samples: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (samples, 1, 128, 281), generator=torch.Generator().manual_seed(1)
    ).float()


@pytest.mark.parametrize("stem_pool", [1, 2, 4])
def test_images_to_logits(stem_pool: int) -> None:
    assert build_network(NetworkSpec(TINY, 5, stem_pool=stem_pool))(grey()).shape == (2, 5)


def test_grey_levels_are_scaled_inside() -> None:
    network = build_network(NetworkSpec(TINY, 5)).eval()
    with torch.inference_mode():
        assert torch.allclose(network(grey()), network.body(grey() / 255))


def test_bands_without_steady_noise() -> None:
    rng = torch.Generator().manual_seed(1)
    call = torch.zeros(1, 1, 16, 40)
    call[..., 5:8, 10:14] = 1.0
    hum = torch.rand(1, 1, 16, 1, generator=rng)
    assert torch.allclose(normalise_bands(call + hum), normalise_bands(call), atol=1e-5)
    assert torch.allclose(normalise_bands(call).square().mean(), torch.tensor(1.0), atol=0.01)
    assert torch.equal(normalise_bands(torch.zeros(1, 1, 16, 40)), torch.zeros(1, 1, 16, 40))


def test_standard_forgets_level_and_contrast_alone() -> None:
    image = torch.rand(3, 1, 16, 40, generator=torch.Generator().manual_seed(1))
    found = normalise_standard(image)
    assert torch.allclose(found.mean(dim=(2, 3)), torch.zeros(3, 1), atol=1e-5)
    assert torch.allclose(found.std(dim=(2, 3)), torch.ones(3, 1), atol=0.01)
    assert torch.allclose(normalise_standard(0.5 * image + 0.3), found, atol=0.01)


def test_imagenet_undoes_what_the_weights_were_trained_with() -> None:
    network = build_network(NetworkSpec(TINY, 5, normalise="imagenet")).eval()
    with torch.inference_mode():
        assert torch.allclose(
            network(grey()), network.body((grey() / 255 - 0.449) / 0.226), atol=1e-5
        )


@pytest.mark.parametrize("normalise", get_args(Normalise))
def test_a_black_image_stays_finite(normalise: Normalise) -> None:
    network = build_network(NetworkSpec(TINY, 5, normalise=normalise))
    black = torch.zeros(2, 1, 128, 281)
    loss = network(black).square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("architecture", ["test_resnet", TINY])
def test_a_clip_is_its_crops_joined_along_time(architecture: str) -> None:
    """Average pooling is linear: a clip's features are the mean of its crops', whatever their
    order."""
    network = build_network(NetworkSpec(architecture, 5, stem_pool=2, normalise="standard")).eval()
    clips = torch.randint(
        0, 256, (2, 3, 128, 281), generator=torch.Generator().manual_seed(2)
    ).float()
    with torch.inference_mode():
        found = network(clips)
        single = torch.stack([network(clips[:, i : i + 1]) for i in range(3)])
        assert found.shape == (2, 5)
        assert torch.allclose(found, network(clips[:, [2, 0, 1]]), atol=1e-5)
        assert torch.allclose(network(clips[:, :1].expand(-1, 3, -1, -1)), single[0], atol=1e-5)
    assert torch.allclose(found, single.mean(dim=0), atol=1e-4)


@pytest.mark.parametrize("architecture", ["resnest50d", "tf_efficientnet_b3", "test_resnet", TINY])
def test_networks_of_the_recipes_can_join_clips(architecture: str) -> None:
    check_clips(architecture)


@pytest.mark.parametrize("architecture", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_networks_without_such_maps_cannot_join_clips(architecture: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"'{architecture}': gives no feature maps .* clip_crops: 1$"
    ):
        check_clips(architecture)


@pytest.mark.parametrize("name", ["demo", "small"])
def test_two_members_of_a_bundle_for_a_small_station_are_small(name: str) -> None:
    members = find_recipe(name).members
    networks = [
        build_network(NetworkSpec(m.architecture, 40, stem_pool=m.stem_pool)) for m in members
    ]
    assert sum(4 * p.numel() for network in networks for p in network.parameters()) <= 8e6


def test_every_recipe_names_networks_that_timm_has() -> None:
    for name in ("demo", "small", "published"):
        for member in find_recipe(name).members:
            check_architecture(member.architecture)


def test_an_unknown_architecture_is_refused_with_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"'resnest50x': unknown to timm .*resnest50d"):
        build_network(NetworkSpec("resnest50x", 5))


def test_imagenet_weights_from_a_folder(tmp_path: Path) -> None:
    original = timm.create_model(TINY, num_classes=1000).eval()
    safetensors.torch.save_file(original.state_dict(), tmp_path / f"{TINY}.safetensors")
    network = build_network(NetworkSpec(TINY, 5), pretrained=tmp_path)
    loaded = network.body.state_dict()
    wanted = original.state_dict()
    stem = "conv_stem.weight"
    assert torch.allclose(loaded[stem], wanted[stem].sum(dim=1, keepdim=True))
    same = [name for name in wanted if name != stem and not name.startswith("classifier")]
    assert all(torch.equal(loaded[name], wanted[name]) for name in same)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{TINY}\.safetensors: no such file.*--weights FOLDER"):
        build_network(NetworkSpec(TINY, 5), pretrained=tmp_path)
    (tmp_path / f"{TINY}.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="not the weights of"):
        build_network(NetworkSpec(TINY, 5), pretrained=tmp_path)
    other = timm.create_model("test_resnet")
    safetensors.torch.save_file(other.state_dict(), tmp_path / f"{TINY}.safetensors")
    with pytest.raises(ConfigError, match="not the weights of"):
        build_network(NetworkSpec(TINY, 5), pretrained=tmp_path)


def test_without_a_network_there_is_one_line_never_random_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object) -> str:
        raise FileNotFoundError("no connection\nand more lines")

    monkeypatch.setattr("trainer.networks.model.hf_hub_download", offline)
    with pytest.raises(ConfigError) as refused:
        build_network(NetworkSpec(TINY, 5), pretrained=True)
    assert "no connection" in str(refused.value)
    assert "--weights FOLDER" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_architecture_without_published_weights_says_so() -> None:
    with pytest.raises(ConfigError, match="timm knows no ImageNet weights"):
        find_weights("resnet26t_nothing", True)


def _optimiser(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)


def _step(network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    network(grey()).square().mean().backward()
    optimiser.step()


def test_a_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    straight = build_network(NetworkSpec(TINY, 3)).to(memory_format=torch.channels_last)
    adam = _optimiser(straight)
    _step(straight, adam)
    write_checkpoint(tmp_path, straight, adam, 7, "inputs")
    resumed = build_network(NetworkSpec(TINY, 3)).to(memory_format=torch.channels_last)
    other = _optimiser(resumed)
    assert read_checkpoint(tmp_path, resumed, other, "inputs") == 7
    _step(straight, adam)
    _step(resumed, other)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_other_inputs_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    network = build_network(NetworkSpec(TINY, 3))
    adam = _optimiser(network)
    assert read_checkpoint(tmp_path, network, adam, "inputs") == 0
    write_checkpoint(tmp_path, network, adam, 7, "inputs")
    assert read_checkpoint(tmp_path, network, adam, "others") == 0
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert read_checkpoint(tmp_path, network, adam, "inputs") == 0


def test_weights_load_strictly(tmp_path: Path) -> None:
    network = build_network(NetworkSpec(TINY, 3)).eval()
    write_weights(tmp_path / "w.safetensors", network)
    again = build_network(NetworkSpec(TINY, 3)).eval()
    read_weights(tmp_path / "w.safetensors", again)
    assert torch.equal(network(grey()), again(grey()))
    with pytest.raises(CorpusError, match="not the weights of this network"):
        read_weights(tmp_path / "w.safetensors", build_network(NetworkSpec(TINY, 4)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
@pytest.mark.parametrize("normalise", get_args(Normalise))
def test_the_network_exports_with_a_dynamic_batch(tmp_path: Path, normalise: Normalise) -> None:
    member = find_recipe("demo").members[1]
    network = build_network(
        NetworkSpec(member.architecture, 8, stem_pool=member.stem_pool, normalise=normalise)
    ).eval()
    path = tmp_path / "member.onnx"
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        network,
        (grey(2),),
        path,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=shapes,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        wanted = network(grey(5)).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: grey(5).numpy()})
    assert np.abs(found - wanted).max() < 1e-4
