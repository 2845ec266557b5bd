"""A VAE from elsewhere becomes a bundle: its numbers are its own, and one that is read wrongly is told so in a line."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from commands import RUN, only_line
from draws import CPU, seeded
from torch import nn
from vaes import binary

import benchmark
from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.exported import ExportedConfig, Unexportable, export_vae, open_program
from backbones.trained import TrainedVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.examine import Misread, examine
from benchmark.bundles.find import all_bundles
from benchmark.datasets.api import Images
from benchmark.datasets.content import last_seen
from benchmark.datasets.digits import Digits
from benchmark.datasets.path import PathDataset
from benchmark.datasets.splits import SPLITS
from benchmark.errors import UsageError
from benchmark.registry import Registry
from benchmark.report.draws import Draws
from benchmark.report.paths import decode_paths


@pytest.fixture(scope="module")
def shipped():
    """The shipped VAE of digits, as somebody would have it: a module."""
    return all_bundles()[0]["digits-conv_vae"].build(ConvVAE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def digits():
    return Digits().load([])


@pytest.fixture(scope="module")
def few(digits):
    """So many of the digits that it is seen whether a VAE is read as it was trained."""
    return Images(digits.train[:64], digits.val[:64], digits.test[:64], digits.preparation)


def by_split(images):
    return {split: getattr(images, split) for split in SPLITS}


def read(vae, **changes):
    """The VAE as two functions, read as it was trained but for `changes`."""
    usual = {"encode": vae.encode, "decode": vae.decode, "name": "mine", "value_range": (0, 1), "spread": "std"}
    return TrainedVAE(**usual | changes)


def found(trained, images):
    """What an examination finds."""
    return examine(trained.build(images.shape), images, CPU)


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_a_wrapped_copy_of_a_shipped_bundle_has_its_numbers(shipped, tmp_path, brief):
    original = all_bundles()[0]["digits-conv_vae"]
    bundle = benchmark.wrap(
        encode=shipped.encode, decode=shipped.decode, images="digits", name="copy", value_range=(0, 1), spread="std"
    )
    for split in ("train", "val", "test"):
        for its, ours in zip(bundle.posterior(split, CPU), original.posterior(split, CPU)):
            assert torch.equal(its, ours)
    asked = {"priors": "gmm[components=3]", "seeds": 1, "metrics": "fd,mmd,c2st", "device": "cpu"}
    frames = [
        benchmark.run(bundle=str(each.path), results=tmp_path / "results", **asked) for each in (original, bundle)
    ]
    values = [
        frame[frame["metric"] != "fit_seconds"].set_index(["row", "seed", "source", "metric"]) for frame in frames
    ]
    assert len(values[0]) > 20
    assert values[0]["value"].equals(values[1]["value"])
    assert set(frames[1]["backbone"]) == {"copy"}


def test_other_ranges_orders_and_spreads_are_read_as_they_are_said(shipped, few):
    """The same VAE in four dresses leaves the same of the images, to rounding."""

    def log_variance(x):
        mean, std = shipped.encode(x)
        return mean, 2 * std.log()

    dresses = [
        {},
        {"encode": log_variance, "spread": "log_variance"},
        {
            "encode": lambda x: shipped.encode((x + 1) / 2),
            "decode": lambda z: shipped.decode(z) * 2 - 1,
            "value_range": (-1, 1),
        },
        {
            "encode": lambda x: shipped.encode(x.movedim(-1, 1)),
            "decode": lambda z: shipped.decode(z).movedim(1, -1),
            "channels": "last",
        },
    ]
    errors = [found(read(shipped, **dress), few) for dress in dresses]
    assert errors == pytest.approx([errors[0]] * 4, rel=1e-4)
    assert 0 < errors[0] < 0.3


def test_narrow_posteriors_are_kept_as_they_are(shipped, few, tmp_path):
    def narrow(x):
        mean, std = shipped.encode(x)
        return mean, std / 1000

    kept = benchmark.wrap(
        encode=narrow,
        decode=shipped.decode,
        images=by_split(few),
        name="narrow",
        value_range=(0, 1),
        spread="std",
        out=tmp_path / "narrow",
    )
    mean, std = kept.posterior("test", CPU)
    usual, wide = (part[:64] for part in all_bundles()[0]["digits-conv_vae"].posterior("test", CPU))
    assert ((mean - usual).abs() > std).any()  # float16 would have moved them out of their posteriors
    assert (mean.half().float() == usual).all()
    torch.testing.assert_close(std, wide / 1000, rtol=1e-2, atol=1e-6)


def test_a_deterministic_encoder_gives_points_or_the_width_that_is_said(shipped, few, tmp_path, capsys):
    for std in (0.0, 0.25):
        bundle = benchmark.wrap(
            encode=lambda x: shipped.encode(x)[0],
            decode=shipped.decode,
            images=by_split(few),
            name="points",
            value_range=(0, 1),
            spread="none",
            std=std,
            out=tmp_path / f"{std}",
        )
        assert "points is deterministic" in capsys.readouterr().err
        assert (bundle.posterior("val", CPU)[1] == std).all()
        assert (bundle.card["hole"]["kl"] is None) == (std == 0)


def test_the_bound_of_binary_images_is_the_models_own():
    torch.manual_seed(0)
    own = ConvVAE((1, 16, 16), ConvVAEConfig(width=2, nz=3, likelihood="bernoulli")).eval()
    wrapped = read(own, likelihood="bernoulli").build((1, 16, 16))
    x = binary(5)
    assert torch.equal(wrapped.log_weight(x, seeded()), own.log_weight(x, seeded()))
    assert torch.equal(export_vae(wrapped).log_weight(x, seeded()), own.log_weight(x, seeded()))
    assert read(own).build((1, 16, 16)).log_weight(x, seeded()) is None


# ---- what is read wrongly -----------------------------------------------------------------------------------------


class Training(nn.Module):
    """The VAE before anybody called `.eval()`."""

    def __init__(self):
        super().__init__()
        self.vae = all_bundles()[0]["digits-conv_vae"].build(ConvVAE).train().requires_grad_(False)


def wrong(vae):
    """What is wrong -> how the VAE is read, and the words of the line that says so."""
    mean_of = lambda x: vae.encode(x)[0]  # noqa: E731
    training = Training().vae
    return {
        "range, seen in what is decoded": (
            {"encode": lambda x: vae.encode((x + 1) / 2), "decode": lambda z: vae.decode(z) * 2 - 1},
            "value_range = (-1, 1)",
        ),
        "range, seen in reconstructions": ({"value_range": (-1, 1)}, "with value_range = (0, 1)"),
        "bytes": (
            {"encode": lambda x: vae.encode(x / 255), "decode": lambda z: vae.decode(z) * 255},
            "value_range = (0, 255)",
        ),
        "logits": ({"decode": lambda z: torch.logit(vae.decode(z), 1e-6)}, "last sigmoid or tanh"),
        "order": (
            {"encode": lambda x: vae.encode(x.movedim(-1, 1)), "decode": lambda z: vae.decode(z).movedim(1, -1)},
            "with channels = 'last' it does",
        ),
        "order the other way": ({"channels": "last"}, "with channels = 'first' it does"),
        "log-variance as std": (
            {"encode": lambda x: (mean_of(x), 2 * vae.encode(x)[1].log())},
            "spread = 'log_variance'",
        ),
        "std as log-variance": ({"spread": "log_variance"}, "spread = 'std'"),
        "training mode": ({"encode": training.encode, "decode": training.decode}, "call .eval()"),
        "training mode of the decoder": ({"decode": training.decode}, "batch norm in training mode"),
        "batch norm of the spread alone": (
            {
                "encode": lambda x: (
                    mean_of(x),
                    nn.functional.batch_norm(vae.encode(x)[1], None, None, training=True).exp(),
                )
            },
            "batch norm in training mode",
        ),
        "batch norm of vectors": (
            {"decode": lambda z: vae.decode(nn.functional.batch_norm(z, None, None, training=True) * 0.1 + z)},
            "batch norm in training mode",
        ),
        "a batch size of its own": (
            {"encode": lambda x: vae.encode(x.view(256, 1, 32, 32))},
            "encode fails for a batch",
        ),
        "dropout": ({"encode": lambda x: vae.encode(nn.functional.dropout(x))}, "dropout"),
        "a draw of the decoder": ({"decode": lambda z: vae.decode(z) + 0.1 * torch.randn(1)}, "mean of the decoder's"),
        "other images": ({"encode": lambda x: vae.encode(1 - x)}, "are these the images that it was trained on"),
        "no weights": ({"encode": ConvVAE((1, 32, 32), ConvVAEConfig()).eval().encode}, "were its weights loaded"),
        "NaN of the encoder": ({"encode": lambda x: (mean_of(x) * torch.nan, vae.encode(x)[1])}, "256 of 256 images"),
        "NaN of the decoder": ({"decode": lambda z: vae.decode(z) * torch.nan}, "not finite"),
        "z alone": ({"encode": mean_of}, "not two tensors: the mean and the std"),
        "a string": ({"encode": lambda x: "mean"}, "a str"),
        "shapes that differ": ({"encode": lambda x: (mean_of(x), vae.encode(x)[1][:, :2])}, "a std (256, 2)"),
        "one mean for all": ({"encode": lambda x: tuple(e[:1] for e in vae.encode(x))}, "1 means for 256 images"),
        "images of another shape": ({"decode": lambda z: vae.decode(z)[..., 1:]}, "expected images (256, 1, 32, 32)"),
        "a decoder that fails": ({"decode": lambda z: vae.decode(z[:, 1:])}, "does not take latents (256, 16)"),
    }


NAMES = list(wrong(all_bundles()[0]["digits-conv_vae"].build(ConvVAE).eval()))


@pytest.mark.parametrize("name", NAMES)
def test_a_vae_that_is_read_wrongly_is_told_so(shipped, digits, name):
    changes, words = wrong(shipped)[name]
    with pytest.raises(Misread) as error:
        found(read(shipped, **changes), digits)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"spread": "logvar"}, "spread is 'logvar'; expected one of 'std', 'log_variance', 'none'"),
        ({"channels": "rgb"}, "channels is 'rgb'"),
        ({"likelihood": "bce"}, "expected one of 'bernoulli', 'squared_error', or None"),
        ({"value_range": 255}, "value_range is 255"),
        ({"value_range": (1, 0)}, "for example (0, 1) or (-1, 1)"),
        ({"std": 0.1}, "std is 0.1"),
        ({"name": "my vae"}, "a word of letters"),
        ({"name": "conv_vae"}, "is that of a backbone of the suite"),
        ({"images": "digit"}, "did you mean 'digits'"),
        ({"keep": [0, 100, 200]}, "keep"),
        ({"keep": "300,100,200"}, "keep"),
        ({"seed": "1"}, "seed"),
        ({"device": "gpu"}, "device"),
        ({"encode": None}, "its encoder does not take images"),
    ],
)
def test_nothing_is_written_of_what_is_refused(shipped, tmp_path, changes, words):
    usual = {"encode": shipped.encode, "decode": shipped.decode, "name": "mine", "value_range": (0, 1), "spread": "std"}
    with pytest.raises(UsageError) as error:
        benchmark.wrap(**{"images": "digits", **usual, **changes}, out=tmp_path / "bundle")
    assert words in str(error.value)
    assert list(tmp_path.glob("bundle*")) == []


# ---- programs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(shipped):
    return export_vae(read(shipped).build((1, 32, 32)))


@pytest.mark.parametrize("n", [1, 2, 3, 250])
def test_a_program_does_what_the_module_does_for_any_batch(shipped, programs, n):
    x, z = torch.rand(n, 1, 32, 32, generator=seeded()), torch.randn(n, 16, generator=seeded(1))
    for its, own in zip((*programs.encode(x), programs.decode(z)), (*shipped.encode(x), shipped.decode(z))):
        assert torch.equal(its, own)


def test_gradients_pass_a_program(shipped, programs):
    ours, theirs = (torch.rand(3, 1, 32, 32, generator=seeded()).requires_grad_() for _ in range(2))
    programs.encode(ours)[0].square().sum().backward()
    shipped.encode(theirs)[0].square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_weights_of_a_closure_travel_with_it(digits):
    """Neither function knows a module: all that they read are tensors around them."""
    images = digits.train.float().flatten(1) / 255
    centre = images.mean(0)
    axes = torch.linalg.svd(images - centre, full_matrices=False)[2][:12]
    encode = lambda x: (x.flatten(1) - centre) @ axes.T  # noqa: E731
    decode = lambda z: (z @ axes + centre).unflatten(1, (1, 32, 32))  # noqa: E731
    trained = TrainedVAE(encode, decode, "pca", (0, 1), "none")
    assert found(trained, digits) < 0.4
    exported = export_vae(trained.build(digits.shape))
    x = digits.test[:5] / 255
    torch.testing.assert_close(exported.encode(x)[0], encode(x))
    torch.testing.assert_close(exported.decode(encode(x)), decode(encode(x)).clamp(0, 1))


def test_code_that_cannot_be_traced_is_refused_with_the_other_way(shipped, few, tmp_path):
    def by_value(z):
        return shipped.decode(z) if z.sum() > 0 else shipped.decode(z) * 1

    with pytest.raises(UsageError, match=r"decode cannot be written as a program.*in a file of its own"):
        benchmark.wrap(
            encode=shipped.encode,
            decode=by_value,
            images=by_split(few),
            name="mine",
            value_range=(0, 1),
            spread="std",
            out=tmp_path / "bundle",
        )
    assert not (tmp_path / "bundle").exists()


def test_a_function_with_a_state_of_its_own_is_no_program(shipped):
    """It gives other numbers in its second call: a program of the first would be wrong in silence."""
    calls = []

    def decode(z):
        calls.append(1)
        return shipped.decode(z + len(calls))

    with pytest.raises(Unexportable, match="gives other numbers"):
        export_vae(read(shipped, decode=decode).build((1, 32, 32)))


def test_a_function_that_fixes_how_many_images_is_told_what_leaves_it_open(shipped):
    decode = lambda z: shipped.decode(z.view(len(z), -1)) + torch.zeros(len(z), 1, 1, 1)  # noqa: E731
    with pytest.raises(Unexportable, match=r"x\.shape\[0\] leaves it open"):
        export_vae(read(shipped, decode=decode).build((1, 32, 32)))


class Touching:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def changed(raw, change):
    """A program's file with its members changed: `change(name, content)` -> content."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as file, zipfile.ZipFile(out, "w") as copy:
        for name in file.namelist():
            copy.writestr(name, change(name, file.read(name)))
    return out.getvalue()


def test_no_program_is_unpickled(programs, tmp_path):
    raw, touched = programs.encoder.numpy().tobytes(), tmp_path / "touched"

    def pickled(name, content):
        if name.endswith("constants_config.json"):
            config = json.loads(content)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config).encode()
        return pickle.dumps(Touching(touched)) if name.endswith("/tensor_0") else content

    with pytest.raises(ValueError, match="pickles, which can run code"):
        open_program(changed(raw, pickled), CPU)
    assert not touched.exists()


def test_no_size_of_a_program_is_evaluated(programs, tmp_path):
    raw, touched = programs.encoder.numpy().tobytes(), tmp_path / "touched"
    bad = f"open({str(touched)!r}, 'w')"
    code = lambda name, content: content.replace(b"Symbol('s", bad.encode() + b"+Symbol('s")  # noqa: E731
    with pytest.raises(ValueError, match="which can run code"):
        open_program(changed(raw, code), CPU)
    assert not touched.exists()


def test_a_program_of_other_parts_or_of_no_sense_is_refused(programs):
    raw = programs.encoder.numpy().tobytes()
    with zipfile.ZipFile(more := io.BytesIO(raw), "a") as file:
        file.writestr("archive/data/constants/custom_obj_0", b"x")
    with pytest.raises(ValueError, match="neither numbers nor JSON"):
        open_program(more.getvalue(), CPU)
    config = programs.config.model_dump() | {"torch": "9.9"}
    broken = type(programs)((1, 32, 32), ExportedConfig(**config))
    with pytest.raises(ValueError, match=r"the encoder's program, written by torch 9\.9, is not readable by torch"):
        broken.encode(torch.rand(1, 1, 32, 32))


# ---- a class in a file --------------------------------------------------------------------------------------------

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, latents):
        super().__init__()
        self.down = nn.Sequential(nn.Flatten(), nn.Linear(256, 2 * latents))
        self.up = nn.Linear(latents, 256)

    def forward(self, x):
        mean, log_variance = self.down(x).chunk(2, dim=1)
        return self.up(mean), mean, log_variance

    def decode(self, z):
        return self.up(z).unflatten(1, (1, 16, 16))
"""
FILE = """
import torch
from backbones.wrapped import WrappedConfig, WrappedVAE, hookimpl
from net import Net

class MyConfig(WrappedConfig):
    latents: int = 6

class MyVAE(WrappedVAE):
    name = "my_vae"
    Config = MyConfig
    value_range = (-1, 1)
    spread = "log_variance"

    def build_model(self):
        return Net(self.config.latents)

    def load_weights(self):
        return torch.load("checkpoint.pt", weights_only=True)

@hookimpl
def register_backbones():
    return [MyVAE]
"""


@pytest.fixture
def mine(small_bundle, tmp_path, monkeypatch):
    """A folder with a net, whose weights are the principal axes of the small digits, and a file that says so."""
    monkeypatch.chdir(tmp_path)
    images = PathDataset(small_bundle.parent / "small.npz").load([])
    x = images.train.flatten(1) / 127.5 - 1
    centre, axes = x.mean(0), torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:6]
    state = {
        "down.1.weight": torch.cat([axes, torch.zeros_like(axes)]),
        "down.1.bias": torch.cat([-axes @ centre, torch.full((6,), -1.0)]),
        "up.weight": axes.T.contiguous(),
        "up.bias": centre,
    }
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "my_vae.py").write_text(FILE)
    return small_bundle.parent / "small.npz"


def test_a_class_in_a_file_is_wrapped_run_and_verified_with_it(mine, cli, tmp_path):
    done = cli("wrap", "my_vae.py", "--dataset", mine, "--out", "bundle", "--device", "cpu")
    assert done.code == 0, done.err
    assert "--plugin my_vae.py" in done.err
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.card["backbone"]["config"] == {"latents": 6}
    assert bundle.latent_shape == (6,)
    torch.testing.assert_close(bundle.posterior("test", CPU)[1], torch.full((60, 6), np.exp(-0.5)), rtol=1e-3, atol=0)
    refused = only_line(cli("run", "--bundle", "bundle", *RUN))
    assert "its class is in a file 'my_vae.py': name that with --plugin" in refused
    (tmp_path / "checkpoint.pt").unlink()  # the weights are the bundle's
    done = cli("run", "--bundle", "bundle", "--plugin", "my_vae.py", *RUN)
    assert done.code == 0, done.err
    done = cli("verify", "--plugin", "my_vae.py", "--share", 1)
    assert "0 disagree" in done.out
    assert "0 cannot be verified" in done.out


def test_a_file_that_decodes_otherwise_than_it_did_is_refused(mine, cli, tmp_path):
    """Its numbers would stand under the id of the bundle, also when the file was put back."""
    assert cli("wrap", "my_vae.py", "--dataset", mine, "--out", "bundle", "--device", "cpu").code == 0
    for name, old, new in (("my_vae.py", "(-1, 1)", "(-1.2, 1)"), ("net.py", "self.up(z)", "self.up(z).relu()")):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new))
        done = cli("run", "--bundle", "bundle", "--plugin", "my_vae.py", *RUN)
        assert done.code != 0
        assert "decodes to other images than when it was wrapped" in done.err
        (tmp_path / name).write_text(text)
    done = cli("run", "--bundle", "bundle", "--plugin", "my_vae.py", *RUN)
    assert done.code == 0, done.err


LOST = {
    "a buffer that no state has": (
        "self.up = nn.Linear(latents, 256)",
        "self.up = nn.Linear(latents, 256)\n        self.register_buffer('shift', torch.rand(1), persistent=False)",
        "self.up(z)",
        "self.up(z + self.shift)",
    ),
    "an attribute": (
        "self.up = nn.Linear(latents, 256)",
        "self.up = nn.Linear(latents, 256)\n        self.scale = 1",
        "self.up(z)",
        "(self.up(z) * self.scale)",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_a_bundle_cannot_keep_is_told(mine, cli, tmp_path, name):
    old, new, call, instead = LOST[name]
    (tmp_path / "net.py").write_text("import torch\n" + NET.replace(old, new).replace(call + ".un", instead + ".un"))
    loads = "        self.model.scale = 0.9\n        return torch.load"
    (tmp_path / "my_vae.py").write_text(FILE.replace("        return torch.load", loads))
    done = cli("wrap", "my_vae.py", "--dataset", mine, "--out", "bundle", "--device", "cpu")
    assert done.code == 2
    assert "all that it needs is to be in its state_dict" in done.err.splitlines()[-1]
    assert list(tmp_path.glob("bundle*")) == []


def test_tied_weights_are_kept(mine, cli, tmp_path):
    tied = "self.up = nn.Linear(latents, 256)\n        self.again = self.up"
    (tmp_path / "net.py").write_text(NET.replace("self.up = nn.Linear(latents, 256)", tied))
    loads = FILE.replace(
        "weights_only=True)", "weights_only=True) | {'again.weight': S['up.weight'], 'again.bias': S['up.bias']}"
    )
    loads = loads.replace(
        "        return torch.load", "        S = torch.load('checkpoint.pt')\n        return torch.load"
    )
    (tmp_path / "my_vae.py").write_text(loads)
    done = cli("wrap", "my_vae.py", "--dataset", mine, "--out", "bundle", "--device", "cpu")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "change, options, words",
    [
        (("latents: int = 6", "latents: int = 7"), [], "its weights are not those of its module"),
        (('"checkpoint.pt"', '"checkpiont.pt"'), [], "load_weights failed: FileNotFoundError"),
        (("Net(self.config.latents)", "Nut()"), [], "cannot be built for images"),
        (("[MyVAE]", "[]"), [], "registers no WrappedVAE"),
        (("", ""), ["--set", "latent=6"], "did you mean 'latents'"),
        (("", ""), ["--name", "my_vea"], "did you mean 'my_vae'"),
        (("", ""), ["--range", "0,1"], "it stands in the class"),
        (("import torch", "import tarch"), [], "No module named 'tarch'"),
        (('spread = "log_variance"', ""), [], "spread is None; expected one of"),
        (("value_range = (-1, 1)", ""), [], "value_range is None"),
        (("value_range = (-1, 1)", "value_range = (0, 1)"), [], "value_range = (-1, 1)"),
    ],
)
def test_a_file_that_is_wrong_is_told_so(mine, cli, tmp_path, change, options, words):
    (tmp_path / "my_vae.py").write_text(FILE.replace(*change))
    done = cli("wrap", "my_vae.py", "--dataset", mine, "--out", "bundle", "--device", "cpu", *options)
    assert done.code == 2
    assert words in done.err.splitlines()[-1]
    assert list(tmp_path.glob("bundle*")) == []


@pytest.mark.parametrize(
    "words, said",
    [
        (["nofile.py"], "nofile.py: no such file or folder"),
        (["."], "not the model folder of pythae"),
        ([".", "--set", "width=3"], "--set is of a class in a file"),
        ([".", "--range", "0-1"], "--range 0-1: expected two numbers"),
    ],
)
def test_a_command_that_is_wrong_is_told_so(mine, cli, words, said):
    assert said in only_line(cli("wrap", *words, "--dataset", mine))


def test_a_program_is_found_by_the_name_of_its_vae(shipped, cli):
    bundle = benchmark.wrap(
        encode=shipped.encode, decode=shipped.decode, images="digits", name="mine", value_range=(0, 1), spread="std"
    )
    done = cli("run", "--dataset", "digits", "--backbone", "mine", *RUN, "--dry-run")
    assert done.code == 0, done.err
    assert "on digits-mine" in done.out
    assert only_line(cli("run", "--dataset", "digits", "--backbone", "mina", *RUN)).endswith("; wrapped: mine")
    draws = Draws(bundle, torch.randn(2, 16), {"gaussian": torch.randn(2, 16, generator=seeded())}, [])
    assert list(decode_paths(draws, Registry())) == ["gaussian"]


def test_images_may_be_objects(shipped, few, tmp_path):
    """The same pixels as tensors by split are the same images, found again by whoever needs them later."""
    bundle = benchmark.wrap(
        encode=shipped.encode,
        decode=shipped.decode,
        images=by_split(few),
        name="mine",
        value_range=(0, 1),
        spread="std",
        out=tmp_path / "bundle",
    )
    assert bundle.card["dataset"]["sha256"] == few.content_hash()
    assert bundle.dataset == "mine"
    assert bundle.is_own
    assert last_seen(few.content_hash()) is not None
