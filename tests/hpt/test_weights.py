from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import json
import os
import pickle
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor, nn

from hpt import encoder, known_weights, weights
from hpt.data.fetch import Checksum
from hpt.errors import WeightsError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A torchvision ResNet-18 whose BatchNorm has moved, so that buffers matter."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    model.train()(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def state(resnet: nn.Module) -> State:
    return resnet.state_dict()


@pytest.fixture(scope="module")
def features(resnet: nn.Module) -> Callable[[weights.Loaded], bool]:
    """Whether an encoder with these weights gives the original's pooled features, to the last bit."""
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())(images)

    def same(loaded: weights.Loaded) -> bool:
        model = encoder.build(loaded.backbone, seed=9)
        model.load_state_dict(loaded.state)
        with torch.no_grad():
            return torch.equal(model.eval()(images), expected)

    return same


def prefixed(prefix: str, state: State, *, fc: bool = False) -> State:
    return {prefix + key: value for key, value in state.items() if fc or not key.startswith("fc.")}


@functools.cache
def another() -> State:
    torch.manual_seed(1)
    return torchvision.models.resnet18().state_dict()


def moco(state: State) -> dict[str, object]:
    """What the official MoCo-v2 saves: the query and the key encoder with their MLP, and the queue."""
    torch.manual_seed(2)
    tensors: State = {}
    for name, backbone in (("encoder_q", state), ("encoder_k", another())):
        tensors |= prefixed(f"module.{name}.", backbone)
        for layer, width in ((0, 512), (2, 128)):
            tensors[f"module.{name}.fc.{layer}.weight"] = torch.randn(width, 512)
            tensors[f"module.{name}.fc.{layer}.bias"] = torch.randn(width)
    tensors = {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1).long(), **tensors}
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": OrderedDict(tensors),
        "optimizer": optimizer.state_dict(),
    }


def test_a_torchvision_file_is_read_whole(tmp_path: Path, state: State, features: Callable[..., bool]) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    loaded = weights.read(path)
    assert features(loaded)
    assert (loaded.backbone, loaded.dialect) == ("resnet18", "torchvision or timm")
    assert (loaded.matched, loaded.expected, loaded.missing, loaded.unexpected) == (120, 120, (), ())
    assert loaded.ignored == ("fc.weight", "fc.bias")
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.summary() == (
        "resnet18.pth: torchvision or timm of a resnet18, 120 of 120 tensors matched, 2 ignored (head)"
    )


def test_a_checkpoint_that_lightly_and_lightning_wrote_is_read(
    tmp_path: Path, resnet: nn.Module, features: Callable[..., bool]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        import pytorch_lightning
        from lightly.models.modules import MoCoProjectionHead

        class MoCo(pytorch_lightning.LightningModule):  # type: ignore[misc]  # as lightly's documentation has it
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.Sequential(*list(copy.deepcopy(resnet).children())[:-1])
                self.projection_head = MoCoProjectionHead(512, 512, 128)
                self.backbone_momentum = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
                self.projection_head_momentum = copy.deepcopy(self.projection_head)

        trainer = pytorch_lightning.Trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu", devices=1
        )
        trainer.strategy.connect(MoCo())
        trainer.save_checkpoint(tmp_path / "lightly.ckpt", weights_only=True)
    loaded = weights.read(tmp_path / "lightly.ckpt")
    assert features(loaded)
    assert (loaded.backbone, loaded.matched, loaded.unexpected) == ("resnet18", 120, ())
    assert loaded.dialect == "Lightning (backbone.)"


def test_a_timm_model_gives_the_same_features_here(tmp_path: Path) -> None:
    torch.manual_seed(4)
    theirs = timm.create_model("resnet18", pretrained=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.bin")
    loaded = weights.read(tmp_path / "timm.bin", backbone="resnet18")
    ours = encoder.build("resnet18", seed=0)
    ours.load_state_dict(loaded.state)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True))


def test_moco_gives_the_query_encoder(tmp_path: Path, state: State, features: Callable[..., bool]) -> None:
    path = tmp_path / "moco_v2.pth.tar"
    torch.save(moco(state), path)
    loaded = weights.read(path)
    assert features(loaded)
    assert loaded.unexpected == ()
    assert len(loaded.ignored) == 2 + 4 + 124
    assert loaded.summary() == (
        "moco_v2.pth.tar: MoCo query encoder (module.encoder_q.) of a resnet18, 120 of 120 tensors matched, "
        "130 ignored (queue, head, key encoder)"
    )


def test_the_key_encoder_is_taken_only_when_it_is_alone(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": prefixed("module.encoder_k.", state)}, tmp_path / "k.pth")
    loaded = weights.read(tmp_path / "k.pth")
    assert loaded.dialect == "MoCo key encoder (module.encoder_k.)"
    assert torch.equal(loaded.state["conv1.weight"], state["conv1.weight"])


def children(state: State, resnet: nn.Module) -> State:
    return nn.Sequential(*list(resnet.children())[:-1]).state_dict()


LAYOUTS: dict[str, Callable[[State, nn.Module], object]] = {
    "bare encoder (no prefix)": lambda s, m: children(s, m),
    "bare encoder (backbone.)": lambda s, m: {"state_dict": prefixed("backbone.", children(s, m))},
    "torch.compile (_orig_mod.module.)": lambda s, m: {"model": prefixed("_orig_mod.module.", s, fc=True)},
    "torch.compile (module._orig_mod.)": lambda s, m: prefixed("module._orig_mod.", s, fc=True),
    "Lightning (model.backbone.)": lambda s, m: {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 3,
        "state_dict": prefixed("model.backbone.", s),
        "hyper_parameters": {"lr": 0.1},
    },
    "OpenSelfSup or MMSelfSup (backbone.)": lambda s, m: {
        "meta": {"iter": 5},
        "state_dict": {**prefixed("backbone.", s), "neck.mlp.0.weight": torch.ones(2, 2)},
    },
    "MoCo query encoder (encoder_q.0.)": lambda s, m: {
        "state_dict": {**prefixed("encoder_k.0.", another()), **prefixed("encoder_q.0.", s)}
    },
    "encoder (module.base_encoder.)": lambda s, m: {
        "state_dict": {
            **prefixed("module.momentum_encoder.", another()),
            **prefixed("module.base_encoder.", s),
        }
    },
    "encoder (backbone.)": lambda s, m: {
        **prefixed("momentum_backbone.", another()),
        **prefixed("backbone.", s),
    },
    "online encoder (online_network.encoder.)": lambda s, m: {
        "model_state_dict": {
            **prefixed("target_network.encoder.", another()),
            **prefixed("online_network.encoder.", s),
        }
    },
    "student encoder (student.module.backbone.)": lambda s, m: {
        "teacher": prefixed("backbone.", another()),
        "student": prefixed("module.backbone.", s),
        "epoch": 1,
    },
    "torchvision or timm": lambda s, m: {"state_dict_ema": another(), "state_dict": s},
    "encoder (_feature_blocks.)": lambda s, m: {"net": {"deeper": prefixed("_feature_blocks.", s)}},
    # VISSL: vissl/utils/checkpoint.py
    "encoder (trunk._feature_blocks.)": lambda s, m: {
        "classy_state_dict": {"base_model": {"model": prefixed("trunk._feature_blocks.", s)}},
        "iteration": 7,
    },
    # solo-learn, a Lightning module with a momentum copy beside its backbone
    "Lightning (backbone.)": lambda s, m: {
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {
            **prefixed("momentum_backbone.", another()),
            **prefixed("backbone.", s),
            "projector.0.weight": torch.ones(2, 2),
        },
    },
    # A SimCLR port (sthalles/SimCLR): the projection head sits in the backbone's fc
    "encoder (module.backbone.)": lambda s, m: {
        "arch": "resnet18",
        "state_dict": {
            **prefixed("module.backbone.", s),
            "module.backbone.fc.0.weight": torch.ones(2, 2),
            "module.backbone.fc.2.weight": torch.ones(2, 2),
        },
    },
    # A BYOL port (lucidrains/byol-pytorch)
    "online encoder (online_encoder.net.)": lambda s, m: {
        **prefixed("target_encoder.net.", another()),
        **prefixed("online_encoder.net.", s),
        "online_predictor.0.weight": torch.ones(2, 2),
    },
}


@pytest.mark.parametrize("dialect", LAYOUTS)
def test_a_dialect_is_named_and_loads_to_the_last_bit(
    tmp_path: Path, dialect: str, state: State, resnet: nn.Module, features: Callable[..., bool]
) -> None:
    torch.save(LAYOUTS[dialect](state, resnet), tmp_path / "w.pt")
    loaded = weights.read(tmp_path / "w.pt")
    assert loaded.dialect == dialect.removesuffix(" (no prefix)")
    assert loaded.unexpected == ()
    assert features(loaded)


def test_the_older_format_of_pytorch_is_read_without_a_warning(
    tmp_path: Path, state: State, features: Callable[..., bool]
) -> None:
    torch.save(moco(state), tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    assert features(weights.read(tmp_path / "old.pth.tar"))


def test_content_decides_about_the_format_and_not_the_name(
    tmp_path: Path, state: State, features: Callable[..., bool]
) -> None:
    safetensors.torch.save_file({f"model.{k}": v.clone() for k, v in state.items()}, tmp_path / "w.pth")
    torch.save(state, tmp_path / "w.safetensors")
    assert features(weights.read(tmp_path / "w.pth"))
    assert features(weights.read(tmp_path / "w.safetensors"))


def test_half_precision_becomes_fp32_and_missing_step_counters_become_zero(tmp_path: Path, state: State) -> None:
    halves = {k: v.bfloat16() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(halves, tmp_path / "half.pth")
    loaded = weights.read(tmp_path / "half.pth")
    assert loaded.state["conv1.weight"].dtype == torch.float32
    assert torch.equal(loaded.state["conv1.weight"], halves["conv1.weight"].float())
    assert loaded.state["bn1.num_batches_tracked"].item() == 0
    assert (loaded.matched, loaded.expected, len(loaded.missing)) == (100, 120, 20)
    assert "the other 20 are BatchNorm's step counters" in loaded.summary()


def test_tensors_of_no_known_kind_are_listed_as_unexpected(tmp_path: Path, state: State) -> None:
    torch.save({**state, "attention.weight": torch.ones(2), "fpn.weight": torch.ones(2)}, tmp_path / "w.pth")
    loaded = weights.read(tmp_path / "w.pth")
    assert loaded.unexpected == ("attention.weight", "fpn.weight")
    assert loaded.summary().endswith("2 unexpected (attention.weight, fpn.weight)")


@pytest.mark.parametrize("write", [torch.save, safetensors.torch.save_file])
def test_what_was_read_does_not_hang_on_the_file(
    tmp_path: Path, state: State, write: Callable[[State, Path], None]
) -> None:
    path = tmp_path / "w.pth"
    write(dict(state), path)
    loaded = weights.read(path)
    size = path.stat().st_size
    path.write_bytes(b"\xff" * size)  # in place, under any memory map
    assert torch.equal(loaded.state["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_saved_weights_come_back_with_their_hash_and_name(
    tmp_path: Path, state: State, features: Callable[..., bool]
) -> None:
    path = tmp_path / "backbone.safetensors"
    shared = prefixed("", state)
    shared["bn1.bias"] = shared["bn1.weight"][:]  # memory shared with another tensor
    shared["conv1.weight"] = shared["conv1.weight"].to(memory_format=torch.channels_last)
    sha256 = weights.save(shared, path, metadata={"strategy": "hpt"})
    loaded = weights.read(path)
    assert sha256 == loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.summary() == "backbone.safetensors: hptctl of a resnet18, 120 of 120 tensors matched"
    assert torch.equal(loaded.state["bn1.bias"], state["bn1.weight"])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["hptctl"]) == {"strategy": "hpt"}


def test_the_same_weights_and_facts_are_the_same_bytes(tmp_path: Path) -> None:
    facts = {"strategy": "hpt", "dataset": "flowers", "steps": "5000", "seed": "0"}
    tensors = {"conv1.weight": torch.ones(2, 2)}
    hashes = {weights.save(tensors, tmp_path / f"{n}.safetensors", metadata=facts) for n in range(20)}
    hashes.add(weights.save(tensors, tmp_path / "r.safetensors", metadata=dict(reversed(facts.items()))))
    assert len(hashes) == 1


def test_saving_into_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot write .*no.*a\.safetensors \(No such file"):
        weights.save({"a": torch.ones(1)}, tmp_path / "no" / "a.safetensors", metadata={})


class Payload:
    """Unpickled by an ordinary `pickle.load`, creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path, state: State, new_format: bool) -> None:
    target = tmp_path / "owned"
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": state, "x": Payload(target)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=r"evil.pth: the file holds more than tensors: posix.system"):
        weights.read(path)
    assert not target.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_plain_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "owned"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Payload(target), protocol=protocol))
    with pytest.raises(WeightsError):
        weights.read(path)
    assert not target.exists()


def test_settings_pickled_beside_the_weights_are_named(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"argparse.Namespace.*nothing of it was run; if you trust its author"):
        weights.read(tmp_path / "w.pth")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    with pytest.raises(WeightsError, match="TorchScript program, which is code"):
        weights.read(path)


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_a_truncated_file_is_one_line(tmp_path: Path, state: State, kind: str, share: float) -> None:
    path = tmp_path / "w.pth"
    if kind == "safetensors":
        weights.save(state, path, metadata={})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"w.pth: the file is truncated or damaged.*; download or copy it again"):
        weights.read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x80\x02" + bytes(range(256)) * 4, "truncated or damaged"),
        (bytes(reversed(range(256))) * 4, "neither PyTorch nor safetensors"),
        (b"<!DOCTYPE html>\n<html>", "a text that begins '<!DOCTYPE html>'"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a text that begins 'version https://git-lfs"),
        (b"\xff" * 8 + b"{}" * 40, "truncated or damaged"),
    ],
)
def test_what_is_no_weights_file_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said) as caught:
        weights.read(path)
    assert "\n" not in str(caught.value)


def test_a_zip_of_something_else_is_said_to_be_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.jpg", b"")
    with pytest.raises(WeightsError, match="a zip file that PyTorch did not write"):
        weights.read(tmp_path / "images.zip")


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing.pth does not exist; check --weights"):
        weights.read(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="is a folder, not a weights file"):
        weights.read(tmp_path)


def test_files_without_a_resnet_say_what_they_have(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save({"model": vit.state_dict()}, tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"no ResNet in it \(its tensors are model.cls_token, .* and \d+ more\)"):
        weights.read(tmp_path / "vit.pth")
    for content in ([torch.ones(2)], torch.ones(2), {}, {"epoch": 3}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"no ResNet in it \(it has no named tensors\)"):
            weights.read(tmp_path / "other.pth")


def test_a_dictionary_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, object] = {"a": {}}
    content["self"] = content
    torch.save(content, tmp_path / "loop.pth")
    with pytest.raises(WeightsError, match="no ResNet in it"):
        weights.read(tmp_path / "loop.pth")


@pytest.mark.parametrize(("has", "wanted"), [("resnet50", "resnet18"), ("resnet18", "resnet50")])
def test_another_depth_than_asked_for_is_refused_with_the_option_that_mends_it(
    tmp_path: Path, has: str, wanted: str
) -> None:
    torch.save(encoder.build(has, seed=0).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"weights are of a {has}, asked for {wanted}; use --backbone {has}"):
        weights.read(tmp_path / "w.pth", backbone=wanted)


def test_one_missing_tensor_of_a_resnet50_is_refused_by_name(tmp_path: Path) -> None:
    state = prefixed("module.", encoder.build("resnet50", seed=0).state_dict())
    del state["module.layer4.2.bn3.running_var"]
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"only 317 of the 318 tensors of a resnet50 \(missing: layer4.2.bn3.running_var\)"
    ):
        weights.read(tmp_path / "w.pth")


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path, state: State) -> None:
    torch.save({**state, "bn1.bias": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"bn1.bias has shape \[3\], in a resnet18 it is \[64\]"):
        weights.read(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_the_first_tensor_with_nan_or_infinity_is_named(tmp_path: Path, state: State, value: float) -> None:
    broken = state["layer2.0.conv1.weight"].clone()
    broken[3, 2, 1, 0] = value
    torch.save(prefixed("module.", {**state, "layer2.0.conv1.weight": broken}), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"module.layer2.0.conv1.weight holds NaN or infinity"):
        weights.read(tmp_path / "w.pth")


@pytest.mark.parametrize("how", ["int8", "sparse_coo"])
def test_quantised_and_sparse_weights_are_refused_by_name(tmp_path: Path, state: State, how: str) -> None:
    weight = state["conv1.weight"]
    changed = weight.to(torch.int8) if how == "int8" else weight.to_sparse()
    torch.save({**state, "conv1.weight": changed}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"conv1.weight does not hold plain numbers \({how}\)"):
        weights.read(tmp_path / "w.pth")


def test_a_stem_for_other_channels_is_read_and_one_for_more_than_sixteen_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", in_chans=5).state_dict()
    torch.save(state, tmp_path / "five.pth")
    loaded = weights.read(tmp_path / "five.pth")
    assert torch.equal(loaded.state["conv1.weight"], state["conv1.weight"])
    torch.save(timm.create_model("resnet18", in_chans=17).state_dict(), tmp_path / "many.pth")
    with pytest.raises(WeightsError, match=r"many.pth: a resnet18 for images of 17 channels, .* at most 16"):
        weights.read(tmp_path / "many.pth")


def test_a_known_name_is_its_file_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path))
    path = tmp_path / "weights" / "resnet50-0676ba61.pth"
    path.parent.mkdir()
    path.write_bytes(b"put here by hand")
    assert known_weights.locate("imagenet-supervised") == path
    assert known_weights.locate("some-file.pth") is None


def test_known_weights_are_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, asked = tmp_path / "served", []
    served.mkdir()
    torch.save(encoder.build("resnet50", seed=0).state_dict(), served / "w.pth")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(served))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    digest = hashlib.sha256((served / "w.pth").read_bytes()).hexdigest()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/w.pth"
        monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
        known = replace(known_weights.KNOWN["imagenet-supervised"], url=url, checksum=Checksum("sha256", digest[:8]))
        monkeypatch.setitem(known_weights.KNOWN, "imagenet-supervised", known)
        found = known_weights.locate("imagenet-supervised")
        assert found is not None
        assert weights.read(found, backbone="resnet50").sha256 == digest
        assert known_weights.locate("imagenet-supervised") == found
        assert asked == ["/w.pth"]
        found.unlink()
        wrong = replace(known, checksum=Checksum("sha256", "00000000"))
        monkeypatch.setitem(known_weights.KNOWN, "imagenet-supervised", wrong)
        with pytest.raises(WeightsError, match=r"put w\.pth into"):
            known_weights.locate("imagenet-supervised")
        assert not found.exists()
        server.shutdown()


def test_without_a_network_the_user_learns_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(WeightsError) as caught:
        known_weights.locate("moco-v2-800ep")
    assert str(caught.value) == (
        "cannot reach dl.fbaipublicfiles.com (Connection refused); put moco_v2_800ep_pretrain.pth.tar into "
        f"{tmp_path / 'weights'}, or give --weights FILE or RUN"
    )


def detectron2(state: State) -> dict[str, object]:
    """A `.pkl` of detectron2's model zoo: NumPy arrays by its names, which its ResNet gives them."""
    out: dict[str, object] = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        for number in range(1, 4):
            name = name.replace(f".bn{number}.", f".conv{number}.norm.")
        for stage in range(1, 5):
            name = name.replace(f"layer{stage}.", f"res{stage + 1}.") if name.startswith(f"layer{stage}.") else name
        if name.startswith(("conv1.", "bn1.")):
            name = "stem." + name.replace("bn1.", "conv1.norm.")
        out[f"backbone.bottom_up.{name}"] = value.numpy()
    return {"model": out, "__author__": "somebody", "matching_heuristics": True}


def test_detectron2s_arrays_are_read_without_running_anything(
    tmp_path: Path, state: State, features: Callable[..., bool]
) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(detectron2(state)))
    loaded = weights.read(tmp_path / "w.pkl")
    assert loaded.dialect.startswith("detectron2 (")
    assert features(loaded)
    assert "BGR" in loaded.oddities()[-1]


@pytest.mark.parametrize("where", ["beside", "inside an array"])
def test_code_beside_arrays_is_refused_and_not_run(tmp_path: Path, state: State, where: str) -> None:
    content = detectron2(state)
    target = tmp_path / "owned"
    content["x"] = Payload(target) if where == "beside" else np.array([Payload(target)], dtype=object)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError):
        weights.read(tmp_path / "evil.pkl")
    assert not target.exists()


def test_a_part_of_a_backbone_is_taken_only_when_that_is_allowed(tmp_path: Path, state: State) -> None:
    part = {key: value for key, value in state.items() if not key.startswith("layer4.1.bn2.")}
    part["layer4.0.bn1.weight"] = torch.ones(7)
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match="--allow-partial"):
        weights.read(tmp_path / "part.pth", backbone="resnet18")
    loaded = weights.read(tmp_path / "part.pth", allow_partial=True)
    assert torch.equal(loaded.state["conv1.weight"], state["conv1.weight"])
    assert "layer4.1.bn2.weight" in loaded.missing
    assert "layer4.0.bn1.weight" in loaded.missing
    assert loaded.matched == loaded.expected - len(loaded.missing)
    assert "are those of a fresh model" in loaded.summary()
    encoder.build("resnet18", seed=3).load_state_dict(loaded.state)
    with pytest.raises(WeightsError, match="would be a fresh model's"):
        weights.read(tmp_path / "part.pth", backbone="resnet50", allow_partial=True)


def test_batch_norms_statistics_are_looked_at(tmp_path: Path) -> None:
    fresh = encoder.build("resnet18", seed=0).state_dict()
    torch.save(fresh, tmp_path / "fresh.pth")
    assert "those of a fresh model" in weights.read(tmp_path / "fresh.pth").oddities()[0]
    odd = {key: value.clone() for key, value in fresh.items()}
    for key, value in odd.items():
        if key.endswith("running_mean"):
            value.fill_(0.1)
    odd["bn1.running_var"][0], odd["layer1.0.bn1.running_var"][0] = -1, 1e9
    torch.save(odd, tmp_path / "odd.pth")
    said = "; ".join(weights.read(tmp_path / "odd.pth").oddities())
    assert "negative variances in 1 BatchNorm layers (bn1)" in said
    assert "variances above a million in 1 BatchNorm layers (layer1.0.bn1)" in said
