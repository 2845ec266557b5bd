"""Latent groups of a hierarchy in whitened coordinates: draws, decoding, what is drawn where nobody chose."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from commands import finish, start
from draws import CPU, seeded
from experiments import suite_text
from torch.distributions import Normal
from vaes import SMALL, binary, hierarchy, untrained, words_of_squares, write_squares

from backbones.training import as_input
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.bundles.group_draws import find_draws
from benchmark.bundles.groups import GroupDecoder, Groups
from benchmark.bundles.prior_file import read_facts
from benchmark.cli.app import main
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.jobs.parcels import Sent, parcel_of_plugins, parcel_of_run, unpack
from benchmark.jobs.task import Task
from benchmark.library import load_prior
from benchmark.protocol import read_protocols
from benchmark.registry import Registry
from benchmark.report.choice import judge_all
from benchmark.request import Request, resolve
from benchmark.store.records import RecordStore
from benchmark.store.sealed import write_sealed
from benchmark.store.tunings import read_tunings
from priors.api import DrawnSplit

pytestmark = pytest.mark.usefixtures("seeded_modules")


def recorded(model, eps, groups=None):
    """What `walk` says of each group while it is given eps."""
    seen = []

    def choose(number, above):
        seen.append(above)
        return above.at(eps[number])

    with torch.no_grad():
        model.walk(choose, len(eps[0]), None, groups)
    return seen


def test_a_hierarchy_names_the_shapes_of_its_groups_and_of_what_is_above_them():
    model = hierarchy()
    assert model.group_shapes == ((3, 2, 2), (3, 4, 4), (3, 4, 4))
    eps = [torch.randn(2, *shape, generator=seeded(i)) for i, shape in enumerate(model.group_shapes)]
    above = recorded(model, eps)
    assert [tuple(each.features.shape[1:]) for each in above] == list(model.context_shapes)
    assert [tuple(each.mean.shape[1:]) for each in above] == list(model.group_shapes)
    assert sum(shape.numel() for shape in map(torch.Size, model.group_shapes)) == int(model._sizes.sum())


def test_decoding_the_noise_of_decode_is_decode_bit_for_bit():
    model, n = hierarchy(), 5
    noise = seeded(7)
    z = torch.randn(n, *model.latent_shape, generator=seeded(1))
    eps = [z, *(torch.randn(n, *shape, generator=noise) for shape in model.group_shapes[1:])]
    with torch.no_grad():
        assert torch.equal(model.decode_all(eps), model.decode(z, seeded(7)))
        assert torch.equal(model.decode_all([z, None, None], seeded(7)), model.decode(z, seeded(7)))


def test_what_is_not_given_is_drawn_at_the_temperature_of_the_setting_and_what_is_given_is_taken_as_it_is():
    cold = hierarchy(temperature=0.0)
    eps = [torch.randn(4, *shape, generator=seeded(i)) for i, shape in enumerate(cold.group_shapes)]
    with torch.no_grad():
        assert torch.equal(cold.decode_all([eps[0], None, None], seeded(1)), cold.decode(eps[0], seeded(2)))
        zeros = [eps[0], *(torch.zeros_like(each) for each in eps[1:])]
        assert torch.equal(cold.decode_all(zeros), cold.decode(eps[0], seeded(1)))
        assert not torch.equal(cold.decode_all(eps), cold.decode_all(zeros))
        drawn = [cold.decode_all([None, eps[1], None], seeded(seed)) for seed in (1, 2)]
    assert not torch.equal(*drawn)  # the top one, from N(0, I)


def test_decoding_a_draw_of_all_groups_is_the_reconstruction():
    model, x = hierarchy(), binary(6)
    with torch.no_grad():
        eps = model.draw_all(x, seeded(3))
        assert [tuple(each.shape[1:]) for each in eps] == list(model.group_shapes)
        assert torch.allclose(model.decode_all(eps), model.reconstruct(x, seeded(3)), atol=1e-5)


def test_log_ratios_are_the_same_numbers_in_eps():
    """log q - log p of z, the cost of each group, is log q(eps) - log N(eps; 0, I): the Jacobian cancels."""
    model, x = hierarchy(), binary(6)
    with torch.no_grad():
        _, eps, costs = model._infer(x, seeded(3))
        above = recorded(model, eps)
        rising = model._bottom_up(x)
        for number in (1, 2):
            _, again, _ = model._group(number).infer(above[number], rising[-1 - number], seeded(0))
            merged = model._group(number).merge(torch.cat([above[number].features, rising[-1 - number]], 1))
            shift, log_ratio = (
                part for part in (5 * torch.tanh(model._group(number).posterior(merged) / 5)).chunk(2, dim=1)
            )
            q = Normal(shift / above[number].std, log_ratio.exp())
            expected = (q.log_prob(eps[number]) - Normal(0.0, 1.0).log_prob(eps[number])).flatten(1).sum(1)
            assert torch.allclose(expected, costs[number][1], rtol=1e-3, atol=1e-3)
            assert again.shape == eps[number].shape


def test_a_walk_ends_after_so_many_groups():
    model = hierarchy()
    eps = [torch.randn(2, *shape, generator=seeded(i)) for i, shape in enumerate(model.group_shapes)]
    for groups in (1, 2, 3):
        assert len(recorded(model, eps, groups)) == groups


@pytest.mark.parametrize("groups", [(1,), (2, 1), (1, 1, 2)])
def test_any_number_of_groups_on_a_scale(groups):
    model = hierarchy(**{**SMALL, "groups": groups, "top_side": 2})
    eps = [torch.randn(2, *shape, generator=seeded(i)) for i, shape in enumerate(model.group_shapes)]
    assert len(eps) == sum(groups)
    with torch.no_grad():
        assert model.decode_all(eps).shape == (2, 1, 16, 16)
        assert len(model.draw_all(binary(2), seeded())) == len(eps)


def test_a_vae_without_a_hierarchy_has_one_group():
    model = untrained((1, 16, 16))
    assert model.group_shapes == (model.latent_shape,)
    z = torch.randn(4, *model.latent_shape, generator=seeded())
    with torch.no_grad():
        assert torch.equal(model.decode_all([z]), model.decode(z))
        (eps,) = model.draw_all(binary(4), seeded(1))
        mean, std = model.encode(binary(4))
        assert torch.equal(eps, mean + std * torch.randn(mean.shape, generator=seeded(1)))
    with pytest.raises(ValueError, match="eps of 1 groups"):
        model.decode_all([None])


# ---- as the latents of a bundle -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images of squares and a bundle of a tiny hierarchy that was trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    write_squares(folder / "squares.npz")
    words = words_of_squares(folder / "squares.npz", folder / "bundle", epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_PRIOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("sys.argv", ["benchmark", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder


@pytest.fixture
def stairs(trained, tmp_path, cli):
    """A bundle of a tiny hierarchy, and its draws in the cache, with those of its images that were asked for."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)

    def draw(*words):
        return cli("groups", "--bundle", tmp_path / "bundle", "--dataset", tmp_path / "squares.npz", *words)

    return SimpleNamespace(path=tmp_path / "bundle", data=tmp_path / "squares.npz", draw=draw)


def ran(cli, stairs, tmp_path, groups, *words):
    words = ("--priors", "fitted_gaussian", "--seeds", 1, "--metrics", "fd,c2st,cross_entropy,groups", *words)
    bundle = ("--bundle", stairs.path, "--dataset", stairs.data, "--results", tmp_path / "results")
    return cli("run", *bundle, "--groups", groups, "--device", "cpu", *words)


def rows_of(results):
    records, damaged = RecordStore(results / "records").all()
    assert not damaged
    return records


def test_draws_are_those_of_the_images_and_their_decoding_the_reconstruction(stairs):
    assert stairs.draw("--draws", 3).code == 0
    bundle = open_bundle(stairs.path)
    path, card = find_draws(bundle)
    assert card["counts"] == {"train": 200, "val": 40, "test": 60}
    split = Groups((0, 1, 2), path, card).split("val", CPU)
    assert len(split) == 40
    assert split._drawn.shape == (40, 3, 12 + 48 + 48)
    assert split._drawn.dtype == torch.float16
    model = bundle.open_backbone(Registry(), CPU)
    images = as_input(PathDataset(stairs.data).load([]).val)
    decoder = GroupDecoder(model, Groups((0, 1, 2), path, card))
    with torch.no_grad():
        mean, std = model.encode(images)
        top = split._drawn[:, :, :12].float().unflatten(2, model.latent_shape)
        assert ((top.mean(1) - mean) / std).abs().mean() < 1.5
        error = (decoder.decode(split.first(), seeded()) - images).square().mean()
        others = (decoder.decode(split.first().roll(1, 0), seeded()) - images).square().mean()
        assert error < others


def test_a_split_of_draws_draws_images_and_their_draws_alike():
    drawn = torch.arange(5.0)[:, None, None] + torch.tensor([0.0, 0.25])[:, None]
    split = DrawnSplit(drawn.half())
    z = split.sample(10_000, seeded())
    assert z.shape == (10_000, 1)
    assert z.dtype == torch.float32
    values, counts = z.unique(return_counts=True)
    assert values.tolist() == drawn.flatten().sort().values.tolist()
    assert (counts / 10_000 - 0.1).abs().max() < 0.02
    assert sorted(split.one_each(5, seeded()).floor().flatten().tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(split.one_each(5, seeded(1)), split.one_each(5, seeded(1)))
    with pytest.raises(ValueError, match="6 distinct images asked for, the split has 5"):
        split.one_each(6, seeded())


def test_all_groups_and_single_ones_have_tables_of_their_own_beside_the_top(stairs, tmp_path, cli):
    assert stairs.draw().code == 0
    for groups in ("top", "0", "all", "1"):
        done = ran(cli, stairs, tmp_path, groups)
        assert done.code == 0, done.err
    records = rows_of(tmp_path / "results")
    of = {json.dumps(record["row"].get("groups", {}).get("chosen")) for record in records}
    assert of == {"null", "[0, 1, 2]", "[1]"}, "0 is the top"
    fits = {record["id"] for record in records if record["kind"] == "fit"}
    assert len(fits) == 2 * 3
    protocols = [protocol.groups for _, protocol in read_protocols(tmp_path / "results")[0]]
    assert sorted(len(groups["chosen"]) if groups else 0 for groups in protocols) == [0, 1, 3]
    pages = {page.name: page.read_text() for page in (tmp_path / "results" / "boards").glob("*.md")}
    assert len(pages) == 3
    (whole,) = (text for name, text in pages.items() if "allgroups" in name)
    (single,) = (text for name, text in pages.items() if "group1" in name)
    assert "all groups of 3" in whole
    assert "its line is one of copies" in whole
    assert "C2ST AUC to 0" in whole
    assert "its line is one of copies" not in single
    first = (tmp_path / "results" / "leaderboard.md").read_text()
    assert "all groups of the hierarchy as latents" in first
    again = ran(cli, stairs, tmp_path, "0,1,2", "--dry-run")
    assert again.code == 0
    assert all(line.split("|")[3].strip() == "0" for line in again.out.splitlines() if line.startswith("| all"))


def test_without_draws_they_are_made_where_images_are_at_hand_and_else_the_command_is_said(stairs, tmp_path, cli):
    missing = ran(cli, stairs, tmp_path, "all", "--dry-run")
    assert missing.code == 2
    assert "no draws of the latent groups of bundle; make them with: python -m benchmark groups --" in missing.err
    done = ran(cli, stairs, tmp_path, "all")
    assert done.code == 0, done.err
    assert "drawing the latent groups of bundle, once" in done.err
    assert find_draws(open_bundle(stairs.path))[1]["each"] == 1


def test_new_draws_leave_those_that_a_run_reads(stairs, tmp_path, cli):
    stairs.draw("--keep", "100,30,50")
    path, card = find_draws(open_bundle(stairs.path))
    before, groups = path.read_bytes(), Groups((0, 1, 2), path, card)
    stairs.draw()
    assert find_draws(open_bundle(stairs.path))[1]["counts"]["train"] == 200, "of several those of most images"
    assert path.read_bytes() == before
    assert len(groups.split("train", CPU)) == 100


def test_several_that_want_draws_make_them_once(stairs, tmp_path):
    words = ["run", "--bundle", stairs.path, "--dataset", stairs.data, "--groups", "all", "--device", "cpu"]
    words += ["--priors", "gaussian", "--seeds", 1, "--metrics", "fd", "--results", tmp_path / "r", "--shared"]
    logs = [tmp_path / "one.log", tmp_path / "other.log"]
    started = [start(words, tmp_path / f"cache-{log.stem}", log) for log in logs]
    done = [finish(process, log) for process, log in zip(started, logs)]
    assert [each.code for each in done] == [0, 0], "\n".join(each.output for each in done)
    assert sum(each.output.count("drawing the latent groups") for each in done) == 1
    assert len([*(tmp_path / "r" / "cache" / "groups").rglob("*.safetensors")]) == 1
    assert len(read_protocols(tmp_path / "r")[0]) == 1


@pytest.mark.parametrize("command", ["tune", "export"])
def test_who_draws_on_a_part_of_the_images_is_told(command, stairs, tmp_path, cli):
    stairs.draw("--keep", "100,30,50")
    words = ["--bundle", stairs.path, "--dataset", stairs.data, "--groups", "all", "--device", "cpu"]
    words += {
        "tune": ["--priors", "gmm", "--trials", 1, "--results", tmp_path / "r", "--dry-run"],
        "export": ["--prior", "gaussian", "--out", tmp_path / "prior.safetensors"],
    }[command]
    done = cli(command, *words)
    assert done.code == 0, done.err
    assert done.err.count("latent groups are drawn of 100 of 200 training images") == 1


def test_a_suite_is_judged_where_its_draws_are_not(stairs, tmp_path, cli):
    (tmp_path / "own.toml").write_text(suite_of(stairs))
    words = ["suite", tmp_path / "own.toml", "--preset", "quick", "--results", tmp_path / "results", "--device", "cpu"]
    done = cli(*words, "--workers", 1)
    assert done.code == 0, done.err
    page = (tmp_path / "results" / "suites" / "own.md").read_text()
    assert stairs.draw("--keep", "100,30,50", "--out", stairs.path / "groups").code == 0
    shutil.rmtree(tmp_path / "cache" / "groups")
    done = cli(*words, "--recorded")
    assert done.code == 0, done.err
    assert (tmp_path / "results" / "suites" / "own.md").read_text() == page


def test_other_draws_are_other_latents(stairs, tmp_path, cli):
    stairs.draw("--keep", "100,30,50")
    ran(cli, stairs, tmp_path, "all")
    stairs.draw("--out", stairs.path / "groups")
    ran(cli, stairs, tmp_path, "all")
    records = rows_of(tmp_path / "results")
    assert {record["row"]["groups"]["train"] for record in records} == {100, 200}
    assert len({protocol.hash for _, protocol in read_protocols(tmp_path / "results")[0]}) == 2
    assert open_bundle(stairs.path).id == records[0]["identity"].get("bundle", open_bundle(stairs.path).id)


def test_draws_travel_with_a_task_to_a_machine_that_has_no_bundle(stairs, tmp_path, monkeypatch):
    stairs.draw()
    request = Request(
        bundle=str(stairs.path), dataset=str(stairs.data), groups="all", priors="fitted_gaussian", seeds=1, metrics=()
    )
    resolved = resolve(request, reference_of=lambda *_: None)
    parcel = parcel_of_run(resolved.work)
    sent = Sent.of(Task(resolved.jobs[-1], resolved.work, (), 1))
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "elsewhere"))
    unpack(parcel.key, parcel.read())
    here = sent.task(parcel.key, parcel_of_plugins([]).key).job.bundle
    assert here.groups.path.is_relative_to(tmp_path / "elsewhere")
    assert len(here.split("val", CPU)) == 40


def test_the_shipped_draws_are_of_the_shipped_hierarchy():
    bundle = open_bundle(SHIPPED / "mnist-nvae")
    path, card = find_draws(bundle)
    assert path.stat().st_size < 12e6
    groups = Groups(tuple(range(5)), path, card)
    assert groups.latent_shape == (1_792,)
    z = groups.split("test", CPU).first()
    assert z.mean().abs() < 0.01
    assert 0.9 < z.std() < 1.1, "at KL weight 1 the base of all groups is near"
    decoder = GroupDecoder(bundle.open_backbone(Registry(), CPU), groups)
    with torch.no_grad():
        digits, noise = decoder.decode(z[:50]), decoder.decode(torch.randn(50, 1_792, generator=seeded()))
    assert (digits.mean(0) - noise.mean(0)).abs().mean() < 0.1
    assert digits[:, :, 14:18, 14:18].mean() > 3 * digits[:, :, :4].mean()


WALKER = """
import torch
from priors.api import LatentPrior, hookimpl


class Walker(LatentPrior):
    name = "walker"
    needs_hierarchy = True

    def __init__(self, latent_shape, config, hierarchy=None):
        super().__init__(latent_shape, config)
        self.walked = (hierarchy,)
        self.moved = torch.nn.Parameter(torch.zeros(len(hierarchy.group_shapes)))

    def fit(self, posterior, generator, progress):
        self.moved.data.fill_(0.1)

    @torch.no_grad()
    def sample(self, n, generator):
        drawn = []

        def choose(number, above):
            noise = torch.randn(n, *self.walked[0].group_shapes[number], generator=generator)
            drawn.append(noise + self.moved[number] * above.features.mean().tanh())
            return above.at(drawn[-1])

        self.walked[0].walk(choose, n)
        return torch.cat([each.flatten(1) for each in drawn], 1)


@hookimpl
def register_priors():
    return [Walker]
"""


def test_a_plugin_may_walk_down_the_hierarchy_in_a_process_of_its_own(stairs, tmp_path, cli):
    stairs.draw()
    (tmp_path / "walker.py").write_text(WALKER)
    done = ran(
        cli, stairs, tmp_path, "0,1", "--plugin", tmp_path / "walker.py", "--priors", "walker", "--metrics", "c2st"
    )
    assert done.code == 0, done.err
    assert any(
        record["row"]["label"] == "walker" and record["kind"] == "c2st" for record in rows_of(tmp_path / "results")
    )


def test_a_fitted_prior_of_all_groups_is_loaded_with_its_decoder(stairs):
    stairs.draw()
    where = {"bundle": str(stairs.path), "dataset": str(stairs.data), "groups": "all", "device": "cpu"}
    loaded = load_prior("evalp_groups[steps=4]", **where)
    z = loaded.sample(3)
    assert z.shape == (3, 108)
    assert torch.equal(z, load_prior("evalp_groups[steps=4]", **where).sample(3)), "found in the cache"
    assert loaded.images(3).shape == (3, 1, 16, 16)
    with pytest.raises(UsageError, match="a network that is not its own"):
        loaded.export("evalp.pt2")


def test_the_file_of_a_prior_says_of_which_groups_it_is(stairs, tmp_path, cli):
    stairs.draw()
    of = ("--bundle", stairs.path, "--dataset", stairs.data, "--device", "cpu", "--prior", "fitted_gaussian")
    for groups, shape in {"top": [3, 2, 2], "all": [108], "1": [3, 4, 4]}.items():
        done = cli("export", *of, "--groups", groups, "--out", tmp_path / "prior.safetensors")
        assert done.code == 0, done.err
        facts = read_facts(tmp_path / "prior.safetensors")
        assert facts["latent_shape"] == shape
        chosen = facts.get("groups", {}).get("chosen")
        assert chosen == {"top": None, "all": [0, 1, 2], "1": [1]}[groups]


def suite_of(stairs, budget="quick", data=True):
    of_data = {"dataset": str(stairs.data)} if data else {}
    request = {"bundle": str(stairs.path), "groups": "all", "budget": budget, "seeds": 1, "metrics": "mmd"}
    return suite_text("mmd_imq", **of_data, **request)


def test_a_suite_draws_groups_and_its_dry_run_does_not(stairs, tmp_path, cli):
    (tmp_path / "own.toml").write_text(suite_of(stairs))
    words = ["suite", tmp_path / "own.toml", "--preset", "quick", "--results", tmp_path / "results", "--device", "cpu"]
    done = cli(*words, "--dry-run")
    assert done.code == 2
    assert "no draws of the latent groups of bundle; make them with: python -m benchmark groups --" in done.err
    assert find_draws(open_bundle(stairs.path)) is None
    assert cli(*words, "--workers", 1).code == 0
    assert find_draws(open_bundle(stairs.path)) is not None
    assert "fits to do" in cli(*words, "--dry-run").out


def test_a_suite_of_full_budget_takes_no_draws_of_a_part_of_the_images(stairs, tmp_path, cli):
    assert stairs.draw("--keep", "100,30,50", "--out", stairs.path / "groups").code == 0
    words = ["suite", tmp_path / "own.toml", "--preset", "quick", "--results", tmp_path / "results", "--device", "cpu"]

    def asked(budget, *more, data=True):
        (tmp_path / "own.toml").write_text(suite_of(stairs, budget, data))
        return cli(*words, *more)

    partial = "latent groups are drawn of 100 of 200 training images; of all of them by: python -m benchmark groups"
    assert partial in asked("quick", "--dry-run").err
    assert find_draws(open_bundle(stairs.path))[1]["counts"]["train"] == 100
    moved = stairs.data.rename(tmp_path / "moved.npz")
    refused = asked("full", "--workers", 1, data=False)
    assert refused.code == 2
    assert "the latent groups of bundle are drawn of 100 of 200 training images alone" in refused.err.splitlines()[-1]
    moved.rename(stairs.data)
    done = asked("full", "--workers", 1)
    assert done.code == 0, done.err
    assert "drawn of 100" not in done.err
    assert {record["row"]["groups"]["train"] for record in rows_of(tmp_path / "results")} == {200}


def test_nor_does_one_whose_vae_was_trained_before(stairs, tmp_path, cli, monkeypatch):
    assert stairs.draw("--keep", "100,30,50").code == 0
    monkeypatch.setattr("benchmark.suites.plan.find_trained", lambda *_: open_bundle(stairs.path))
    trained = f'\n[presets.quick.bundles.squares]\ndataset = "{stairs.data}"\nbackbone = "nvae"\n'
    request = {"bundle": "squares", "groups": "all", "budget": "full", "seeds": 1, "metrics": "mmd"}
    words = ["suite", tmp_path / "own.toml", "--preset", "quick", "--results", tmp_path / "results", "--device", "cpu"]
    (tmp_path / "own.toml").write_text(suite_text("mmd_imq", **request) + trained)
    done = cli(*words, "--workers", 1)
    assert done.code == 0, done.err
    apart = tmp_path / "results" / "suites" / "own"
    assert {record["row"]["groups"]["train"] for record in rows_of(apart)} == {200}


def test_damaged_draws_are_named_and_left_out(stairs, tmp_path, cli):
    stairs.draw()
    path, _ = find_draws(open_bundle(stairs.path))
    path.write_bytes(path.read_bytes()[:-4])
    done = ran(cli, stairs, tmp_path, "all", "--dry-run")
    assert done.code == 2
    assert "does not match its hash" in done.err


def test_draws_of_groups_that_the_backbone_has_not_are_named_and_left_out(stairs, tmp_path, cli):
    stairs.draw()
    path, card = find_draws(open_bundle(stairs.path))
    numbers = sum(torch.Size(shape).numel() for shape in card["shapes"])
    write_sealed(path.with_suffix(".json"), {**card, "shapes": [[numbers - 1], [1]]})
    done = ran(cli, stairs, tmp_path, "all", "--dry-run")
    assert done.code == 2
    assert "shapes of groups that the backbone" in done.err


def test_a_recorded_score_of_all_groups_is_verified(stairs, tmp_path, cli, monkeypatch):
    stairs.draw("--out", stairs.path / "groups")
    monkeypatch.setattr("benchmark.bundles.find._elsewhere", lambda: iter([stairs.path]))
    assert ran(cli, stairs, tmp_path, "all", "--metrics", "c2st").code == 0
    done = cli("verify", "--results", tmp_path / "results", "--share", 1)
    assert done.code == 0, done.out + done.err
    assert "DISAGREES" not in done.out
    assert "cannot be verified" not in done.out.replace("0 cannot be verified", "")


@pytest.mark.parametrize(
    "groups, said",
    [
        ("bottom", "expected top, all, or numbers of groups from 0 (the top) on, e.g. 0,1"),
        ("0,x", "expected top, all, or numbers of groups from 0 (the top) on, e.g. 0,1"),
        ("-1", "expected top, all, or numbers of groups from 0 (the top) on, e.g. 0,1"),
        ("0,7", "--groups 0,7: bundle has groups 0 (the top) to 2, and no 7"),
    ],
)
def test_groups_that_are_not_there_are_refused_in_a_line(stairs, tmp_path, cli, groups, said):
    done = ran(cli, stairs, tmp_path, groups, "--dry-run")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("error:") == 1


def test_priors_that_cannot_have_these_groups_are_left_out_and_the_reason_said(stairs, tmp_path, cli):
    stairs.draw()
    done = ran(cli, stairs, tmp_path, "1,2", "--priors", "evalp_groups,vamp", "--metrics", "c2st")
    assert done.code == 1
    assert "evalp_groups asks what is above a group, and --groups 1,2 leaves out groups: take 0,1,2" in done.err
    assert "vamp needs q(z|x) as one Gaussian, which --groups 1,2 has not: take --groups top" in done.err


def test_a_plain_vae_has_the_one_group(small_bundle, tmp_path, cli):
    words = ("run", "--bundle", small_bundle, "--priors", "gaussian", "--results", tmp_path / "results", "--dry-run")
    plain, everything = cli(*words), cli(*words, "--groups", "all")
    assert plain.code == everything.code == 0
    assert plain.out == everything.out
    refused = cli(*words, "--groups", "1")
    assert refused.code == 2
    assert "has one latent group, 0, and no 1" in refused.err
    refused = cli("groups", "--bundle", small_bundle, "--dataset", small_bundle.parent / "small.npz")
    assert refused.code == 2
    assert "has one latent group, and holds its posteriors: nothing is to be drawn" in refused.err


def test_settings_are_tuned_on_the_groups_that_are_asked_for(stairs, tmp_path, cli):
    """A tuning of all groups is another one than that of the top, in every table and page, and serves it alone."""
    stairs.draw()
    results = tmp_path / "results"
    where = ("--bundle", stairs.path, "--dataset", stairs.data, "--device", "cpu", "--results", results)
    tune = ("tune", *where, "--priors", "fitted_gaussian", "--trials", 1)
    run = ("run", *where, "--priors", "fitted_gaussian", "--groups", "all", "--seeds", 1, "--metrics", "fd")
    assert cli(*tune).code == 0
    (top,) = read_tunings(results)[0]
    assert "groups" not in top.identity, "as before there were any"
    refused = cli(*run, "--settings", "tuned")
    assert refused.code == 2
    assert "fitted_gaussian: no tuning of it on bundle is through" in refused.err
    assert "--groups all" in refused.err
    done = cli(*tune, "--groups", "all")
    assert done.code == 0, done.err
    assert "all groups, quick budget, val split" in done.out
    assert "--groups all" in done.err, "the command that scores them"
    judged, _ = judge_all(results, lambda: rows_of(results))
    of = {each.tuning.groups and tuple(each.tuning.groups["chosen"]): each for each in judged}
    assert of.keys() == {None, (0, 1, 2)}
    assert of[None].tuning == top
    for each in judged:
        lines = [
            record["values"]["fd"]
            for record in rows_of(results)
            if record["row"]["prior"] == "aggregate_posterior" and record["row"].get("groups") == each.tuning.groups
        ]
        assert each.ends[1] == pytest.approx(sum(lines) / len(lines)), "of its own groups"
    assert cli(*run).code == 0
    done = cli(*run, "--settings", "tuned")
    assert done.code == 0, done.err
    (page,) = (results / "boards").glob("*tuned-allgroups*")
    assert "| fitted_gaussian\\*" in page.read_text()
    text = (results / "tuning.md").read_text()
    of_all, of_top = sorted(text.split("\n## ")[1:], key=lambda part: "all groups" not in part.partition("\n")[0])
    assert "all groups" not in of_top
    assert "On test, with seeds that chose nothing" in of_all
    assert "On test, with seeds that chose nothing" not in of_top
    pictures = {path.name for path in (results / "tuning").iterdir()}
    assert len(pictures) == 4
    assert sum("-allgroups-" in name for name in pictures) == 2
    assert not any(top.bundle[:8] in name for name in pictures)


def test_what_cannot_be_tuned_on_these_groups_is_left_out_or_where_it_is_named_refused(stairs, tmp_path, cli):
    stairs.draw()
    words = ("tune", "--bundle", stairs.path, "--dataset", stairs.data, "--device", "cpu", "--trials", 1, "--dry-run")
    words = (*words, "--groups", "all", "--results", tmp_path / "results")
    said = "prior vamp needs q(z|x) as one Gaussian, which --groups 0,1,2 has not"
    named = cli(*words, "--priors", "vamp")
    assert named.code == 2
    assert said in named.err
    done = cli(*words, "--priors", "closed_form")
    assert done.code == 0, done.err
    assert f"left out: {said}" in done.err
    assert "| gmm" in done.out


def test_a_dry_run_says_what_is_left_out(stairs, tmp_path, cli):
    stairs.draw()
    words = ("run", "--bundle", stairs.path, "--dataset", stairs.data, "--device", "cpu", "--groups", "all")
    done = cli(*words, "--priors", "vamp,fitted_gaussian", "--dry-run", "--results", tmp_path / "results")
    assert "left out: prior vamp needs q(z|x) as one Gaussian" in done.err


@pytest.mark.parametrize(
    "given, meant",
    [("top", None), (None, None), ("all", "all"), ("0,1", (0, 1)), ([2, 0], (2, 0)), (1, (1,)), ("3", (3,))],
)
def test_groups_are_typed_and_given(given, meant):
    assert Request(groups=given).groups == meant
