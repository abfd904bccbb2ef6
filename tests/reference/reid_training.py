"""SphereReID with sphere softmax trained in PyTorch on a tree of `amlfs prepare glyphs --layout market`: the training loss
of each epoch, to be compared with amlfs' (docs/results.md). Network, batches, crops and schedule are written anew, on
torchvision's blocks; random numbers differ, so curves can only be alike.

    pip install torch torchvision numpy pillow
    python tests/reference/reid_training.py tree [--seed 1] [--epochs 30]
"""
import argparse
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models.resnet import Bottleneck

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SIZE, CROP = (72, 36), (64, 32)
P, K, SCALE = 8, 4, 14.0
RATE, WARMUP_RATE, WARMUP_EPOCHS = 0.05, 5e-5, 2


class SphereReid(nn.Module):
    """ResNet-50 at a quarter of its width with a last stride of 1, then the embedding head."""

    def __init__(self, classes, channels=16, embedding=256):
        super().__init__()
        self.inputs = channels
        stem = [nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        blocks_and_strides = [(3, 1), (4, 2), (6, 2), (3, 1)]
        stages = [self.stage(channels * 2**i, *stage) for i, stage in enumerate(blocks_and_strides)]
        self.backbone = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        linear = nn.Linear(self.inputs, embedding)
        nn.init.kaiming_normal_(linear.weight, a=1)
        nn.init.zeros_(linear.bias)
        self.head = nn.Sequential(nn.BatchNorm1d(self.inputs), nn.Dropout(0.5), linear, nn.BatchNorm1d(embedding))
        self.classes = nn.Parameter(nn.init.xavier_normal_(torch.empty(classes, embedding)))

    def stage(self, channels, blocks, stride):
        shortcut = nn.Sequential(nn.Conv2d(self.inputs, 4 * channels, 1, stride, bias=False), nn.BatchNorm2d(4 * channels))
        first = Bottleneck(self.inputs, channels, stride, shortcut)
        self.inputs = 4 * channels
        return nn.Sequential(first, *[Bottleneck(self.inputs, channels) for _ in range(blocks - 1)])

    def forward(self, images):
        return F.normalize(self.head(self.backbone(images))) @ F.normalize(self.classes).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--identities", type=int, default=30, help="to train on: the first ones")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)

    files = sorted((arguments.tree / "bounding_box_train").glob("*.jpg"))
    people = sorted({file.name[:4] for file in files})[: arguments.identities]
    files = [file for file in files if file.name[:4] in people]
    labels = np.array([people.index(file.name[:4]) for file in files])
    pixels = np.stack([np.array(Image.open(file).convert("RGB").resize(SIZE[::-1], Image.BILINEAR)) for file in files])
    images = ((torch.tensor(pixels).float() / 255 - MEAN) / DEVIATION).permute(0, 3, 1, 2)

    model = SphereReid(len(people)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    for epoch in range(arguments.epochs):
        rate = RATE * 0.1 ** sum(epoch >= share * arguments.epochs for share in (0.7, 0.9))
        if epoch < WARMUP_EPOCHS:
            rate = WARMUP_RATE + (RATE - WARMUP_RATE) * epoch / WARMUP_EPOCHS
        optimizer.param_groups[0]["lr"] = rate
        losses = []
        for _ in range(len(labels) // (P * K)):
            chosen = rng.choice(len(people), P, replace=False)
            batch = np.concatenate([rng.choice(np.flatnonzero(labels == person), K, replace=False) for person in chosen])
            offsets = rng.integers(0, [SIZE[0] - CROP[0] + 1, SIZE[1] - CROP[1] + 1], (P * K, 2))
            crops = [images[i, :, y : y + CROP[0], x : x + CROP[1]] for i, (y, x) in zip(batch, offsets)]
            crops = torch.stack(crops).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(SCALE * model(crops), torch.tensor(labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"{epoch + 1:3} {np.mean(losses):.4f}", flush=True)


if __name__ == "__main__":
    main()
