"""How torchvision's RandomResizedCrop draws: prints shares of draws up to some heights, widths, tops and lefts
(src/data/batches/augment.rs compares with them).

    pip install torch torchvision; python tests/reference/resized_crop.py
"""
import torch
from torchvision.transforms import RandomResizedCrop

torch.manual_seed(1)
image = torch.zeros(3, 60, 100)
draws = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(200_000)])
for name, column, limits in [("top", 0, [0, 5, 10, 20]), ("left", 1, [0, 10, 20, 40]),
                             ("height", 2, [20, 30, 40, 50, 59]), ("width", 3, [25, 35, 45, 60, 79])]:
    print(name, [(limit, round((draws[:, column] <= limit).double().mean().item(), 4)) for limit in limits])
wide = torch.tensor([RandomResizedCrop.get_params(torch.zeros(3, 10, 100), [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(10)])
print("10 x 100, at least half of it", wide.unique(dim=0).tolist())
