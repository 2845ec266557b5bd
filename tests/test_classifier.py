"""The network of the classifier test: its training, and the plane in which it tells two samples apart."""

import torch
from draws import normal, seeded

from benchmark.scores import classifier
from benchmark.scores.classifier import find_plane, train_classifier


def test_training_is_that_of_torch_s_adamw_and_one_cycle_schedule_bit_for_bit():
    real, generated = torch.randn(2, 300, 10, generator=seeded(1)).unbind()
    layers = classifier._trained(real, generated, generator := seeded(2))
    after = torch.randn(3, generator=generator)

    generator = seeded(2)
    plain, _ = classifier._layers([10, classifier.HIDDEN, classifier.HIDDEN, 1], generator)
    plain = [(weight.detach().clone(), bias.detach().clone()) for weight, bias in plain]
    parameters = [each.requires_grad_() for layer in plain for each in layer]
    steps = classifier.EPOCHS * 3  # batches of 128 of 300
    optimiser = torch.optim.AdamW(parameters, classifier.LEARNING_RATE, weight_decay=classifier.WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, classifier.LEARNING_RATE, steps)
    labels = torch.cat([torch.ones(128), torch.zeros(128)])
    for _ in range(steps):
        batch = torch.cat([part[torch.randint(300, (128,), generator=generator)] for part in (real, generated)])
        logits = classifier._logits(plain, batch, generator)
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimiser.step()
        schedule.step()
    for one, other in zip(layers, plain):
        assert all(map(torch.equal, one, other))
    assert torch.equal(after, torch.randn(3, generator=generator))


def test_the_plane_is_that_of_the_two_dimensions_in_which_the_samples_differ():
    """One by its mean, one by its width, which a plane of means alone would not find, at scales of their own."""
    real, generated = normal(2_000, 8, 0), normal(2_000, 8, 1)
    generated[:, 2] += 2
    generated[:, 5] *= 3
    scale = torch.tensor([1, 9, 0.1, 1, 5, 20, 1, 1])
    trained = train_classifier(real * scale, generated * scale, seeded(0))
    plane = find_plane(trained, torch.cat([real, generated]) * scale)
    assert torch.allclose(plane.T @ plane, torch.eye(2), atol=1e-5)
    within = plane.square().sum(1)
    assert within[[2, 5]].sum() > 0.95 * 2
    assert (plane.abs().max(0).values == plane.max(0).values).all(), "signs do not hang on chance"


def test_a_plane_needs_two_dimensions():
    trained = train_classifier(normal(50, 1, 0), normal(50, 1, 1), seeded(0))
    assert find_plane(trained, normal(50, 1, 2)).shape == (1, 1)
