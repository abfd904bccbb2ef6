"""Writes the JPEGs of tests/reference and prints what Pillow decodes them to, for src/data/jpeg.rs: the CRC-32 of RGB bytes.

    pip install numpy pillow        # 13.0, with libjpeg-turbo 3.2
    python tests/reference/jpegs.py
"""
import pathlib
import zlib

import numpy as np
from PIL import Image

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(1)
height, width = 93, 131
y, x = np.mgrid[:height, :width]
shapes = [110 + 90 * np.sin(x / 9 + y / 17), 120 + 80 * np.cos(y / 7), 60 + x + 40 * ((x // 21 + y // 13) % 2)]
picture = np.stack(shapes, -1) + rng.normal(0, 6, (height, width, 1))
picture = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
for name, mode, options in [
    ("full", "RGB", {"subsampling": "4:4:4"}),
    ("halved", "RGB", {"subsampling": "4:2:2"}),
    ("quartered", "RGB", {"subsampling": "4:2:0"}),
    ("restarts", "RGB", {"subsampling": "4:2:0", "restart_marker_blocks": 3}),
    ("progressive", "RGB", {"subsampling": "4:2:0", "progressive": True}),
    ("grey", "L", {}),
    ("cmyk", "CMYK", {}),
]:
    path = here / f"{name}.jpg"
    picture.convert(mode).save(path, quality=75, **options)
    decoded = np.asarray(Image.open(path).convert("RGB"))
    print(f'("{name}", include_bytes!("../../tests/reference/{name}.jpg"), {zlib.crc32(decoded.tobytes()):#010x}),')
