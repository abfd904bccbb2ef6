"""Prints what exported losses give for each case, as JSON: tests/where_possible/exported_loss.rs compares it with ours.

    python tests/reference/exported_loss.py DIRECTORY...

A directory holds loss.py and cases.json.
A case has a schedule, epoch and epochs; and, unless theta alone is asked, features, weight and labels, their dtype, and
what it is "of": the features, or their cosines. With a "rate" the features are tanh of these times "layer", and layer and
weight are trained for epochs of single steps.
"""
import importlib.util
import json
import sys

import torch
import torch.nn.functional as F


def module(path):
    spec = importlib.util.spec_from_file_location("exported", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def learned(exported, schedule="mean", classes=3):
    """For classes of 1, 2, 5, 10 ... images, which only a loss with adjusted logits asks for."""
    return exported.LearnedLoss(schedule, class_counts=[1 + label * label for label in range(classes)])


def trained(exported, case):
    loss = learned(exported, case["schedule"], len(case["weight"]))
    x, layer, w = (torch.tensor(case[name], dtype=torch.float64) for name in ("features", "layer", "weight"))
    labels, values = torch.tensor(case["labels"]), []
    layer.requires_grad_(), w.requires_grad_()
    optimizer = torch.optim.SGD([layer, w], lr=case["rate"])
    for epoch in range(case["epochs"]):
        loss.set_epoch(epoch, case["epochs"])
        optimizer.zero_grad()
        value = loss.of_features(torch.tanh(x @ layer), w, labels)
        value.backward()
        optimizer.step()
        values.append(value.item())
    with torch.no_grad():
        right = loss.logits(torch.tanh(x @ layer), w).argmax(1) == labels
    return {"values": values, "weights": w.flatten().tolist(), "accuracy": right.double().mean().item()}


def result(exported, case):
    if "rate" in case:
        return trained(exported, case)
    loss = learned(exported, case["schedule"], len(case.get("weight", [])))
    loss.set_epoch(case["epoch"], case["epochs"])
    if "features" not in case:
        return {"theta": loss.theta}
    dtype = getattr(torch, case["dtype"])
    x = torch.tensor(case["features"], dtype=dtype, requires_grad=True)
    w = torch.tensor(case["weight"], dtype=dtype, requires_grad=True)
    labels = torch.tensor(case["labels"])
    if case["of"] == "features":
        value = loss.of_features(x, w, labels)
    else:
        value = loss(F.linear(F.normalize(x), F.normalize(w)), labels)
    value.backward()
    return {"loss": value.item(), "features": x.grad.flatten().tolist(), "weights": w.grad.flatten().tolist(),
            "theta": loss.theta}


def refused(exported, call):
    try:
        call(exported)
    except (ValueError, RuntimeError) as why:
        return f"{type(why).__name__}: {why}"
    return None


def results(directory):
    exported = module(f"{directory}/loss.py")
    with open(f"{directory}/cases.json") as file:
        cases = json.load(file)
    some = torch.zeros(2, 3), torch.tensor([0, 1])
    return {
        "cases": [result(exported, case) for case in cases],
        "without_scale": refused(exported, lambda module: learned(module)(*some)),
        "without_epoch": refused(exported, lambda module: learned(module, "means").cross_entropy(*some)),
        "beyond_the_last": refused(exported, lambda module: learned(module).set_epoch(3, 3)),
        "unknown": refused(exported, lambda module: learned(module, "best")),
        "without_counts": refused(exported, lambda module: module.LearnedLoss()),
        "half": half(exported),
    }


def half(exported):
    """The type of a loss of features in bf16, and whether it and its gradient are finite."""
    x = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    value = learned(exported).of_features(x, torch.randn(3, 6, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 0]))
    value.backward()
    return [str(value.dtype), bool(value.isfinite()) and bool(x.grad.isfinite().all())]


if __name__ == "__main__":
    print(json.dumps([results(directory) for directory in sys.argv[1:]]))
