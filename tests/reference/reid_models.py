"""The person re-identification networks in PyTorch's own layers: prints what our models compare themselves with.

    pip install torch torchvision; python tests/reference/reid_models.py

All weights are filled by name, all outputs are those of eval mode (running statistics, no dropout).
"""
from collections import OrderedDict
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

CLASSES = 751


def trunk(last_stride):
    """ResNet-50 up to layer4, under torchvision's names."""
    network = resnet50(weights=None)
    first = network.layer4[0]
    first.conv2.stride = first.downsample[0].stride = (last_stride, last_stride)
    return nn.Sequential(OrderedDict(list(network.named_children())[:-2]))


class Mgn(nn.Module):
    """One backbone, three branches; per branch the whole and its parts, each reduced to 256 features."""

    def __init__(self, feats=256):
        super().__init__()
        coarse, fine = trunk(2), trunk(1)
        layers = OrderedDict(list(coarse.named_children())[:-2])
        self.backbone = nn.Sequential(OrderedDict(layers, layer3=coarse.layer3[:1]))

        def branch(layer4):
            return deepcopy(nn.Sequential(OrderedDict(layer3=coarse.layer3[1:], layer4=layer4)))

        self.p1, self.p2, self.p3 = branch(coarse.layer4), branch(fine.layer4), branch(fine.layer4)
        for i in range(8):
            reduction = nn.Sequential(nn.Conv2d(2048, feats, 1, bias=False), nn.BatchNorm2d(feats), nn.ReLU())
            self.add_module(f"reduction_{i}", reduction)
        for name in ["2048_0", "2048_1", "2048_2", "256_1_0", "256_1_1", "256_2_0", "256_2_1", "256_2_2"]:
            self.add_module(f"fc_id_{name}", nn.Linear(feats, CLASSES, bias=False))

    def forward(self, x):
        x = self.backbone(x)
        p1, p2, p3 = self.p1(x), self.p2(x), self.p3(x)
        pooled = [F.adaptive_max_pool2d(p, (parts, 1)).split(1, 2)
                  for p, parts in [(p1, 1), (p2, 1), (p3, 1), (p2, 2), (p3, 3)]]
        stripes = [stripe for part in pooled for stripe in part]
        return torch.cat([getattr(self, f"reduction_{i}")(s).flatten(1) for i, s in enumerate(stripes)], 1)


def spectral(x, temperature):
    """Every row becomes the average of all rows, weighted by the softmax of its cosines with them."""
    unit = F.normalize(x)
    return F.softmax(unit @ unit.t() / temperature, 1) @ x


class Sft(nn.Module):
    """Spectral feature transformation: the batch's features, and below them their averages over similar ones."""

    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature
        self.backbone = trunk(1)
        self.fc = nn.Linear(2048, 512, bias=False)
        self.bn = nn.BatchNorm1d(512, eps=2e-5)
        self.prelu = nn.PReLU(512)
        self.classifier = nn.Linear(512, CLASSES, bias=False)

    def forward(self, images):
        x = self.backbone(images).mean((2, 3))
        return self.prelu(self.bn(self.fc(torch.cat([x, spectral(x, self.temperature)]))))


class SphereReid(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = trunk(1)
        self.bn1 = nn.BatchNorm1d(2048)
        self.dropout = nn.Dropout(0.5)
        self.fc1 = nn.Linear(2048, 1024)
        self.bn2 = nn.BatchNorm1d(1024)
        self.classifier = nn.Linear(1024, CLASSES, bias=False)

    def forward(self, images):
        x = self.backbone(images).mean((2, 3))
        return self.bn2(self.fc1(self.dropout(self.bn1(x))))


def batch_hard(features, labels, margin):
    """Triplet loss with the farthest positive and the nearest negative of every sample (Hermans et al.)."""
    squares = features.pow(2).sum(1)
    distances = squares[:, None] + squares[None, :] - 2 * features @ features.t()
    distances = distances.clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -torch.inf).amax(1)
    negative = distances.masked_fill(same, torch.inf).amin(1)
    return F.relu(positive - negative + margin).mean()


def scattered(count, number):
    """count numbers in [-0.5, 0.5) that any language computes alike."""
    waves = np.sin(12.9898 * np.arange(count) + 78.233 * number) * 43758.5453
    return waves - np.floor(waves) - 0.5


def tensors(model):
    """Parameters and running statistics, ordered by the bytes of their names."""
    found = [item for item in model.state_dict().items() if not item[0].endswith("num_batches_tracked")]
    return sorted(found, key=lambda item: item[0].encode())


def filled(model):
    """The model with fixed weights: tensor number i in the order of names gets scattered(n, i), scaled."""
    for number, (name, tensor) in enumerate(tensors(model)):
        values = scattered(tensor.numel(), number)
        if tensor.dim() > 1:  # weights of convolutions and linear layers
            values *= np.sqrt(12 / (tensor.numel() / tensor.shape[0]))
        elif name.endswith("prelu.weight"):
            values = 0.25 + 0.2 * values
        elif name.endswith("running_var"):
            values = 1 + values
        elif name.endswith("weight"):  # of batch normalisation
            values = 1 + 0.4 * values
        else:  # biases and running means
            values = 0.2 * values
        tensor.copy_(torch.tensor(values, dtype=torch.float32).reshape(tensor.shape))
    return model.eval()


def images(*shape):
    return torch.tensor(scattered(int(np.prod(shape)), 9999) * 2, dtype=torch.float32).reshape(shape)


def show(title, rows, step):
    print(title, list(rows.shape))
    for row in rows.flatten(1):
        print("   ", [round(v, 6) for v in row[::step].tolist()], "norm", round(row.norm().item(), 5))


def count(title, model):
    named = tensors(model)
    print(f"{title}: {sum(p.numel() for p in model.parameters())} parameters;", len(named), "tensors with the running "
          f"statistics, the first {named[0][0]}, the last {named[-1][0]}")


@torch.no_grad()
def networks():
    print("ResNet-50 with fc:", sum(p.numel() for p in resnet50(weights=None).parameters()), "parameters")
    for stride in [2, 1]:
        model = filled(trunk(stride))
        count(f"ResNet-50 without fc, last stride {stride}", model)
        features = model(images(2, 3, 64, 32))
        print("  layer4", list(features.shape), "norms", [round(f.norm().item(), 4) for f in features])
        show("  layer4, last pixel, every 256th channel", features[:, :, -1, -1], 256)
        show("  global average, every 256th", features.mean((2, 3)), 256)
    model = filled(Mgn())
    count("MGN", model)
    for size in [(384, 128), (96, 32)]:
        features = model(images(1, 3, *size))
        show(f"  {size}, every 128th", features, 128)
        show(f"  {size}, every 100th", features, 100)
    model = filled(Sft())
    count("SFT", model)
    features = model(images(4, 3, 64, 32))
    show("  rows 0, 3, 4, 7, every 64th", features[[0, 3, 4, 7]], 64)
    print("  norms", [round(v, 5) for v in features.norm(dim=1).tolist()])
    rows = torch.tensor(scattered(6 * 5, 11), dtype=torch.float32).reshape(6, 5)
    show("  spectral transformation of scattered(30, 11), T = 0.1", spectral(rows, 0.1), 1)
    model = filled(SphereReid())
    count("SphereReID", model)
    show("  every 128th", model(images(2, 3, 64, 32)), 128)


def triplet():
    for margin in [1.2, 0.3]:  # with 0.3 one sample is beyond the margin
        features = torch.tensor(scattered(8 * 4, 7).reshape(8, 4) * 3, dtype=torch.float32, requires_grad=True)
        loss = batch_hard(features, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), margin)
        loss.backward()
        print(f"batch-hard triplet loss, margin {margin}: {loss.item():.6f} and its gradient")
        for row in features.grad.tolist():
            print("   ", [round(v, 6) for v in row])


if __name__ == "__main__":
    networks()
    triplet()
