"""SphereFace-20 in PyTorch's own layers: prints what src/model/sphereface.rs compares itself with.

    pip install torch; python tests/reference/sphereface.py
"""
import numpy as np
import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.PReLU(channels))

    def forward(self, x):
        return x + self.layers(x)


class SphereFace20(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for channels, units in [(64, 1), (128, 2), (256, 4), (512, 1)]:
            layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.PReLU(channels)]
            layers += [Unit(channels) for _ in range(units)]
            inputs = channels
        self.features = nn.Sequential(*layers)
        self.fc5 = nn.Linear(512 * 7 * 6, 512)

    def forward(self, x):
        return self.fc5(self.features(x).flatten(1))


def scattered(count, number):
    """count numbers in [-0.5, 0.5) that any language computes alike."""
    waves = np.sin(12.9898 * np.arange(count) + 78.233 * number) * 43758.5453
    return waves - np.floor(waves) - 0.5


def fixed(shape, number):
    """Fixed weights for parameter `number`: such that activations keep their size; slopes and biases up to 0.125."""
    count = int(np.prod(shape))
    scale = 0.25 if len(shape) == 1 else np.sqrt(12 * count ** -1 * shape[0])
    return torch.tensor(scale * scattered(count, number), dtype=torch.float32).reshape(shape)


if __name__ == "__main__":
    model = SphereFace20()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(fixed(parameter.shape, number))
        images = torch.tensor(scattered(2 * 3 * 112 * 96, 99), dtype=torch.float32).reshape(2, 3, 112, 96)
        embeddings = model(images)
    print([tuple(p.shape) for p in model.parameters()])
    print([p.numel() for p in model.parameters()], sum(p.numel() for p in model.parameters()))
    for row in embeddings:
        print([round(v, 6) for v in row[::64].tolist()], round(row.norm().item(), 5))
