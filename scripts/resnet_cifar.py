"""The network resnet-cifar of amlfs in PyTorch: loads what `amlfs export weights` writes (docs/analysis.md).

He et al. 2016, section 4.2: depth 6n + 2, shortcuts of option A; classifier without a bias; names as in
akamaster/pytorch_resnet_cifar10.
"""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            side = (y.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side))
        return F.relu(x + y)


class ResNetCifar(nn.Module):
    def __init__(self, depth, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64), 1):
            blocks = []
            for _ in range((depth - 2) // 6):
                blocks.append(Block(inputs, outputs))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, classes, bias=False)

    def features(self, images):
        """Images [N, 3, H, W], less the mean and divided by the standard deviation of the training images -> [N, 64]."""
        x = F.relu(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, images):
        """Logits [N, classes] of the plain head."""
        return self.linear(self.features(images))
