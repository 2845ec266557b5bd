"""Model folders of pythae and diffusers, made by these libraries here, become bundles that everything works on."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import only_line, scores_of
from draws import CPU

from backbones.adapters.folders import open_folder, runs_code
from backbones.exported import Exported, export_vae
from benchmark.bundles.bundle import NO_PART, open_bundle

of_library = pytest.mark.adapters
SHAPE = (1, 16, 16)
PRIORS = "gaussian,fitted_gaussian,gmm,kde,mixture"
BATCHES = (1, 2, 5, 64, 130)


@pytest.fixture
def small(small_bundle):
    """The file of the small digits."""
    return small_bundle.parent / "small.npz"


@pytest.fixture
def images(small):
    """Those of them that are trained on, in [0, 1]."""
    return torch.from_numpy(np.load(small)["train"])[:, None] / 255


@pytest.fixture
def wrap(small, tmp_path, cli):
    """`wrap(folder, *words)`: the command on the small digits."""
    return lambda folder, *words: cli(
        "wrap", folder, "--dataset", small, "--device", "cpu", "--out", tmp_path / "bundle", *words
    )


def train(model, loss, steps):
    """A few steps of Adam."""
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    model.eval()


def wrapped(done, tmp_path):
    """The bundle that a command made, and its backbone."""
    assert done.code == 0, done.err
    bundle = open_bundle(tmp_path / "bundle")
    return bundle, bundle.backbone(Exported, CPU)


def make_board(bundle, results, cli):
    """The scores of five priors, and the page of the one table."""
    words = ["--priors", PRIORS, "--seeds", 2, "--device", "cpu", "--metrics", "scores", "--results", results]
    done = cli("run", "--bundle", bundle.path, *words)
    assert done.code == 0, done.err
    assert ", 0 failed" in done.err
    scores = scores_of(results)
    assert {*PRIORS.split(","), "aggregate_posterior", "reconstruction"} == {*scores.index}
    assert scores["FD digit-cnn"].notna().all()
    (page,) = (results / "boards").glob("*.md")
    return scores, page.read_text()


# pythae


@pytest.fixture
def pythae():
    return pytest.importorskip("pythae.models", reason="pythae is not installed: pip install pythae==0.1.2")


@pytest.fixture
def saved(pythae, images, tmp_path):
    """`saved("VAE", setting=value)`: the folder of a model of pythae that was trained for a moment, and the model."""

    def make(name, steps=0, encoder=None, **settings):
        config = getattr(pythae, f"{name}_Config", None) or getattr(pythae, f"{name}Config")
        torch.manual_seed(0)
        model = getattr(pythae, name)(config(input_dim=SHAPE, latent_dim=4, **settings), encoder)
        train(model, lambda: model({"data": images.clone()}).loss, steps)
        model.save(str(tmp_path / name))
        return tmp_path / name, model

    return make


@of_library
@pytest.mark.usefixtures("seeded_modules")
def test_a_folder_of_pythae_becomes_a_board(saved, wrap, images, tmp_path, cli):
    folder, model = saved("VAE", steps=150, reconstruction_loss="bce")
    done = wrap(folder, "--range", "0,1")
    bundle, backbone = wrapped(done, tmp_path)
    assert "unpickles" not in done.err
    reading = bundle.card["backbone"]["reading"]
    assert (reading["spread"], reading["likelihood"], bundle.latent_shape) == ("log_variance", "bernoulli", (4,))
    assert (bundle.backbone_name, bundle.is_deterministic) == ("VAE", False)
    for n in BATCHES:
        given = model.encoder(images[:n])
        mean, std = backbone.encode(images[:n])
        torch.testing.assert_close(mean, given.embedding)
        torch.testing.assert_close(std, (given.log_covariance / 2).exp())
        torch.testing.assert_close(backbone.decode(mean), model.decoder(mean).reconstruction)
    scores, page = make_board(bundle, tmp_path / "results", cli)
    assert scores["rate"].drop(["aggregate_posterior", "reconstruction"]).notna().all()
    assert NO_PART not in page


@of_library
@pytest.mark.usefixtures("seeded_modules")
def test_a_deterministic_model_of_pythae_becomes_a_board_that_says_so(saved, wrap, tmp_path, cli):
    done = wrap(saved("AE", steps=150)[0], "--range", "0,1", "--name", "mine")
    bundle, backbone = wrapped(done, tmp_path)
    assert "mine is deterministic: its aggregate posterior is the set of its codes" in done.err
    assert f"and N(0, I), the 0 % line, {NO_PART}" in done.err
    assert (bundle.backbone_name, bundle.is_deterministic) == ("mine", True)
    assert not backbone.encode(torch.rand(2, *SHAPE))[1].any()
    _, page = make_board(bundle, tmp_path / "results", cli)
    assert f"Note: deterministic encoder: N(0, I), the 0 % line, {NO_PART}" in page


@of_library
@pytest.mark.parametrize(
    "name, note",
    [
        ("BetaVAE", None),
        ("DisentangledBetaVAE", None),
        ("BetaTCVAE", None),
        ("FactorVAE", None),
        ("INFOVAE_MMD", None),
        ("MSSSIM_VAE", None),
        ("VAEGAN", None),
        ("IWAE", "importance-weighted"),
        ("MIWAE", "importance-weighted"),
        ("PIWAE", "importance-weighted"),
        ("CIWAE", "importance-weighted"),
        ("VAMP", "a mixture of posteriors"),
        ("Adversarial_AE", "discriminator"),
        ("RAE_GP", None),
        ("RAE_L2", None),
        ("WAE_MMD", "MMD penalty"),
    ],
)
def test_a_model_of_pythae_is_read_as_it_encodes(name, note, saved, images):
    folder, model = saved(name)
    trained = open_folder(folder, None, (0, 1))
    mean, std = trained.build(SHAPE).encode(images[:3])
    given = model.encoder(images[:3])
    torch.testing.assert_close(mean, given.embedding)
    expected = (given.log_covariance / 2).exp() if "log_covariance" in given else torch.zeros_like(mean)
    torch.testing.assert_close(std, expected)
    assert (note is None and trained.note is None) or note in trained.note
    no_likelihood = name in ("MSSSIM_VAE", "VAEGAN") or trained.spread == "none"
    assert trained.likelihood == (None if no_likelihood else "squared_error")


@of_library
@pytest.mark.parametrize("points", [True, False])
def test_an_adversarial_autoencoder_gives_points_where_it_was_trained_so(points, saved):
    folder, _ = saved("Adversarial_AE", deterministic_posterior=points)
    assert open_folder(folder, None, (0, 1)).spread == ("none" if points else "log_variance")


@of_library
@pytest.mark.parametrize(
    "name, posterior, settings",
    [
        ("SVAE", "a von Mises-Fisher distribution on a sphere", {}),
        ("PoincareVAE", "a normal distribution on a Poincaré ball", {}),
        ("VQVAE", "a choice among the vectors of a codebook", {"num_embeddings": 8}),
        ("VAE_IAF", "a Gaussian carried through an inverse autoregressive flow", {}),
        ("VAE_LinNF", "a Gaussian carried through planar and radial flows", {}),
        ("HVAE", "a Gaussian moved by Hamiltonian steps", {}),
        ("RHVAE", "a Gaussian moved by Riemannian Hamiltonian steps", {}),
    ],
)
def test_a_model_of_another_posterior_is_refused_by_name(name, posterior, settings, saved, wrap, tmp_path):
    line = only_line(wrap(saved(name, **settings)[0], "--range", "0,1"))
    assert f"a posterior of pythae's {name} is {posterior}" in line
    assert not (tmp_path / "bundle").exists()


@of_library
@pytest.mark.usefixtures("seeded_modules")
def test_networks_of_their_own_are_unpickled_by_pythae_and_that_is_said_before(saved, wrap, images, tmp_path):
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseEncoder

    class Narrow(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))

        def forward(self, x):
            mean, log_variance = self.layers(x.flatten(1)).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    folder, model = saved("VAE", steps=400, encoder=Narrow(), reconstruction_loss="bce")
    done = wrap(folder, "--range", "0,1")
    _, backbone = wrapped(done, tmp_path)
    assert done.err.splitlines()[0].endswith("its library unpickles encoder.pkl, which runs the code in them")
    torch.testing.assert_close(backbone.encode(images)[0], model.encoder(images).embedding)


@of_library
def test_half_precision_weights_of_pythae_are_computed_in_full(saved, images):
    folder, model = saved("VAE")
    model.half().save(str(folder))
    mean, _ = open_folder(folder, None, (0, 1)).build(SHAPE).encode(images[:3])
    torch.testing.assert_close(mean, model.float().encoder(images[:3]).embedding)


@of_library
@pytest.mark.usefixtures("seeded_modules")
def test_a_folder_of_pythae_in_the_wrong_range_or_for_other_images_is_refused_in_a_line(saved, wrap, images, tmp_path):
    folder, _ = saved("VAE", steps=150, reconstruction_loss="bce")
    assert "value_range = (0, 1)" in only_line(wrap(folder, "--range", "-1,1"))
    assert "0,1 where images were divided by 255" in only_line(wrap(folder))
    np.savez(
        tmp_path / "other.npz", **{split: np.zeros((40, 32, 32), np.uint8) + 9 for split in ("train", "val", "test")}
    )
    line = only_line(wrap(folder, "--range", "0,1", "--dataset", tmp_path / "other.npz"))
    assert "was trained on images 1x16x16" in line
    assert not (tmp_path / "bundle").exists()


@of_library
@pytest.mark.parametrize(
    "file, what", [("model.pt", "pythae does not load it"), ("model_config.json", "not the config")]
)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_folder_of_pythae_is_a_line(file, what, damage, saved, wrap, tmp_path):
    folder, _ = saved("VAE")
    if damage == "cut":
        (folder / file).write_bytes((folder / file).read_bytes()[:40])
    else:
        (folder / file).unlink()
    line = only_line(wrap(folder, "--range", "0,1"))
    assert str(folder) in line
    assert (what if file == "model.pt" or damage == "cut" else "not the model folder of pythae") in line


# diffusers


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed: pip install diffusers")


@pytest.fixture
def autoencoder(diffusers, images):
    """`autoencoder(steps, setting=value)`: an AutoencoderKL of a few thousand parameters, trained for a moment."""

    def make(steps=0, **settings):
        torch.manual_seed(0)
        model = diffusers.AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=2,
            sample_size=16,
            **settings,
        )
        torch.nn.init.constant_(model.quant_conv.bias[2:], -6.0)  # log-variances as low as those of trained ones
        x = 2 * images[:64] - 1
        train(model, lambda: (model.decode(model.encode(x).latent_dist.sample()).sample - x).square().mean(), steps)
        return model.requires_grad_(False)

    return make


@of_library
@pytest.mark.usefixtures("seeded_modules")
def test_an_autoencoder_kl_becomes_a_board(autoencoder, wrap, tmp_path, cli):
    autoencoder(steps=60).save_pretrained(tmp_path / "kl")
    done = wrap(tmp_path / "kl", "--range", "-1,1")
    bundle, _ = wrapped(done, tmp_path)
    assert "kl is an AutoencoderKL, whose KL term is usually weighted by 1e-6" in done.err
    assert bundle.latent_shape == (2, 8, 8)
    make_board(bundle, tmp_path / "results", cli)


@of_library
@pytest.mark.parametrize(
    "scaling, shift, scale",
    [
        ({}, 0.0, 0.18215),
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, 0.1, 0.5),
        ({"latents_mean": (1.0, 2.0), "latents_std": (2.0, 4.0), "scaling_factor": 0.5}, (1.0, 2.0), (0.25, 0.125)),
    ],
    ids=["usual", "shifted", "by channel"],
)
def test_latents_are_those_that_a_latent_diffusion_model_works_in(scaling, shift, scale, autoencoder, images, tmp_path):
    """In batches of any size of one program: of 64 and more diffusers' decoder takes another branch."""
    model = autoencoder(**scaling)
    model.save_pretrained(tmp_path / "kl")
    backbone = export_vae(open_folder(tmp_path / "kl", None, (-1, 1)).build(SHAPE))
    shift, scale = (torch.tensor(each).reshape(-1, 1, 1) for each in (shift, scale))
    for n in BATCHES:
        posterior = model.encode(2 * images[:n] - 1).latent_dist
        mean, std = backbone.encode(images[:n])
        torch.testing.assert_close(mean, (posterior.mean - shift) * scale)
        torch.testing.assert_close(std, posterior.std * scale)
        torch.testing.assert_close(
            backbone.decode(mean), ((model.decode(posterior.mean).sample + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-5
        )


@of_library
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_weights_of_diffusers_are_computed_in_full(variant, autoencoder, images, tmp_path):
    model = autoencoder().half()
    model.save_pretrained(tmp_path / "kl", variant=variant)
    mean, _ = open_folder(tmp_path / "kl", None, (-1, 1)).build(SHAPE).encode(images[:3])
    expected = 0.18215 * model.float().encode(2 * images[:3] - 1).latent_dist.mean
    torch.testing.assert_close(mean, expected)


@of_library
def test_a_damaged_folder_of_diffusers_is_a_line(autoencoder, wrap, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "kl"
    autoencoder().save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    assert "-1,1 is what" in only_line(wrap(folder))
    save_file({name: value for name, value in whole.items() if name != "decoder.conv_in.bias"}, weights)
    assert "its weights lack 1 tensors, decoder.conv_in.bias among them" in only_line(wrap(folder, "--range", "-1,1"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "diffusers does not load it" in only_line(wrap(folder, "--range", "-1,1"))
    weights.unlink()
    assert "diffusers does not load it" in only_line(wrap(folder, "--range", "-1,1"))
    assert not (tmp_path / "bundle").exists()


# Without either library


@pytest.fixture
def without_libraries(monkeypatch):
    def refuse(name, *more, real=builtins.__import__):
        if name.partition(".")[0] in ("pythae", "diffusers"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(
    "file, config, install",
    [
        ("model_config.json", {"name": "VAEConfig"}, "pip install pythae==0.1.2"),
        ("config.json", {"_class_name": "AutoencoderKL"}, "pip install diffusers"),
    ],
)
@pytest.mark.usefixtures("without_libraries")
def test_a_library_that_is_missing_is_named_with_what_installs_it(file, config, install, wrap, tmp_path):
    (folder := tmp_path / "model").mkdir()
    (folder / file).write_text(json.dumps(config))
    line = only_line(wrap(folder, "--range", "0,1"))
    assert "cannot be imported" in line
    assert line.endswith(install)


@pytest.mark.parametrize(
    "file, content, said",
    [
        ("model_config.json", '{"name": "MAFConfig"}', "pythae's MAFConfig is the config of no VAE that is known here"),
        ("model_config.json", '{"name": "SVAEConfig"}', "a posterior of pythae's SVAE is a von Mises-Fisher"),
        ("model_config.json", '{"name": ', "not the config of a pythae model"),
        ("model_config.json", "[]", "not the config of a pythae model"),
        ("config.json", '{"_class_name": "VQModel"}', "a VQModel of diffusers, of whose classes AutoencoderKL alone"),
        ("config.json", '{"_class_name": "UNet2DModel"}', "a UNet2DModel of diffusers"),
        ("config.json", '{"model_type": "bert"}', "not the config of a diffusers model (no _class_name)"),
        ("model_index.json", "{}", "a whole pipeline of diffusers; name the folder of its VAE"),
        ("weights.pt", "", "not the model folder of pythae"),
    ],
)
def test_what_else_lies_in_a_folder_is_named(file, content, said, wrap, tmp_path):
    (folder := tmp_path / "model").mkdir()
    (folder / file).write_text(content)
    assert said in only_line(wrap(folder, "--range", "0,1"))


def test_pickles_of_a_pythae_folder_are_found_before_it_is_opened(tmp_path):
    for name in ("model_config.json", "decoder.pkl", "encoder.pkl", "model.pt"):
        (tmp_path / name).touch()
    assert runs_code(tmp_path) == "decoder.pkl, encoder.pkl"
    (tmp_path / "model_config.json").rename(tmp_path / "config.json")
    assert runs_code(tmp_path) is None
    assert runs_code(Path("/")) is None
