"""Networks against the published sizes and MONAI's independent implementation (about 15 s, most of it imports)."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.peers import MONAI, renamed_weights
from pd_ddpm.models.factory import build_model
from pd_ddpm.models.networks.blocks import AttentionBlock, ResidualBlock, group_norm, join_skip, sinusoids
from pd_ddpm.models.networks.denoising_unet import DenoisingUNet, DenoisingUNetSettings
from pd_ddpm.models.networks.dropout import Dropout
from pd_ddpm.models.networks.supervised import attention_unet, unet, unet_plus_plus

PAPER = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 1,
    "channels": 128,
    "multipliers": (1, 1, 2, 2, 4, 4),
    "residual_blocks": 2,
    "attention_at": [16],
}
SMALL = {**PAPER, "channels": 8, "multipliers": (1, 2, 4), "residual_blocks": 1, "attention_at": [4]}
PATCH_DDPM = {
    "spatial_dims": 3,
    "in_channels": 8,
    "out_channels": 1,
    "channels": 29,
    "multipliers": (1, 3, 4, 4, 4, 4, 4),
    "residual_blocks": 2,
    "attention_at": [],
    "middle_attention": False,
    "groups": 29,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def perturbed(network, seed=0):
    """Perturb every parameter of a network at random, so that no branch is zero."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.from_numpy(random.standard_normal(parameter.shape, dtype=np.float32))
    return network


def denoising_unet(settings):
    return DenoisingUNet(DenoisingUNetSettings(**settings))


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return perturbed(denoising_unet(SMALL | changes), seed)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# -- Size and mathematics against published numbers and MONAI -------------------------------------------------------


def monai_denoiser(**settings):
    from monai.networks.nets import DiffusionModelUNet

    defaults = {"out_channels": 1, "num_res_blocks": 2, "norm_num_groups": 32, "norm_eps": 1e-5}
    return DiffusionModelUNet(**{**defaults, **settings})


def test_denoising_unet_of_paper_has_published_size():
    with torch.device("meta"):
        ours = denoising_unet(PAPER)
        theirs = monai_denoiser(
            spatial_dims=2,
            in_channels=3,
            channels=(128, 128, 256, 256, 512, 512),
            attention_levels=(False, False, False, False, True, False),
            num_head_channels=512,
        )
    assert count(ours) == count(theirs) == 113_670_913


@pytest.mark.parametrize(
    ("skip", "in_channels", "size"),
    [("average", 8, 24_260_299), ("average", 5, 24_257_950), ("concatenate", 8, 32_331_927)],
)
@pytest.mark.parametrize("time_injection", ["fixed", "as_released"])
def test_denoising_unet_of_patch_ddm_has_size_of_authors_code(skip, in_channels, size, time_injection):
    changes = {"skip": skip, "in_channels": in_channels, "time_injection": time_injection}
    with torch.device("meta"):
        assert count(denoising_unet(PATCH_DDPM | changes)) == size


def test_build_model_builds_patch_ddm_from_settings():
    settings = PATCH_DDPM | {"architecture": "denoising_unet", "skip": "average", "heads": 1, "scale_shift": False}
    settings |= {"time_injection": "as_released", "dropout": 0.0, "schedule": "linear", "T": 1000}
    with torch.device("meta"):
        model = build_model(settings | {"mask_coding": "binary", "predicts": "noise"}, image_channels=7)
    assert count(model) == 24_260_299
    assert not any(block.time_after_norm for block in model.modules() if isinstance(block, ResidualBlock))


def test_denoising_unet_of_patch_ddm_accepts_whole_volume():
    with torch.device("meta"):
        network = denoising_unet(PATCH_DDPM | {"skip": "average"})
        assert network.divisor == 64
        assert network(torch.empty(1, 8, 256, 256, 256), torch.tensor([1])).shape == (1, 1, 256, 256, 256)


@pytest.mark.parametrize("size", [(96, 96, 96), (64, 64, 32)])
def test_denoising_unet_of_patch_ddm_rejects_sizes_that_fail_in_authors_code(size):
    with torch.device("meta"), pytest.raises(ValueError, match="not a multiple of 64"):
        denoising_unet(PATCH_DDPM | {"skip": "average"})(torch.empty(1, 8, *size), torch.tensor([1]))


def test_patch_ddm_loses_time_at_full_resolution_only():
    """Blocks 1 and 2 of the encoder and 16 to 20 of the decoder, counted from 1 and 0 as in the authors' code."""
    with torch.device("meta"):
        network = denoising_unet(PATCH_DDPM | {"skip": "average"})
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, ResidualBlock)}
    decoder = [name for name in blocks if name.startswith("up.")]
    fixed = {name for name, block in blocks.items() if block.time_after_norm}
    assert fixed == {"down.factor_1_block_1", "down.factor_1_block_2", *decoder[16:21]}
    assert len(decoder) == 21


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_residual_block_keeps_time_in_groups_of_one_channel(spatial_dims):
    """Released, the normalisation removes the time from groups of one channel. Fixed, the time is added after it."""
    blocks = {}
    for time_injection in ("as_released", "fixed"):
        torch.manual_seed(0)
        block = ResidualBlock(spatial_dims, 29, 29, embedding_channels=6, groups=29, time_injection=time_injection)
        blocks[time_injection] = perturbed(block)
    x, embedding = normal(1, 29, *[6, 5, 4][:spatial_dims]), normal(2, 6, seed=1)
    with torch.no_grad():
        first, second = (blocks["as_released"](x, row[None]) for row in embedding)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
        block = blocks["fixed"]
        features = block.convolution_1(functional.silu(block.norm_1(x)))
        spread, mean = torch.std_mean(features, dim=list(range(2, x.ndim)), keepdim=True, correction=0)
        scale, offset = (values.view(1, -1, *[1] * spatial_dims) for values in (block.norm_2.weight, block.norm_2.bias))
        normalised = (features - mean) / torch.sqrt(spread**2 + 1e-5) * scale + offset
        for row in embedding:
            time = block.time(row[None]).view(1, -1, *[1] * spatial_dims)
            expected = x + block.convolution_2(functional.silu(normalised + time))
            torch.testing.assert_close(block(x, row[None]), expected, rtol=1e-4, atol=1e-4)


def test_residual_block_is_the_same_released_or_fixed_if_groups_have_several_channels():
    outputs = []
    for time_injection in ("as_released", "fixed"):
        torch.manual_seed(0)
        block = perturbed(ResidualBlock(3, 8, 12, embedding_channels=6, groups=4, time_injection=time_injection))
        outputs.append(block(normal(2, 8, 4, 4, 2), normal(2, 6, seed=1)))
    assert torch.equal(*outputs)
    assert (outputs[0][0] - block(normal(2, 8, 4, 4, 2), normal(2, 6, seed=2))[0]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("spatial_dims", "multipliers", "size", "heads"), [(2, (1, 1, 2), (8, 12), 2), (3, (1, 2), (4, 2, 6), 1)]
)
def test_denoising_unet_with_weights_of_monai_equals_monai(spatial_dims, multipliers, size, heads):
    # At width 128 our number of groups is 32 in every layer, as always in MONAI.
    torch.manual_seed(0)
    theirs = perturbed(
        monai_denoiser(
            spatial_dims=spatial_dims,
            in_channels=3,
            num_res_blocks=1,
            channels=[128 * multiplier for multiplier in multipliers],
            attention_levels=[i == len(multipliers) - 2 for i in range(len(multipliers))],
            # MONAI takes the channels of a head per level, in place of the number of heads.
            num_head_channels=[128 * multiplier // heads for multiplier in multipliers],
        )
    )
    ours = denoising_unet(
        PAPER
        | {
            "spatial_dims": spatial_dims,
            "multipliers": multipliers,
            "residual_blocks": 1,
            "attention_at": [2 ** (len(multipliers) - 2)],
            "heads": heads,
        }
    )
    ours.load_state_dict(renamed_weights(theirs, MONAI))
    x, t = normal(2, 3, *size), torch.tensor([1, 700])
    with torch.inference_mode():
        expected = theirs(x, t)
        torch.testing.assert_close(ours(x, t), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("width", [8, 29])
def test_sinusoids_equal_closed_form(width):
    times = [0.0, 1.0, 12.5, 1000.0]
    half = width // 2
    angle = np.outer(times, 10_000.0 ** (-np.arange(half) / half))
    expected = np.hstack([np.cos(angle), np.sin(angle), np.zeros((len(times), width % 2))])
    np.testing.assert_allclose(sinusoids(torch.tensor(times), width), expected, atol=1e-4)


def test_attention_block_equals_explicit_formula():
    block = perturbed(AttentionBlock(channels=8, heads=2))
    x = normal(2, 8, 3, 5)
    tokens = block.norm(x).reshape(2, 8, 15).permute(0, 2, 1)
    weight, bias = block.query_key_value.weight.split(8), block.query_key_value.bias.split(8)
    query, key, value = (tokens @ w.T + b for w, b in zip(weight, bias, strict=True))
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        affinity = torch.softmax(query[..., head] @ key[..., head].mT / math.sqrt(4), dim=-1)
        heads.append(affinity @ value[..., head])
    mixed = torch.cat(heads, dim=-1) @ block.projection.weight.T + block.projection.bias
    torch.testing.assert_close(block(x), x + mixed.permute(0, 2, 1).reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (8, 2), (16, 4), (24, 2), (29, 1), (66, 2), (128, 32), (384, 32)])
def test_group_norm_chooses_number_of_groups(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_join_skip_concatenates_or_averages():
    h, skip = normal(1, 4, 2, 2, seed=1), normal(1, 4, 2, 2, seed=2)
    assert torch.equal(join_skip(h, skip, "concatenate"), torch.cat([h, skip], dim=1))
    torch.testing.assert_close(join_skip(h, skip, "average"), 0.5 * h + 0.5 * skip)


# -- Behaviour of the denoiser's network ---------------------------------------------------------------------------

VARIANTS = {
    "added_time": {},
    "scaled_and_shifted_by_time": {"scale_shift": True},
    "averaged_skips": {"skip": "average"},
    "averaged_skips_two_blocks": {"skip": "average", "residual_blocks": 2, "attention_at": [1, 2]},
    "no_attention": {"attention_at": [], "middle_attention": False},
    "volume": {"spatial_dims": 3},
    "volume_averaged_skips": {"spatial_dims": 3, "skip": "average", "scale_shift": True},
    "odd_width": {"channels": 9, "groups": 3, "attention_at": []},
    "patch_ddm": PATCH_DDPM | {"channels": 3, "groups": 3, "multipliers": (1, 3, 4), "skip": "average", "in_channels": 3},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_gradient_reaches_every_parameter_and_size_is_kept(changes):
    network = small(**changes)
    assert network.divisor == 4
    x = normal(2, 3, *[8, 12, 4][: network.first.weight.ndim - 2])
    output = network(x, torch.tensor([3, 500]))
    assert output.shape == (2, 1, *x.shape[2:])
    output.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_untrained_output_is_zero_and_its_gradient_is_not():
    network = denoising_unet(SMALL)
    output = network(normal(2, 3, 8, 8), torch.tensor([1, 9]))
    assert torch.equal(output, torch.zeros(2, 1, 8, 8))
    (output - 1).square().mean().backward()
    assert network.last[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("scale_shift", [False, True])
def test_output_depends_on_integer_or_float_timestep(scale_shift):
    network = small(scale_shift=scale_shift)
    x = normal(1, 3, 8, 8).expand(3, -1, -1, -1)
    output = network(x, torch.tensor([10, 10, 900]))
    torch.testing.assert_close(output[0], output[1])
    assert (output[0] - output[2]).abs().max() > 1e-3
    assert torch.equal(network(x, torch.tensor([10.0, 10.0, 900.0])), output)
    assert (network(x[:1], torch.tensor([10.5])) - output[:1]).abs().max() > 1e-5


def test_output_does_not_depend_on_other_rows():
    network = small()
    x, t = normal(4, 3, 8, 12), torch.tensor([1, 50, 300, 1000])
    together = network(x, t)
    for i in range(4):
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1]), together[i : i + 1], rtol=1e-5, atol=1e-5)


def test_attention_is_at_configured_factors_only():
    network = small(channels=4, multipliers=(1, 1, 2, 2), residual_blocks=2, attention_at=[2, 8])
    blocks = {name.removesuffix(".attention") for name, m in network.named_modules() if isinstance(m, AttentionBlock)}
    assert blocks == {
        *(f"down.factor_{factor}_block_{i}" for factor in (2, 8) for i in (1, 2)),
        *(f"up.factor_{factor}_block_{i}" for factor in (2, 8) for i in (1, 2, 3)),
        "middle.block_1",
    }


def test_denoising_unet_of_paper_has_six_attention_blocks():
    with torch.device("meta"):
        network = denoising_unet(PAPER)
    assert network.divisor == 32
    assert sum(isinstance(module, AttentionBlock) for module in network.modules()) == 6


def test_attention_connects_all_positions_and_convolutions_are_local():
    x = normal(1, 3, 64, 4)
    changed = x.clone()
    changed[..., -1, :] += 1
    reach = {}
    for name, attention_at in (("local", []), ("global", [2])):
        # Normalisation also spreads over the whole image, so it is removed to test the convolutions only.
        network = small(multipliers=(1, 1), attention_at=attention_at, middle_attention=False)
        for module in list(network.modules()):
            for child_name, child in module.named_children():
                if isinstance(child, torch.nn.GroupNorm):
                    setattr(module, child_name, torch.nn.Identity())
        difference = network(changed, torch.tensor([5])) - network(x, torch.tensor([5]))
        reach[name] = difference[..., 0, :].abs().max().item()
    assert reach["local"] == 0
    assert reach["global"] > 0


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_autocast_trains_and_is_near_float32(channels_last):
    network = small()
    x, t, target = normal(4, 3, 16, 16), torch.tensor([1, 20, 300, 900]), normal(4, 1, 16, 16, seed=1)
    reference = network(x, t).detach()
    if channels_last:
        network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(x, t), reference, rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(x, t)
            if not losses:
                assert (output.float() - reference).abs().max() < 0.05 * reference.abs().max()
            loss = functional.mse_loss(output.float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert losses[-1] < losses[0]


def test_bfloat16_weights_distinguish_neighbouring_timesteps():
    network = small().to(torch.bfloat16)
    x = normal(1, 3, 8, 8).to(torch.bfloat16).expand(2, -1, -1, -1)
    with torch.inference_mode():
        output = network(x, torch.tensor([999, 1000]))
    assert output.dtype == torch.bfloat16
    assert not torch.equal(output[0], output[1])


def test_state_dict_restores_network_and_repr_names_blocks():
    network, other = small(seed=1), small(seed=2)
    x, t = normal(1, 3, 8, 8), torch.tensor([7])
    assert not torch.equal(network(x, t), other(x, t))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(x, t), other(x, t))
    assert "(factor_4_block_1): ResidualBlock(" in repr(network)


def test_dropout_is_active_in_training_only():
    network = small(dropout=0.5)
    x, t = normal(1, 3, 8, 8), torch.tensor([7])
    torch.manual_seed(0)
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def retained_bytes(network, x, t):
    """Return the memory that a forward pass leaves allocated for the backward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        output = network(x, t)
    assert output.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


@pytest.mark.parametrize("changes", [{}, {"spatial_dims": 3, "skip": "average", "dropout": 0.3, "residual_blocks": 2}])
def test_activation_checkpointing_has_the_same_gradients_in_less_memory(changes):
    gradients, memory = [], []
    for activation_checkpointing in (False, True):
        network = small(**changes, activation_checkpointing=activation_checkpointing)
        x, t = normal(1, 3, *[32, 16, 8][: network.first.weight.ndim - 2]), torch.tensor([300])
        torch.manual_seed(0)
        network(x, t).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        memory.append(retained_bytes(network, x, t))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert memory[1] < memory[0] / 2


def test_activation_checkpointing_changes_nothing_without_gradients():
    plain, saving = (small(activation_checkpointing=saves).eval() for saves in (False, True))
    x, t = normal(1, 3, 8, 8), torch.tensor([7])
    with torch.inference_mode():
        assert torch.equal(plain(x, t), saving(x, t))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_at": [16]}, r"`attention_at` has down-sampling factors.*\[16\].*\[1, 2, 4\]"),
        ({"skip": "add"}, r"`skip` is 'add'\. It must be one of concatenate, average"),
        ({"spatial_dims": 4}, "`spatial_dims` is 4"),
        ({"heads": 3}, r"`heads` is 3\. It must divide the 32 channels"),
        ({"groups": 5}, "`groups` is 5, which does not divide"),
    ],
)
def test_denoising_unet_rejects_invalid_settings_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        denoising_unet(SMALL | changes)


def test_denoising_unet_rejects_indivisible_size():
    with pytest.raises(ValueError, match="8 x 10 is not a multiple of 4"):
        small()(normal(1, 3, 8, 10), torch.tensor([1]))


# -- Supervised networks --------------------------------------------------------------------------------------------

WIDTHS = (4, 8, 8, 16, 16)


@pytest.mark.parametrize("factory", [unet, attention_unet, unet_plus_plus])
@pytest.mark.parametrize("size", [(32, 48), (16, 32, 16)], ids=["slice", "volume"])
def test_supervised_network_returns_one_logit_per_position_and_trains(factory, size):
    network = factory(spatial_dims=len(size), in_channels=2, channels=WIDTHS)
    assert network.divisor == 16
    logits = network(normal(2, 2, *size))
    assert logits.shape == (2, 1, *size)
    assert logits.min() < 0 < logits.max()
    functional.binary_cross_entropy_with_logits(logits, (normal(2, 1, *size, seed=1) > 0).float()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    copy = factory(spatial_dims=len(size), in_channels=2, channels=WIDTHS)
    copy.load_state_dict(network.state_dict())
    x = normal(1, 2, *size, seed=2)
    torch.testing.assert_close(copy.eval()(x), network.eval()(x))


@pytest.mark.parametrize("factory", [unet, attention_unet, unet_plus_plus])
def test_supervised_network_rejects_indivisible_size(factory):
    with pytest.raises(ValueError, match="32 x 40 is not a multiple of 16"):
        factory(spatial_dims=2, in_channels=2, channels=WIDTHS)(normal(2, 2, 32, 40))


@pytest.mark.parametrize("factory", [unet, unet_plus_plus])
def test_supervised_network_uses_batch_normalisation(factory):
    kinds = {type(module) for module in factory(spatial_dims=2, in_channels=2, channels=WIDTHS).modules()}
    assert torch.nn.BatchNorm2d in kinds
    assert not kinds & {torch.nn.InstanceNorm2d, torch.nn.GroupNorm}


@pytest.mark.parametrize("size", [(32, 48), (16, 32, 16)], ids=["slice", "volume"])
def test_unet_dropout_is_in_eight_places_and_active_in_training_only(size):
    plain = unet(spatial_dims=len(size), in_channels=2, channels=WIDTHS)
    bayesian = unet(spatial_dims=len(size), in_channels=2, channels=WIDTHS, dropout=0.25)
    bayesian.load_state_dict(plain.state_dict())
    assert not [module for module in plain.modules() if isinstance(module, Dropout)]
    x, activations = normal(2, 2, *size), {}
    for name, module in bayesian.named_modules():
        if isinstance(module, Dropout):
            assert module.probability == 0.25
            module.register_forward_hook(lambda module, args, output, name=name: activations.update({name: (args[0], output)}))
    assert torch.equal(plain.eval()(x), bayesian.eval()(x))
    bayesian.train()
    torch.manual_seed(0)
    assert not torch.equal(bayesian(x), bayesian(x))
    poolings, concatenations = (
        [name for name in activations if bayesian.get_submodule(name).whole_channels is whole] for whole in (True, False)
    )
    # A pooling keeps the channels of the finer level; a skip concatenation has those of the encoder and of the coarser level.
    assert [activations[name][0].shape[1] for name in poolings] == [4, 8, 8, 16]
    assert [activations[name][0].shape[2] for name in poolings] == [size[0] // factor for factor in (2, 4, 8, 16)]
    assert [activations[name][0].shape[1] for name in concatenations] == [16 + 8, 8 + 8, 8 + 4, 4 + 8]
    assert [activations[name][0].shape[2] for name in concatenations] == [size[0] // factor for factor in (8, 4, 2, 1)]
    for name, (_, output) in activations.items():
        dropped = (output == 0).flatten(2)
        assert dropped.any(), name
        assert (dropped.any(2) & ~dropped.all(2)).any() == (name in concatenations), name


def test_supervised_networks_reject_wrong_number_of_levels():
    with pytest.raises(ValueError, match="five levels"):
        unet(spatial_dims=2, in_channels=2, channels=(8, 16, 32))
    with pytest.raises(ValueError, match=r"U-Net\+\+ has five levels"):
        unet_plus_plus(spatial_dims=2, in_channels=2, channels=(8, 16, 32))
    with pytest.raises(ValueError, match="at least two widths"):
        attention_unet(spatial_dims=2, in_channels=2, channels=(8,))
    assert attention_unet(spatial_dims=2, in_channels=2, channels=(4, 8, 16)).divisor == 4


@pytest.mark.parametrize(("factory", "size"), [(unet, 31_112_641), (attention_unet, 31_739_761), (unet_plus_plus, 36_450_753)])
def test_supervised_networks_have_fixed_size_at_default_widths(factory, size):
    # Counted with MONAI 1.6.1. A release with other networks would silently change every result.
    with torch.device("meta"):
        assert count(factory(spatial_dims=2, in_channels=2)) == size
