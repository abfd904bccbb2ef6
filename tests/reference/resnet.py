"""torchvision's ResNet-18, 34 and 50: prints what ours compare themselves with (src/model/resnet.rs).

    pip install torch torchvision; python tests/reference/resnet.py

Weights are filled by name and outputs are those of eval mode, as in reid_models.py. 67 x 50 pixels: borders count.
"""
import torch
from torchvision import models

from reid_models import count, filled, images, show

CLASSES = 7


@torch.no_grad()
def main():
    for depth in (18, 34, 50):
        network = getattr(models, f"resnet{depth}")(weights=None)
        network.fc = torch.nn.Linear(network.fc.in_features, CLASSES, bias=False)  # ours has no bias
        filled(network)
        count(f"ResNet-{depth}", network)
        trunk = torch.nn.Sequential(*list(network.children())[:-1])
        features = trunk(images(2, 3, 67, 50)).flatten(1)
        show("  before fc, every 64th (ResNet-50: 256th)", features, features.shape[1] // 8)


if __name__ == "__main__":
    main()
