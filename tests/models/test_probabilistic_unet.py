"""The Probabilistic U-Net's parts against explicit formulas (about 3 s)."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from pd_ddpm.models.factory import build_model
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet

SIZES = {2: (16, 24), 3: (8, 4, 12)}


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def small(spatial_dims=2, seed=0, **changes):
    """Return a small network whose parameters are perturbed, so that no bias is zero."""
    torch.manual_seed(seed)
    network = ProbabilisticUNet(
        **{"spatial_dims": spatial_dims, "in_channels": 2, "channels": (4, 6, 8), "latent": 3} | changes
    )
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return network


def mask_of(size, seed=9):
    return (normal(2, 1, *size, seed=seed) > 0.5).float()


def test_probabilistic_unet_has_size_of_public_port():
    """5.0 million parameters with two image channels. The encoders differ in the mask's channel only."""
    with torch.device("meta"):
        network = ProbabilisticUNet(spatial_dims=2, in_channels=2)

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(network) == 5_000_313
    assert count(network.posterior_encoder) - count(network.prior_encoder) == 9 * 32

    def blocks(widths):
        return sum(9 * (a * b + 2 * b * b) + 3 * b for a, b in widths)

    widths = (32, 64, 128, 192)
    encoder = blocks(pairwise((2, *widths)))
    assert count(network.prior_encoder) == encoder + (192 + 1) * 12
    assert count(network.down) + count(network.up) == encoder + blocks((a + b, a) for a, b in pairwise(widths))
    assert count(network.combination) == (38 + 1) * 32 + 2 * (32 + 1) * 32 + 33
    assert network.divisor == 8


def explicit_features(network, image):
    """Compute the features of a network of three levels explicitly from its weights."""
    dims = image.ndim - 2
    convolve = {2: functional.conv2d, 3: functional.conv3d}[dims]
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[dims]

    def block(x, layers):
        for layer in layers[::2]:
            x = convolve(x, layer.weight, layer.bias, padding=1).clamp(min=0)
        return x

    fine = block(image, network.down.blocks[0])
    middle = block(pool(fine, 2), network.down.blocks[1])
    coarse = block(pool(middle, 2), network.down.blocks[2])

    def upsample(x):
        """Interpolate linearly along each axis with weights 3/4 and 1/4 and a repeated border."""
        for axis in range(2, x.ndim):
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
            before = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
            after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), last], axis)
            pairs = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
            x = pairs.flatten(axis, axis + 1)
        return x

    middle = block(torch.cat([upsample(coarse), middle], 1), network.up[1])
    return block(torch.cat([upsample(middle), fine], 1), network.up[0]), coarse


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_features_equal_explicit_formula(spatial_dims):
    network, image = small(spatial_dims), normal(2, 2, *SIZES[spatial_dims])
    features = network.features(image)
    assert features.shape == (2, 4, *SIZES[spatial_dims])
    torch.testing.assert_close(features, explicit_features(network, image)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_prior_equals_explicit_formula_of_spatial_mean(spatial_dims):
    network, image = small(spatial_dims), normal(2, 2, *SIZES[spatial_dims])
    network.down = network.prior_encoder.down
    _, coarse = explicit_features(network, image)
    head = network.prior_encoder.parameters_of_z
    expected = coarse.mean(tuple(range(2, image.ndim))) @ head.weight.T + head.bias
    prior = network.prior(image)
    torch.testing.assert_close(prior.mean, expected[:, :3])
    torch.testing.assert_close(prior.stddev, expected[:, 3:].exp())
    assert (prior.batch_shape, prior.event_shape) == ((2,), (3,))


def test_posterior_uses_image_and_centred_mask():
    network, image, mask = small(), normal(2, 2, 16, 24), mask_of((16, 24))
    posterior = network.posterior(image, mask)
    direct = network.posterior_encoder(torch.cat([image, mask - 0.5], 1))
    assert torch.equal(posterior.mean, direct.mean)
    assert torch.equal(posterior.stddev, direct.stddev)
    assert (network.posterior(image, 1 - mask).mean - posterior.mean).abs().max() > 1e-3
    with torch.no_grad():
        network.posterior_encoder.down.blocks[0][0].weight[:, 2] = 0  # ignore the mask
    assert torch.equal(network.posterior(image, mask).mean, network.posterior(image, 1 - mask).mean)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_decode_adds_z_to_every_position(spatial_dims):
    network, z = small(spatial_dims), normal(2, 3)
    features = normal(2, 4, *SIZES[spatial_dims])
    logits = network.decode(features, z)
    assert logits.shape == (2, 1, *SIZES[spatial_dims])
    h = torch.cat([features.flatten(2), z[:, :, None].expand(-1, -1, features[0, 0].numel())], 1)
    layers = network.combination[::2]
    assert len(layers) == 4
    for number, layer in enumerate(layers):
        h = layer.weight.flatten(1) @ h + layer.bias[:, None]
        h = h.clamp(min=0) if number < 3 else h
    torch.testing.assert_close(logits.flatten(2), h, rtol=1e-4, atol=1e-5)
    assert (network.decode(features, z.flip(0)) - logits).abs().max() > 1e-3


def test_forward_is_sample_from_prior():
    network, image, noise = small(), normal(2, 2, 16, 24), normal(2, 3, seed=1)
    prior = network.prior(image)
    expected = network.decode(network.features(image), prior.mean + prior.stddev * noise)
    torch.testing.assert_close(network(image, noise), expected)
    torch.testing.assert_close(network(image, 0 * noise), network.decode(network.features(image), prior.mean))


def test_forward_does_not_depend_on_other_rows():
    network, image, noise = small(), normal(4, 2, 16, 24), normal(4, 3, seed=1)
    together = network(image, noise)
    for n in range(4):
        torch.testing.assert_close(network(image[n : n + 1], noise[n : n + 1]), together[n : n + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("order", [[0, 0, 0], [0, 0, 1, 1, 1, 0, 2], [2, 1, 0]])
def test_forward_evaluates_equal_consecutive_images_once(spatial_dims, order):
    """Rows equal those of single evaluations; only rows that differ from the previous one are evaluated."""
    network, image, noise = small(spatial_dims), normal(3, 2, *SIZES[spatial_dims]), normal(len(order), 3, seed=1)
    image[1] = image[0]
    image[1, 1, ..., -1] += 1  # the second image differs from the first at one border only
    rows = image[order]
    alone = torch.cat([network(rows[n : n + 1], noise[n : n + 1]) for n in range(len(order))])
    inputs_of = {"features": [], "prior": []}
    for name, module in (("features", network.down), ("prior", network.prior_encoder)):
        module.register_forward_pre_hook(lambda _, inputs, name=name: inputs_of[name].append(inputs[0]))
    torch.testing.assert_close(network(rows, noise), alone, rtol=1e-4, atol=1e-5)
    expected = image[[index for n, index in enumerate(order) if n == 0 or index != order[n - 1]]]
    for inputs in inputs_of.values():
        assert len(inputs) == 1
        assert torch.equal(inputs[0], expected)


def test_features_do_not_depend_on_image_size():
    """Far from its border, a patch has the features of the whole slice."""
    network, image = small(channels=(4, 6)), normal(1, 2, 96, 64)
    whole, patch = network.features(image), network.features(image[:, :, 16:80])
    torch.testing.assert_close(whole[:, :, 36:60], patch[:, :, 20:44], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [-1000.0, 1000.0])
def test_kl_divergence_stays_finite_for_extreme_deviations(bias):
    network, image, mask = small(), normal(2, 2, 16, 24), mask_of((16, 24))
    with torch.no_grad():
        network.prior_encoder.parameters_of_z.bias[3:] = bias
        network.posterior_encoder.parameters_of_z.bias[3:] = -bias
    prior, posterior = network.prior(image), network.posterior(image, mask)
    torch.testing.assert_close(prior.stddev, torch.full((2, 3), math.exp(math.copysign(10, bias))))
    divergence = kl_divergence(posterior, prior).mean()
    assert divergence.isfinite()
    divergence.backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gradient_reaches_every_parameter(spatial_dims):
    network, size = small(spatial_dims), SIZES[spatial_dims]
    image, mask = normal(2, 2, *size), mask_of(size)
    posterior = network.posterior(image, mask)
    logits = network.decode(network.features(image), posterior.rsample())
    loss = functional.binary_cross_entropy_with_logits(logits, mask)
    (loss + kl_divergence(posterior, network.prior(image)).mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_untrained_network_keeps_scale_of_signal():
    torch.manual_seed(0)
    network = ProbabilisticUNet(spatial_dims=2, in_channels=2)
    image = normal(2, 2, 64, 64)
    with torch.inference_mode():
        assert 0.1 < network.features(image).std() < 10
        gaussians = [network.prior(image), network.posterior(image, mask_of((64, 64)))]
    standard = Independent(Normal(torch.zeros(2, 6), torch.ones(2, 6)), 1)
    for gaussian in gaussians:
        assert kl_divergence(gaussian, standard).max() < 60
        assert 0.1 < gaussian.stddev.min() < gaussian.stddev.max() < 10


def test_bfloat16_autocast_is_near_float32_and_keeps_gaussians_in_float32():
    network, image, noise = small(), normal(2, 2, 16, 24), normal(2, 3, seed=1)
    with torch.inference_mode():
        reference = network(image, noise)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert network.features(image).dtype == torch.bfloat16
            assert network.prior(image).mean.dtype == network.prior(image).stddev.dtype == torch.float32
            output = network(image, noise)
    assert (output.float() - reference).abs().max() < 0.05 * reference.abs().max()


def test_state_dict_restores_network():
    network, other = small(seed=1), small(seed=2)
    image, noise = normal(1, 2, 16, 24), normal(1, 3)
    assert not torch.equal(network(image, noise), other(image, noise))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(image, noise), other(image, noise))


def test_build_model_returns_probabilistic_unet():
    settings = {"architecture": "probabilistic_unet", "spatial_dims": 2, "channels": [4, 6], "latent": 2, "kl_weight": 1.0}
    network = build_model(settings, image_channels=3)
    assert isinstance(network, ProbabilisticUNet)
    assert (network.latent, network.divisor) == (2, 2)
    assert isinstance(network.down.blocks[0][0], nn.Conv2d)
    assert network.down.blocks[0][0].in_channels == 3


def test_probabilistic_unet_rejects_invalid_settings_and_sizes():
    with pytest.raises(ValueError, match="at least two widths"):
        small(channels=(8,))
    with pytest.raises(ValueError, match="`spatial_dims` is 4"):
        small(spatial_dims=4)
    for part in (small().features, small().prior):
        with pytest.raises(ValueError, match="16 x 26 is not a multiple of 4"):
            part(normal(1, 2, 16, 26))
