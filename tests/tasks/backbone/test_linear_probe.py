import numpy as np
import torch
import torch.nn.functional as F

from lemevit_cli.tasks.backbone.linear_probe import LinearLayer, features_at, fit_linear_layer


def test_a_fit_leaves_no_gradient():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 4, generator=generator) * torch.tensor([1.0, 50.0, 0.01, 3.0])
    noise = torch.randn(300, generator=generator)
    ids = (features[:, 0] + features[:, 1] / 50 + noise > 0).long()
    layer = fit_linear_layer(features.clone(), ids, num_classes=2)
    weight, bias = layer.weight.clone().requires_grad_(), layer.bias.clone().requires_grad_()
    spread = features.std(dim=0)
    loss = F.cross_entropy(F.linear(features, weight, bias), ids)
    (loss + 1e-4 * (weight * spread).square().sum()).backward()
    assert (weight.grad / spread).abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3


def test_logits_of_maps_are_the_layer_on_interpolated_features():
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(1, 3, 8, 12, generator=generator), torch.randn(1, 2, 2, 3)]
    layer = LinearLayer(torch.randn(4, 5, generator=generator), torch.randn(4))
    height, width = 32, 48
    logits = layer.logits(maps, height=height, width=width)
    rows, cols = np.indices((height, width)).reshape(2, -1)
    points = np.stack([(2 * cols + 1) / width - 1, (2 * rows + 1) / height - 1], axis=1)
    at_points = features_at(maps, torch.from_numpy(points.astype(np.float32)))
    wanted = F.linear(at_points, layer.weight, layer.bias).T.reshape(4, height, width)
    torch.testing.assert_close(logits[0], wanted, rtol=1e-4, atol=1e-4)
