"""The U-Net of Fu et al. 2024: parameters of the released code, and the timestep at every resolution (about 4 s)."""

import pytest
import torch

from pd_ddpm.config import load, resolve
from pd_ddpm.config.validate import validate
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.models.factory import build_model
from pd_ddpm.models.networks.imgx_unet import ImgXBlock, ImgXUNet, ImgXUNetSettings, TransformerLayer
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.objectives.segmentation import DiceFocal

# Dataset: dimensions, image channels, classes with background, first down-sampling, parameters with and without diffusion.
RELEASED = {
    "muscle": (2, 1, 2, (2, 2), 12_352_514, 11_603_554),
    "amos": (3, 1, 16, (2, 2, 2), 33_096_656, 32_334_448),
    "prostate": (3, 1, 9, (2, 2, 1), 33_073_993, 32_317_833),
    "brain": (3, 4, 2, (2, 2, 2), 33_086_690, 32_336_578),
}


@pytest.mark.parametrize("dataset", RELEASED)
def test_number_of_parameters_is_that_of_the_released_code(dataset):
    dims, images, classes, first, *expected = RELEASED[dataset]
    common = {"spatial_dims": dims, "out_channels": classes, "first_downsampling": first}
    with torch.device("meta"):
        networks = [
            ImgXUNet(ImgXUNetSettings(**common, in_channels=images + classes, num_timesteps=1001)),
            ImgXUNet(ImgXUNetSettings(**common, in_channels=images)),
        ]
    assert [sum(parameter.numel() for parameter in network.parameters()) for network in networks] == expected


def network(time_injection="fixed", dims=2, **changes):
    torch.manual_seed(0)
    sizes = {"in_channels": 3, "out_channels": 2, "channels": (4, 8, 16), "residual_blocks": 1, "heads": 2}
    settings = {"spatial_dims": dims, "num_timesteps": 1000, "time_injection": time_injection, **sizes}
    return ImgXUNet(ImgXUNetSettings(**settings | changes))


def change_with_t(model, x):
    """Largest change of each block's output, relative to its largest value, if only its own time embedding changes."""
    outputs, changes = {}, {}

    def keep(name):
        def hook(module, inputs, output):
            h, embedding = inputs
            outputs[name] = output
            with torch.no_grad():
                other = module.forward(h, embedding.roll(1, dims=0))
            changes[name] = float((other - output).abs().max() / output.abs().max())

        return hook

    handles = [
        module.register_forward_hook(keep(name)) for name, module in model.named_modules() if isinstance(module, ImgXBlock)
    ]
    with torch.no_grad():
        model(x, torch.tensor([100, 900]))
    for handle in handles:
        handle.remove()
    return changes


@pytest.mark.parametrize(("dims", "first"), [(2, None), (3, (2, 2, 1))])
def test_output_changes_with_t_at_every_resolution_if_fixed_and_at_none_as_released(dims, first):
    x = torch.randn((1, 3, *[16, 16, 8][:dims]), generator=torch.Generator().manual_seed(1)).expand(2, *[-1] * (dims + 1))
    fixed, released = (
        change_with_t(network(injection, dims, first_downsampling=first), x) for injection in ("fixed", "as_released")
    )
    assert len(fixed) == 3 * 3 + 2  # blocks of encoder and decoder at three resolutions, and two at the bottom
    assert min(fixed.values()) > 0.01
    assert max(released.values()) < 1e-5
    with torch.no_grad():
        outputs = network("fixed", dims, first_downsampling=first)(x, torch.tensor([100, 900]))
        same = network("as_released", dims, first_downsampling=first)(x, torch.tensor([100, 900]))
    assert (outputs[0] - outputs[1]).abs().max() > 0.05
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=1e-4)


def test_first_down_sampling_differs_between_axes():
    model = network(dims=3, first_downsampling=(2, 2, 1))
    sizes = []
    model.transformer.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 8, 12), torch.tensor([5])).shape == (1, 2, 16, 8, 12)
    assert sizes == [(4, 2, 6)]
    assert model.divisor == 4


def test_transformer_layer_equals_that_of_pytorch_and_does_not_depend_on_positions():
    torch.manual_seed(0)
    ours = TransformerLayer(16, heads=4)  # heads of width 4: the layer of PyTorch has the width of the model
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs.self_attn.in_proj_weight.data = ours.query_key_value.weight.data
    theirs.self_attn.in_proj_bias.data = ours.query_key_value.bias.data
    pairs = [
        ("self_attn.out_proj", "projection"),
        ("linear1", "mlp.0"),
        ("linear2", "mlp.2"),
        ("norm1", "norm_1"),
        ("norm2", "norm_2"),
    ]
    for their_name, our_name in pairs:
        theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(our_name).state_dict())
    x = torch.randn(2, 16, 3, 5)
    with torch.no_grad():
        expected = ours.norm_3(theirs.train()(x.flatten(2).transpose(1, 2))).transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(ours(x), expected)
        torch.testing.assert_close(ours(x.flip(3)), ours(x).flip(3))


def test_activation_checkpointing_changes_no_gradient():
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    gradients = []
    for checkpointing in (False, True):
        model = network(activation_checkpointing=checkpointing)
        model(x, t).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_of_one_image_are_those_of_two_equal_ones(dims):
    """PyTorch's instance normalisation alone has wrong ones for one image."""
    model, image = network(dims=dims, num_timesteps=None).double(), torch.randn(1, 3, *[16] * dims, dtype=torch.float64)
    weight, gradients = torch.randn(1, 2, *[16] * dims, dtype=torch.float64), []
    for images in (image, image.repeat(2, *[1] * (1 + dims))):
        model.zero_grad()
        (model(images).sigmoid() * weight).sum().div(len(images)).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at least two widths"):
        network(channels=(4,))
    with pytest.raises(ValueError, match="a factor of 1, 2 or 4 for each of the 2 axes"):
        network(first_downsampling=(2, 2, 2))


SIZES = {"channels": 4, "multipliers": [1, 2, 4], "residual_blocks": 1, "heads": 2, "attention_at": []}


def test_both_networks_are_built_from_the_configuration():
    imgx = {"architecture": "imgx_unet", "channels": [4, 8, 16], "residual_blocks": 1, "heads": 2, "dropout": 0.1}
    imgx |= {"first_downsampling": [2, 4], "activation_checkpointing": False, "spatial_dims": 2, "dice_weight": 1.0}
    imgx |= {"mask_loss": "dice_focal", "focal_weight": 20.0}
    denoiser = {**SIZES, "backbone": "imgx", "first_downsampling": [2, 4], "predicts": "mask", "validation_presegmenter": None}
    networks = {"imgx": imgx, "denoiser": denoiser, "truncated-denoiser": {"initialise_from": None}}
    methods = {"no-diffusion": {"label": "No diff.", "segmenter": "deterministic", "network": "imgx"}}
    config = validate(load.read(None, {"scale": "demo", "networks": networks, "methods": methods}))
    plain, with_time = (build_model(resolve.network(config, name), 2) for name in ("imgx", "denoiser"))
    assert build_objective(resolve.network(config, "imgx")) == DiceFocal(focal_weight=20.0)
    assert isinstance(plain, ImgXUNet)
    assert isinstance(with_time, Denoiser)
    assert isinstance(with_time.network, ImgXUNet)
    assert plain.divisor == with_time.divisor == 8
    assert plain(torch.zeros(1, 2, 8, 16)).shape == (1, 1, 8, 16)
    assert with_time(torch.zeros(1, 1, 8, 16), torch.zeros(1, 2, 8, 16), 7).shape == (1, 1, 8, 16)
    assert with_time.network.num_timesteps == resolve.network(config, "denoiser")["T"]
    # The networks differ only in the channels of the noisy mask and in the timestep.
    differing = {name for name, part in plain.state_dict().items() if part.shape != with_time.network.state_dict()[name].shape}
    assert differing == {"first.0.weight"}
    assert all(".time." in name for name in with_time.network.state_dict().keys() - plain.state_dict().keys())
