"""Priors of the groups of a hierarchy, jointly (A) and one by one given those above (B), against known densities."""

import math

import pytest
import torch
from draws import CPU, seeded, silent
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from vaes import hierarchy

from benchmark.bundles.groups import GroupDecoder, Groups
from benchmark.check.targets import TARGETS, Stairs
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from priors.api import AggregatePosterior, DrawnSplit
from priors.evalp_groups import EVaLPGroups, EVaLPGroupsConfig, energy_loss, sampler_loss
from priors.evalp_joint import EVaLPJoint
from priors.jebm import JEBM, JEBMConfig
from priors.latent_flow import LatentFlow, LatentFlowConfig
from priors.ncp import NCP, NCPConfig
from priors.ncp_groups import NCPGroups, NCPGroupsConfig, classifier_loss
from priors.parts.conditional import ConditionalEnergy, ConditionalFlow
from priors.parts.group_players import GroupPlayersConfig
from priors.parts.standard_normal import log_standard_normal

pytestmark = pytest.mark.usefixtures("seeded_modules")
OF_HIERARCHIES = [EVaLPGroups, EVaLPJoint, JEBM, NCPGroups]
JOINTLY = [EVaLPJoint, JEBM]
FORMS = {
    "vector": ((4,), (3,)),
    "nothing above": ((4,), (0,)),
    "block": ((2, 4, 4), (3, 4, 4)),
    "one number": ((1,), (2,)),
}
forms = pytest.mark.parametrize("shape, context", FORMS.values(), ids=FORMS)


def on_target(cls, config):
    """A prior of the two groups of the target, fitted."""
    target = TARGETS["stairs"]()
    prior = cls(target.shape, config, target.hierarchy) if cls.needs_hierarchy else cls(target.shape, config)
    prior.train().fit(target.posterior(CPU), seeded(), silent)
    return prior.eval().requires_grad_(False), target


def gaussian_kl_by_group(target, z):
    """Of N(0, I), by group: what a prior is to repair."""
    base = torch.stack([log_standard_normal(part) for part in z.split(2, 1)], 1)
    return (target.by_group(z) - base).mean(0)


# ---- known densities ----------------------------------------------------------------------------------------------


def test_the_target_draws_from_the_densities_that_it_states():
    target = TARGETS["stairs"]()
    z = target.draw(20_000, seeded())
    of_modes = math.log(2) + 2 * Normal(0.0, 0.5).entropy()
    assert (-target.by_group(z).mean(0)).tolist() == pytest.approx([of_modes.item()] * 2, abs=0.05)
    assert torch.allclose(target.by_group(z).sum(1), target.log_prob(z))
    with torch.no_grad():
        assert (gaussian_kl_by_group(target, z) > 0.5).all()


def test_classifiers_one_by_one_come_to_the_densities_group_by_group():
    """(B) With Z_l(c) by 2,000 draws of N(0, I) at each context, each group's divergence from the truth is small."""
    prior, target = on_target(NCPGroups, NCPGroupsConfig(steps=1_500, width=64))
    z = target.draw(400, seeded(5))
    known, gaussian = target.by_group(z), gaussian_kl_by_group(target, z)
    contexts, eps = prior.contexts(z), prior.apart(z)
    noise = torch.randn(2_000, 2, generator=seeded(6))
    for number, energy in enumerate(prior.energies):
        read = energy.read(contexts[number])
        logit = -energy(eps[number], read)
        each = [
            (-energy(noise, None if read is None else read[i : i + 1])).logsumexp(0) - math.log(2_000)
            for i in range(len(z))
        ]
        log_p = logit + log_standard_normal(eps[number]) - torch.stack(each)
        kl = (known[:, number] - log_p).mean().item()
        assert -0.03 < kl < 0.1 * gaussian[number], "a tenth of what N(0, I) leaves"


def test_one_classifier_of_all_groups_comes_to_the_density_of_all_of_them():
    """(A) The same target as one vector; its normaliser is one number."""
    prior, target = on_target(NCP, NCPConfig(steps=1_500, width=64, depth=2))
    z, noise = target.draw(4_000, seeded(5)), torch.randn(50_000, 4, generator=seeded(6))
    log_z = (-prior.energy_network(noise)).logsumexp(0) - math.log(len(noise))
    kl = (target.log_prob(z) + prior.energy(z) + log_z).mean().item()
    assert -0.03 < kl < 0.1 * gaussian_kl_by_group(target, z).sum()


def test_a_flow_of_all_groups_has_their_joint_density():
    """(A) by maximum likelihood: nearer than N(0, I) by far, and above zero as a divergence is."""
    prior, target = on_target(LatentFlow, LatentFlowConfig(steps=500, couplings=4, width=32))
    z = target.draw(4_000, seeded(5))
    kl = (target.log_prob(z) - prior.log_prob(z)).mean().item()
    assert -0.03 < kl < 0.3 * gaussian_kl_by_group(target, z).sum()


def test_energies_and_samplers_one_by_one_learn_each_group():
    """(B) At full KL weight a 1-Lipschitz energy tilts N(0, I) by a nat per unit: some of each divergence goes."""
    prior, target = on_target(
        EVaLPGroups, EVaLPGroupsConfig(steps=800, energy_width=32, learning_rate=2e-3, sampler_learning_rate=2e-3)
    )
    z = target.draw(4_000, seeded(5))
    by_group, gaussian = (target.by_group(z) - prior.log_prob_by_group(z)).mean(0), gaussian_kl_by_group(target, z)
    assert (by_group > -0.03).all()
    assert (by_group < 0.9 * gaussian).all()
    drawn = prior.sample(4_000, seeded(6))
    assert prior.log_prob(drawn).mean() > prior.log_prob(torch.randn(4_000, 4, generator=seeded(7))).mean()
    assert torch.allclose(prior.log_prob_by_group(z).sum(1), prior.log_prob(z))


def test_one_energy_of_all_groups_comes_to_the_density_of_each():
    """(A) With little of the penalty, the energy and its sampler leave a tenth and a seventh of what N(0, I) leaves.

    p(eps_0) and p(eps_1 | eps_0) are of one normaliser, by draws of N(0, I).
    """
    config = GroupPlayersConfig(
        steps=600,
        batch_size=512,
        energy_steps=1,
        energy_width=32,
        learning_rate=2e-3,
        sampler_learning_rate=3e-3,
        gp_weight=0.02,
    )
    prior, target = on_target(EVaLPJoint, config)
    z = target.draw(400, seeded(5))
    known, gaussian = target.by_group(z), gaussian_kl_by_group(target, z)
    noise, below = torch.randn(50_000, 4, generator=seeded(6)), torch.randn(1_000, 2, generator=seeded(7))
    log_z = (-prior.tilt(noise)).logsumexp(0) - math.log(len(noise))
    over_below = [
        (-prior.tilt(torch.cat([top.expand(1_000, 2), below], 1))).logsumexp(0) - math.log(1_000) for top in z[:, :2]
    ]
    log_top = torch.stack(over_below) - log_z + log_standard_normal(z[:, :2])
    log_p = torch.stack([log_top, -prior.energy(z) - log_z - log_top], 1)
    of_energy, of_sampler = ((known - each).mean(0) for each in (log_p, prior.log_prob_by_group(z)))
    assert (of_energy > -0.03).all()
    assert (of_energy < 0.1 * gaussian).all()
    assert (of_sampler > -0.03).all()
    assert (of_sampler < 0.15 * gaussian).all()


def test_jointly_and_one_by_one_are_one_where_there_is_one_group():
    """The same draws and networks: what is of one group has nothing to be joint with."""
    target, states = TARGETS["ring"](), []
    for cls in (EVaLPGroups, EVaLPJoint):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            prior = cls(target.shape, cls.Config(steps=40, energy_width=16))
        prior.fit(target.posterior(CPU), seeded(), silent)
        states.append(prior.state_dict())
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-4), name


# ---- the conditional bound ----------------------------------------------------------------------------------------


class Pull:
    """f(eps, c) = a/2 |eps - c|^2: exp(-f) N(0, I) is then N(a c / (1 + a), I / (1 + a)), whose Z(c) is known."""

    a = 3.0

    def read(self, context):
        return context

    def __call__(self, eps, read):
        return self.a / 2 * (eps - read).square().sum(1)

    def log_normaliser(self, context):
        d = context.shape[1]
        return MultivariateNormal(torch.zeros(d), (1 + 1 / self.a) * torch.eye(d)).log_prob(context) + d / 2 * math.log(
            2 * math.pi / self.a
        )


class Affine:
    """The sampler N(slope c, std^2 I)."""

    def __init__(self, slope, std):
        self.slope, self.std = slope, std

    def push(self, noise, context):
        return self.slope * context + self.std * noise, torch.full((len(noise),), noise.shape[1] * math.log(self.std))


def test_the_bound_given_what_is_above_is_tight_at_its_optimum_and_below_elsewhere():
    """log Z(c) = max over g of -E_g[f] - KL(g || N(0, I)), for each c: at the optimum without any variance."""
    context = 2 * torch.randn(1, 2, generator=seeded(1)).expand(20_000, 2)
    noise, pull = torch.randn(20_000, 2, generator=seeded(2)), Pull()
    optimum = Affine(pull.a / (1 + pull.a), (1 + pull.a) ** -0.5)
    known = pull.log_normaliser(context)[0].item()
    loss, kl = sampler_loss(pull, optimum, noise, context, 1.0)
    assert -loss.item() == pytest.approx(known, abs=1e-3)
    mean, std = pull.a / (1 + pull.a) * context[0], torch.full((2,), (1 + pull.a) ** -0.5)
    assert kl.item() == pytest.approx(kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum().item(), abs=0.03)
    for other in (Affine(0.5, 0.5), Affine(0.75, 0.8), Affine(0.0, 1.0)):
        assert -sampler_loss(pull, other, noise, context, 1.0)[0].item() < known - 0.05


def test_the_energys_loss_is_its_gap_and_a_penalty_on_the_slope_in_eps_at_the_same_context():
    energy = ConditionalEnergy((3,), (2,), (8, 8))
    eps_q, eps_g = (torch.randn(5, 3, generator=seeded(i)) for i in (1, 2))
    context, a = torch.randn(5, 2, generator=seeded(3)), torch.rand(5, 1, generator=seeded(4))
    loss, penalty = energy_loss(energy, eps_q, eps_g, a, context, 10.0)
    read = energy.read(context)
    between = (a * eps_q + (1 - a) * eps_g).requires_grad_()
    (slope,) = torch.autograd.grad(energy(between, read).sum(), between)
    expected = (slope.norm(dim=1) - 1).square().mean()
    assert torch.allclose(penalty, expected)
    assert torch.allclose(loss, (energy(eps_q, read) - energy(eps_g, read)).mean() + 10 * expected, atol=1e-5)


def test_a_classifiers_loss_is_torchs_cross_entropy():
    energy = ConditionalEnergy((3,), (2,), (8,), constant=True)
    eps_q, eps_0, context = (torch.randn(6, d, generator=seeded(i)) for i, d in enumerate((3, 3, 2)))
    read = energy.read(context)
    logits = -torch.cat([energy(eps_q, read), energy(eps_0, read)])
    labels = torch.cat([torch.ones(6), torch.zeros(6)])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert torch.allclose(classifier_loss(energy, eps_q, eps_0, context), expected)


# ---- A is not B ---------------------------------------------------------------------------------------------------


def with_energy_below_alone(cls, config):
    """A prior whose upper group has no energy, and whose lower one likes large values of its first number."""
    prior = cls((4,), config, Stairs()).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in prior.energies.parameters():
            parameter.zero_()
        below = prior.energies[1]
        below.on_eps.weight[0, 0], below.on_eps.bias[0] = 1.0, 10.0
        for layer in below.hidden:
            layer.weight[0, 0] = 1.0
        below.last.weight[0, 0] = -2.0  # f = -2 (x + 10)
    return prior


def test_an_energy_on_the_lower_group_moves_the_upper_one_jointly_and_not_one_by_one():
    """(A) f(z_1) with z_1 = tanh(z_0) + eps_1 / 2 draws z_0 to where z_1 is large; (B) divides its effect out."""
    jointly = with_energy_below_alone(JEBM, JEBMConfig(langevin_steps=60, step_size=0.3))
    apart = with_energy_below_alone(NCPGroups, NCPGroupsConfig(proposals=200))
    moved, still = jointly.sample(2_000, seeded()).mean(0), apart.sample(2_000, seeded()).mean(0)
    axis = torch.linspace(-8, 8, 2_001)
    tilted = Normal(0.0, 1.0).log_prob(axis) + 2 * axis.tanh()  # over eps_1, of which z_1 has half, a constant
    expected = (axis * tilted.softmax(0)).sum().item()
    assert moved[0].item() == pytest.approx(expected, abs=0.1)
    assert expected > 0.6
    assert still[:2].abs().max() < 5 / 2_000**0.5
    assert moved[2].item() == pytest.approx(1.0, abs=0.1)  # 2 z_1 = 2 tanh + eps_1
    assert still[2].item() == pytest.approx(2.0, abs=0.25)  # its energy is of eps_1 itself


def joint_with_energy_below_alone():
    """As above, of EVaLP: f_1 = -2 leaky(eps_1 + c_1) of the first numbers, c_1 = eps_0. Its samplers are untrained."""
    torch.manual_seed(0)
    prior = EVaLPJoint((4,), GroupPlayersConfig(energy_width=16), Stairs())
    with torch.no_grad():
        for parameter in prior.energies.parameters():
            parameter.zero_()
        below = prior.energies[1]
        below.on_eps.weight[0, 0] = below.on_context.weight[0, 0] = 1.0
        below.hidden[0].weight[0, 0] = 1.0
        below.last.weight[0, 0] = -2.0
    return prior


def test_the_sampler_of_all_groups_follows_an_energy_on_the_lower_one_up_to_the_upper_as_on_a_grid():
    prior = joint_with_energy_below_alone()
    axis = torch.linspace(-8, 8, 801)
    top, below = torch.meshgrid(axis, axis, indexing="ij")
    of_sum = 2 * torch.nn.functional.leaky_relu(torch.nn.functional.leaky_relu(top + below, 0.01), 0.01)
    weight = of_sum + Normal(0.0, 1.0).log_prob(top) + Normal(0.0, 1.0).log_prob(below)
    share, log_z = weight.flatten().softmax(0).view_as(weight), weight.logsumexp((0, 1)) + 2 * math.log(16 / 800)
    expected = torch.stack([(share * top).sum(), (share * below).sum()])
    assert expected[0] > 1.0, "the grid's upper group moves"
    optimiser = torch.optim.Adam(prior.samplers.parameters(), 5e-3)
    for step in range(300):
        loss, _ = prior.sampler_loss(torch.randn(256, 4, generator=seeded(step)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        loss, _ = prior.sampler_loss(torch.randn(20_000, 4, generator=seeded(1)))
    assert log_z - 0.1 < -loss < log_z + 0.03, "a lower bound of log Z, and near it"
    moved = prior.sample(4_000, seeded(2)).mean(0)
    assert moved[[0, 2]].tolist() == pytest.approx(expected.tolist(), abs=0.1)
    assert moved[[1, 3]].abs().max() < 0.1


def test_the_penalty_of_all_groups_is_on_one_slope_that_counts_what_is_below():
    torch.manual_seed(3)
    prior = EVaLPJoint((4,), GroupPlayersConfig(energy_width=8), Stairs()).double()
    eps_q, eps_g = (torch.randn(5, 4, generator=seeded(i), dtype=torch.float64) for i in (1, 2))
    a = torch.rand(5, 1, generator=seeded(3), dtype=torch.float64)
    loss, penalty = prior.energy_loss(eps_q, eps_g, a)
    between, h = a * eps_q + (1 - a) * eps_g, 1e-6
    with torch.no_grad():
        steps = h * torch.eye(4, dtype=torch.float64)
        slope = torch.stack([(prior.tilt(between + e) - prior.tilt(between - e)) / (2 * h) for e in steps], 1)
        gap = (prior.tilt(eps_q) - prior.tilt(eps_g)).mean()
    expected = (slope.norm(dim=1) - 1).square().mean()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() == pytest.approx((gap + 10 * expected).item(), rel=1e-5)
    one_by_one = [
        energy.slope(eps, energy.read(context))
        for energy, eps, context in zip(prior.energies, prior.apart(between), prior.contexts(between))
    ]
    assert not torch.allclose(torch.cat(one_by_one, 1)[:, :2], slope[:, :2]), "c_1 moves with eps_0"
    assert torch.allclose(torch.cat(one_by_one, 1)[:, 2:], slope[:, 2:], atol=1e-5)


# ---- parts --------------------------------------------------------------------------------------------------------


@forms
def test_a_flow_steered_from_above_inverts_and_its_log_det_is_autograds(shape, context):
    flow = ConditionalFlow(shape, context, 4, 8).requires_grad_(False)
    for parameter in flow.parameters():
        parameter.normal_(0, 0.1, generator=seeded(parameter.numel()))
    noise, above = torch.randn(3, *shape, generator=seeded(1)), torch.randn(3, *context, generator=seeded(2))
    eps, log_det = flow.push(noise, above)
    assert torch.allclose(flow.log_prob(eps, above), log_standard_normal(noise) - log_det, atol=1e-3)
    for one, of, stated in zip(noise, above, log_det):
        jacobian = torch.autograd.functional.jacobian(lambda x, c=of: flow.push(x[None], c[None])[0][0], one)
        d = one.numel()
        assert jacobian.view(d, d).double().slogdet().logabsdet.item() == pytest.approx(stated.item(), abs=1e-3)
    if context[0]:
        assert not torch.allclose(flow.push(noise, above + 1)[0], eps)


@forms
def test_many_eps_below_one_context_are_read_as_one_by_one(shape, context):
    energy = ConditionalEnergy(shape, context, (6, 5)).requires_grad_(False)
    eps, above = torch.randn(2 * 7, *shape, generator=seeded(1)), torch.randn(2, *context, generator=seeded(2))
    together = energy(eps, energy.read(above))
    apart = [energy(each[None], energy.read(above[i // 7][None])) for i, each in enumerate(eps)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("cls", OF_HIERARCHIES)
def test_latents_of_a_real_hierarchy_are_drawn_walking_down_it(cls):
    """On a VAE's own network: shapes, no part of it in the state, the generator alone, every weight moved."""
    model = hierarchy().requires_grad_(False)
    shapes = [list(shape) for shape in model.group_shapes]
    card = {"shapes": shapes, "counts": {}, "each": 1, "sha256": "0" * 64}
    decoder = GroupDecoder(model, Groups((0, 1, 2), None, card)).eval()
    config, _, _ = resolve_config(cls, {"steps": 4}, "synthetic", decoder.latent_shape, "quick")
    prior = cls(decoder.latent_shape, config, decoder)
    assert not any("stem" in name or "grow" in name for name in prior.state_dict())
    drawn = torch.randn(200, 1, *decoder.latent_shape, generator=seeded())
    before = {name: each.clone() for name, each in prior.named_parameters()}
    prior.fit(AggregatePosterior(DrawnSplit(drawn), DrawnSplit(drawn)), seeded(), silent)
    still = [name for name, each in prior.named_parameters() if torch.equal(each, before[name])]
    assert not [name for name in still if "samplers" not in name], "the samplers' inner layers wait for the outer ones"
    z = prior.eval().sample(3, seeded(1))
    assert z.shape == (3, *decoder.latent_shape)
    assert torch.equal(z, prior.sample(3, seeded(1)))
    assert decoder.decode(z, seeded()).shape == (3, 1, 16, 16)


def test_drawing_one_group_anew_keeps_to_what_is_above_it():
    prior, target = on_target(NCPGroups, NCPGroupsConfig(steps=600, width=64, proposals=100))
    z = target.draw(1_000, seeded(3))
    below = prior.redraw(z, 1, seeded(4))
    assert below.shape == (1_000, 2)
    known = target.by_group(torch.cat([z[:, :2], below], 1))[:, 1].mean()
    shuffled = target.by_group(torch.cat([z[:, :2], below.roll(1, 0)], 1))[:, 1].mean()
    assert known > shuffled + 0.3


def test_half_of_the_contexts_may_be_the_models_own():
    fitted = [
        on_target(EVaLPGroups, EVaLPGroupsConfig(steps=10, energy_width=8, own_contexts=share))[0]
        for share in (0.0, 0.5, 1.0)
    ]
    states = [prior.samplers[1].couplings[0].network[0].weight for prior in fitted]
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])


@pytest.mark.parametrize("cls", OF_HIERARCHIES)
def test_latents_that_are_not_the_groups_are_refused(cls):
    with pytest.raises(ValueError, match="not those of groups"):
        cls((5,), cls.Config(), Stairs())


def test_of_several_groups_there_is_no_energy_where_each_is_normalised_by_itself():
    z = torch.zeros(2, 4)
    for cls in OF_HIERARCHIES:
        config, _, _ = resolve_config(cls, {}, "synthetic", (4,), "quick")
        of_two, of_one = cls((4,), config, Stairs()), cls((4,), config)
        assert (of_two.energy(z) is None) == (cls not in JOINTLY)
        assert of_one.energy(z).shape == (2,)


def test_all_that_need_a_hierarchy_are_tested_here():
    registry = Registry()
    known = {registry.get("prior", name) for name in registry.at_hand("prior")}
    assert {cls for cls in known if cls.needs_hierarchy} == set(OF_HIERARCHIES)
