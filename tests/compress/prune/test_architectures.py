"""Pruning over the families of nets that people deploy: it equals zeros in the same places, and it saves work."""

import pytest
import torch

from edgec.compress.prune.channels import PruneOptions, prune_channels
from edgec.frontends import load
from edgec.passes.pipelines import CLEAN, optimize
from tests.architectures import FAMILIES
from tests.compress.prune.checks import assert_removal_equals_zeros

TIMM = ("resnet18", "resnext50_32x4d", "densenet121", "mobilenetv3_small_050", "efficientnet_b0", "ghostnet_100",
        "regnety_002", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "res2net50_26w_4s",
        "hrnet_w18_small", "inception_v3", "mobilevit_xxs", "poolformer_s12", "cspresnet50", "dla34",
        "edgenext_xx_small")


@pytest.mark.parametrize("ratio", [0.3, 0.6])
@pytest.mark.parametrize("family", FAMILIES)
def test_removal_equals_zeros(family, ratio):
    coupled = assert_removal_equals_zeros(FAMILIES[family](), ratio)
    assert coupled.groups


@pytest.mark.parametrize("family", FAMILIES)
def test_work_and_weights_go_from_every_family(family):
    graph = FAMILIES[family]()
    pruned = prune_channels(graph, PruneOptions(ratio=0.5, ranking="local"))
    assert pruned.macs[1] < 0.8 * pruned.macs[0]
    assert pruned.weights[1] < pruned.weights[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_removal_equals_zeros_in_published_nets(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=10).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    size = 224 if any(n in name for n in ("vit", "swin")) else 96
    graph, _ = optimize(load(net, example_inputs=(torch.randn(1, 3, size, size),)).graph, pipeline=CLEAN)
    assert assert_removal_equals_zeros(graph).groups
