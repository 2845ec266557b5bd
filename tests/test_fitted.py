"""A fitted prior leaves the suite: as a state that `priors` draws from, as a program that torch alone runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, only_line
from draws import CPU, seeded, silent

import benchmark
from benchmark.bundles.bundle import open_bundle
from benchmark.check.targets import TARGETS
from benchmark.errors import UsageError
from benchmark.fitted import FACTS, record_sampling
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from benchmark.settings import parse_named
from benchmark.streams import seeded_globals
from benchmark.version import VERSION
from priors.api import LatentPrior, PriorConfig

#: settings that are known to several priors, so small that a fit and a program take no time
FEW = {"steps": 20, "draws": 1_000, "kept": 200, "iterations": 5, "contrast_steps": 2, "chain": 2, "heun_steps": 2}
FEW |= {"langevin_steps": 3, "leapfrogs": 2, "normaliser_draws": 2_000, "pool": 500, "held_out": 500}
#: settings of one prior alone
OF = {"riemannian": {"steps": 2}, "multi_nce": {"stages": 2}}
#: which priors ask their draws, or their state, which way to go
REFUSED = ["evalp[sampler=spline]", "evalp_groups", "evalp_joint", "jebm", "lars", "multi_nce", "ncp_groups"]
MEMBERS = [
    *Registry().at_hand("prior"),
    "evalp[sampler=mlp,kl_weight=0]",
    "evalp[sampler=spline]",
    "evalp[sampler=glow]",
    "evalp[sampler=autoregressive]",
    "evalp[proposals=20]",
    "gmm[covariance=full,components=3]",
    "ncp[sampler=langevin]",
]
EXPORTED = [member for member in MEMBERS if member not in REFUSED]


def fitted(member, target="ring"):
    ((name, (settings,)),) = parse_named(member, "--priors")
    cls, target = Registry().get("prior", name), TARGETS[target]()
    few = {each: value for each, value in (FEW | OF.get(name, {})).items() if each in cls.Config.model_fields}
    config, _, _ = resolve_config(cls, few | settings, "synthetic", target.shape, "quick")
    with seeded_globals(CPU, "test"):
        prior = cls(target.shape, config)
        prior.train().fit(target.posterior(CPU, prior.needs_backbone), seeded(), silent)
    return prior.eval().requires_grad_(False)


def draw(program, n, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return program(torch.empty(n))


@pytest.mark.parametrize("member", EXPORTED)
def test_a_program_draws_what_the_prior_draws_however_many(member):
    """In one part the same latents, by the same seed; where SIR works in parts, latents of the same distribution."""
    prior = fitted(member)
    program = record_sampling(prior).module()
    for n in (1, 7, 1_000):
        drawn, wanted = draw(program, n, seed=5), prior.sample(n, seeded(5))
        assert drawn.shape == wanted.shape == (n, 2)
        if n < 1_000 or member not in ("ncp", "evalp[proposals=20]"):
            torch.testing.assert_close(drawn, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert ((drawn.mean(0) - wanted.mean(0)).abs() < 5 * wanted.std(0) * (2 / n) ** 0.5).all()
            assert ((drawn.std(0) / wanted.std(0)).log().abs() < 0.2).all()
    assert not torch.equal(draw(program, 7, seed=5), draw(program, 7, seed=6))


@pytest.mark.parametrize("member", ["latent_flow", "ncp", "vamp", "diffusion"])
def test_a_program_of_blocks_draws_blocks(member):
    prior = fitted(member, "block")
    drawn = draw(record_sampling(prior).module(), 7, seed=5)
    torch.testing.assert_close(drawn, prior.sample(7, seeded(5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("member", REFUSED)
def test_a_prior_that_is_no_program_is_refused_in_one_line_that_says_what_to_do(member, capfd):
    with pytest.raises(UsageError) as error:
        record_sampling(fitted(member))
    line = str(error.value)
    assert line.startswith(f"{member.partition('[')[0]} cannot be a .pt2 file: torch.export does not record how it")
    assert line.endswith("write a .safetensors file instead, by save")
    assert "\n" not in line
    assert capfd.readouterr().err == "", "what torch tells at length is kept back"


class Stubborn(LatentPrior):
    """Draws that no program has: of numpy, whose numbers would be constants."""

    name = "stubborn"

    def fit(self, posterior, generator, progress):
        pass

    def sample(self, n, generator):
        import numpy as np

        return torch.from_numpy(np.random.default_rng().normal(size=2)).float().expand(n, 2)


def test_a_program_that_would_draw_otherwise_is_refused():
    with pytest.raises(UsageError, match="what it recorded draws other latents"):
        record_sampling(Stubborn((2,), PriorConfig()))


@pytest.fixture
def loaded(small_bundle):
    """A fitted prior of a bundle, whatever is asked for."""
    return lambda prior, **fields: benchmark.load_prior(prior, bundle=small_bundle, device="cpu", **fields)


def test_the_file_of_a_state_says_what_the_prior_is_and_is_of(loaded, small_bundle, tmp_path):
    from safetensors import safe_open

    made = loaded("latent_flow[steps=5]", seed=2)
    made.save(tmp_path / "flow.safetensors")
    with safe_open(tmp_path / "flow.safetensors", "pt") as file:
        facts = json.loads(file.metadata()[FACTS])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    assert facts["settings"] == made.prior.config.model_dump(mode="json")
    del facts["settings"]
    assert facts == {
        "prior": "latent_flow",
        "class": "priors.latent_flow.LatentFlow",
        "version": made.prior.version,
        "latent_shape": list(open_bundle(small_bundle).latent_shape),
        "bundle": open_bundle(small_bundle).id,
        "seed": 2,
        "suite": VERSION,
    }
    assert state.keys() == made.prior.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in made.prior.state_dict().items())


#: refuses the suite in a process of its own, and everything but torch where `alone` is asked for
WITHOUT = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(f"{{name}} is imported")
sys.meta_path.insert(0, Refuse())
"""


def in_a_fresh_process(code, folder, refused):
    """Run code without these packages; what it leaves in `out.pt`."""
    (folder / "alone.py").write_text(WITHOUT.format(names=refused) + code)
    done = subprocess.run(
        [sys.executable, "alone.py"], cwd=folder, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, folder / "out.pt"


def lines_of_the_page():
    """The block of docs/python.md that draws from a state."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "safe_open(" in block]
    return lines


OF_THE_PAGE = ["latent_flow[steps=5]", "evalp[steps=5]", "gmm", "kde", "gaussian", "vamp[steps=5]"]


@pytest.fixture(scope="module")
def drawn_alone(small_bundle, tmp_path_factory):
    """For each prior what it draws, and what the lines of the page draw from its state: in one process for all."""
    folder = tmp_path_factory.mktemp("alone")
    ours, code = {}, f"import os\nlines, theirs = {lines_of_the_page()!r}, {{}}\n"
    for number, prior in enumerate(OF_THE_PAGE):
        made = benchmark.load_prior(prior, bundle=small_bundle, device="cpu")
        (folder / str(number)).mkdir()
        made.save(folder / str(number) / "prior.safetensors")
        ours[prior] = made.prior.sample(7, seeded(3))
        code += f"os.chdir({str(folder / str(number))!r})\nexec(lines)\n"
        code += f"theirs[{prior!r}] = prior.sample(7, torch.Generator().manual_seed(3))\n"
    code += f"torch.save(theirs, {str(folder / 'out.pt')!r})\n"
    returned, said, out = in_a_fresh_process(code, folder, ["benchmark", "backbones"])
    assert returned == 0, said
    return ours, torch.load(out)


@pytest.mark.parametrize("prior", OF_THE_PAGE)
def test_the_lines_of_the_page_draw_from_a_state_with_priors_alone(prior, drawn_alone):
    ours, theirs = drawn_alone
    assert len([line for line in lines_of_the_page().splitlines() if line]) <= 12
    assert torch.equal(theirs[prior], ours[prior])


def test_the_fresh_process_would_fail_if_the_suite_were_imported(tmp_path):
    returned, said, _ = in_a_fresh_process("import benchmark\n", tmp_path, ["benchmark", "backbones"])
    assert returned == 1
    assert "benchmark is imported" in said


def test_a_program_is_run_by_torch_alone(loaded, tmp_path):
    made = loaded("latent_flow[steps=5]")
    made.export(tmp_path / "prior.pt2")
    code = 'import torch\nprogram = torch.export.load("prior.pt2").module()\ntorch.manual_seed(3)\n'
    code += 'torch.save(program(torch.empty(7)), "out.pt")\n'
    refused = ["benchmark", "backbones", "priors", "nflows", "zuko", "pydantic"]
    returned, said, out = in_a_fresh_process(code, tmp_path, refused)
    assert returned == 0, said
    torch.testing.assert_close(torch.load(out), made.prior.sample(7, seeded(3)), rtol=1e-4, atol=1e-5)
    extra = {FACTS: ""}
    torch.export.load(tmp_path / "prior.pt2", extra_files=extra)
    assert json.loads(extra[FACTS])["bundle"] == made.bundle
    assert str(ROOT).encode() not in (tmp_path / "prior.pt2").read_bytes()


@pytest.mark.parametrize("name, suffix", [("save", ".safetensors"), ("export", ".pt2")])
def test_a_file_by_another_name_is_refused(name, suffix, loaded, tmp_path):
    with pytest.raises(UsageError, match=re.escape(f"expected a name that ends in {suffix}")):
        getattr(loaded("gaussian"), name)(tmp_path / "prior.bin")
    assert not (tmp_path / "prior.bin").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_the_command_writes_what_load_prior_does(suffix, loaded, small_bundle, cli, tmp_path):
    words = ["--prior", "latent_flow[steps=5]", "--bundle", small_bundle, "--seed", 1, "--device", "cpu"]
    done = cli("export", *words, "--out", tmp_path / f"typed{suffix}")
    assert done.code == 0, done.err
    assert f"latent_flow, seed 1, written to {tmp_path}/typed{suffix}" in done.err.replace("\n", "")
    made = loaded("latent_flow[steps=5]", seed=1)
    if suffix == ".safetensors":
        made.save(tmp_path / f"made{suffix}")
        assert (tmp_path / f"typed{suffix}").read_bytes() == (tmp_path / f"made{suffix}").read_bytes()
    else:
        drawn = draw(torch.export.load(tmp_path / f"typed{suffix}").module(), 4, seed=3)
        torch.testing.assert_close(drawn, made.prior.sample(4, seeded(3)), rtol=1e-4, atol=1e-5)


def test_the_command_refuses_other_files_before_anything_is_fitted(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmark.library.load_prior", lambda *_, **__: pytest.fail("it is fitted"))
    line = only_line(cli("export", "--prior", "gaussian", "--out", tmp_path / "prior.pt"))
    for words in (f"--out {tmp_path}/prior.pt: ", ".safetensors (", ".pt2 ("):
        assert words in line


def test_the_command_says_what_to_write_of_a_prior_that_is_no_program(small_bundle, cli, tmp_path):
    words = ["--prior", "lars[steps=5]", "--bundle", small_bundle, "--device", "cpu", "--out", tmp_path / "lars.pt2"]
    assert "write a .safetensors file instead" in only_line(cli("export", *words))
    assert not Path(tmp_path / "lars.pt2").exists()
