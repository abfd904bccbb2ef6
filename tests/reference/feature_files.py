"""Writes numpy.npz, numpy_compressed.npz and numpy.npy with its ids and cameras: features as NumPy's users save them.
src/data/stored_features/feature_file.rs reads them and holds the values.

    python tests/reference/feature_files.py      # with numpy 2.4.6; other versions write the same values
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROWS, COLUMNS = 5, 3

features = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) / 4 - 1).astype("f8")  # exact in f16
ids = np.array([0, 1, 7, 100, 127])

arrays = {}
for kind in ["<f2", "<f4", "<f8", ">f4", ">f8"]:
    name = kind.replace("<", "").replace(">", "big_")
    arrays[name] = features.astype(kind)
    arrays[f"{name}_fortran"] = np.asfortranarray(features.astype(kind))
arrays["slice"] = np.repeat(features, 2, axis=1)[:, ::2]
arrays["transposed"] = features.T.copy().T  # is in Fortran order, without anyone having asked for it
for kind in ["<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", ">i4", ">u2"]:
    name = kind.replace("<", "").replace(">", "big_")
    arrays[name] = ids.astype(kind)
    arrays[f"{name}_column"] = ids.astype(kind).reshape(ROWS, 1)
arrays["bool"] = ids > 0
arrays["large"] = np.array([-1, 2**62], dtype="i8")
arrays["too_large"] = np.array([2**63], dtype="u8")
arrays["text"] = np.array(["0001", "0002"])
arrays["complex"] = features.astype("c8")

np.savez(HERE / "numpy.npz", **arrays)
np.savez_compressed(HERE / "numpy_compressed.npz", features=features.astype("f2"), ids=ids, cameras=ids.astype("u1"))

np.save(HERE / "numpy.npy", np.asfortranarray(features.astype("f2")))
np.save(HERE / "numpy.ids.npy", ids.astype("u2").reshape(ROWS, 1))
with open(HERE / "numpy.cameras.npy", "wb") as file:  # as numpy writes it where the header is long
    np.lib.format.write_array(file, ids.astype("i1"), version=(2, 0))
