"""Reference figures of src/eval/verification_tests.rs: the definition, threshold by threshold, with numpy 2.4,
sklearn 1.9's KFold and scipy 1.17's BSpline of degree 1 (what interp1d(kind="slinear") evaluated until it refused
repeated rates)."""
import numpy as np
from scipy.interpolate import BSpline
from sklearn.model_selection import KFold


def pairs(count, run, grid):
    state, distances, same = 1, [], []
    for i in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        u = state / 2**31
        genuine = (i // run) % 2 == 0
        d = (0.2 + 1.6 * u * u) if genuine else (1.0 + 1.4 * u)
        if grid:
            d = np.floor(d * 100) * 0.01  # distances that equal thresholds
        distances.append(d)
        same.append(genuine)
    return np.array(distances), np.array(same)


def reference(dist, same, folds, target):
    acc, best, val, far = [], [], [], []
    for train, test in KFold(folds, shuffle=False).split(np.arange(len(dist))):
        t = np.arange(0, 4, 0.01)
        accuracies = [np.mean((dist[train] < x) == same[train]) for x in t]
        best.append(t[np.argmax(accuracies)])
        acc.append(np.mean((dist[test] < best[-1]) == same[test]))
        t = np.arange(0, 4, 0.001)
        impostors = dist[train][~same[train]]
        rates = np.array([np.mean(impostors < x) for x in t])
        threshold = 0.0
        if rates.max() >= target:
            threshold = float(BSpline(np.r_[rates[0], rates, rates[-1]], t, 1)(target))
        val.append(np.mean(dist[test][same[test]] < threshold))
        far.append(np.mean(dist[test][~same[test]] < threshold))
    return [np.mean(acc), np.std(acc), np.mean(best), np.mean(val), np.std(val), np.mean(far)]


for count, run, grid, folds, target in [(6000, 300, False, 10, 1e-3), (1003, 7, False, 10, 1e-3), (1003, 7, True, 10, 0.05),
                                        (997, 5, True, 7, 0.01), (2000, 100, False, 10, 0.25)]:
    figures = reference(*pairs(count, run, grid), folds, target)
    print(f"({count}, {run}, {str(grid).lower()}, {folds}, {target}, {[float(x) for x in figures]}),")
